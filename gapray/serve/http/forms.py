"""Reads the fields of multipart and URL-encoded forms."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from contextlib import aclosing
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from gapray.errors import InputError
from gapray.serve.base64_forms import decode_base64
from gapray.serve.http.arriving import read_limited
from gapray.serve.http.fields import FILE_FIELDS, Body
from gapray.serve.http.places import run_per_key
from gapray.serve.settings import Limits
from gapray.serve.text import MAX_TEXT_LENGTH, escaped, without_unusable

_FILE_NAME = re.compile(r";\s*filename\*?(?:\d+\*?)?\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^;]*)", re.IGNORECASE)
"""The parameters ``filename``, ``filename*`` and ``filename*0`` of a Content-Disposition."""
_HEADER_BYTES, _HEADER_PARAMETERS = 4096, 32
"""Maximum length and number of semicolons of a header with parameters. A file name of 255 characters of UTF-8 takes up to 3,060 bytes
percent-encoded."""
_STEP = 2**18
"""Bytes that are decoded in one call of C code, during which no other thread runs."""


async def read_multipart(request: Request, limits: Limits) -> Body:
    """Read the parts of a multipart form.

    Raises:
        InputError: `request.invalid` or `request.too_large`.
    """
    _refuse_long_header("Content-Type", request.headers["content-type"].encode("latin-1"))
    options: dict[str, Any] = {"max_fields": limits.fields, "max_part_size": limits.body_bytes}
    try:
        async with aclosing(request.stream()) as stream:
            try:
                form = await _PhotoParser(request.headers, stream, max_files=limits.images + 1, **options).parse()
            except (InputError, MultiPartException):
                async for _ in stream:
                    pass  # most clients read no answer before they have sent everything
                raise
        sent = [
            (name, (value.filename or "", value.headers.get("content-transfer-encoding", ""), await value.read()))
            if isinstance(value, UploadFile)
            else (name, value)
            for name, value in form.multi_items()
        ]
        await form.close()
        fields = await run_per_key(request, _decode_files, sent)
    except InputError:
        raise
    except MultiPartException as error:
        raise InputError("request.invalid", error.message) from error
    except (ValueError, KeyError, AssertionError, UnicodeError) as error:
        raise InputError("request.invalid", f"the form cannot be read: {type(error).__name__}") from error
    return Body(tuple(fields))


def _decode_files(sent: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Decode the names of files, and their bytes where the part's content-transfer-encoding is base64."""
    fields: list[tuple[str, Any]] = []
    for name, value in sent:
        if isinstance(value, tuple):
            file_name, encoding, data = value
            if encoding.strip().lower() == "base64":
                data = decode_base64(data.decode("latin-1"))
            fields.append((name, (without_unusable(decode_encoded_words(file_name)), data)))
        else:
            fields.append((name, value))
    return fields


def _refuse_long_header(name: str, value: bytes) -> None:
    """Refuse a header with parameters that is too long to be parsed on the event loop: `email` takes quadratic time.

    Raises:
        InputError: `request.invalid`.
    """
    if len(value) > _HEADER_BYTES or value.count(b";") > _HEADER_PARAMETERS:
        raise InputError(
            "request.invalid",
            f"a {name} has {len(value)} bytes and {value.count(b';')} parameters; at most {_HEADER_BYTES} and "
            f"{_HEADER_PARAMETERS} are read",
        )


async def read_urlencoded(request: Request, limits: Limits) -> Body:
    """Read the fields of a URL-encoded form (URL standard, section 5.1), decoding them off the event loop."""
    data = await read_limited(request, "form", limits.json_bytes)
    fields = await run_per_key(request, _split_pairs, data, limits.fields)
    return Body(tuple(fields))


def _split_pairs(data: bytearray, max_fields: int) -> list[tuple[str, str]]:
    if data.count(b"&") >= max_fields:
        raise InputError("request.invalid", f"Too many fields. Maximum number of fields is {max_fields}.")
    pairs = (part.partition(b"=") for part in data.split(b"&") if part)
    return [(_unquote(name), _unquote(value)) for name, _, value in pairs]


def _unquote(text: bytearray) -> str:
    """Decode percent-encoded text, in slices between which other threads can run."""
    decoded, start = bytearray(), 0
    while start < len(text):
        end = start + _STEP
        end += max(0, text.rfind(b"%", end - 2, end) + 3 - end)  # do not split a percent-encoded byte
        decoded += unquote_to_bytes(bytes(text[start:end].replace(b"+", b" ")))
        start = end
    return decoded.decode(errors="replace")


class _PhotoParser(MultiPartParser):
    """Starlette's multipart parser, extended to recognise files without a plain ``filename``, and with limits on texts."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Refuse a text that is too long before it is complete."""
        part = self._current_part
        is_text = part.file is None and part.field_name.partition("[")[0] not in FILE_FIELDS
        if is_text and len(part.data) + end - start > 4 * MAX_TEXT_LENGTH:  # a character has up to four bytes in UTF-8
            name = escaped(part.field_name[:60])
            raise InputError("request.invalid", f"{name} holds more than {MAX_TEXT_LENGTH} characters")
        super().on_part_data(data, start, end)

    def on_headers_finished(self) -> None:
        """Read the file name from ``filename*``, which Starlette ignores."""
        part = self._current_part
        _refuse_long_header("Content-Disposition", part.content_disposition or b"")
        disposition = (part.content_disposition or b"").decode("latin-1")
        if (name := extended_name(disposition)) is not None:
            plain = re.sub(r"[\x00-\x1f\x7f\"\\]", "_", name).encode(errors="replace")
            part.content_disposition = (
                _FILE_NAME.sub("", disposition).encode("latin-1") + b'; filename="' + plain + b'"'
            )
        super().on_headers_finished()

    def on_part_end(self) -> None:
        """Treat a part without a file name as a file if it is not UTF-8 text, which URLs and base64 always are."""
        part = self._current_part
        if part.file is None and part.field_name.partition("[")[0] in FILE_FIELDS and not _is_text(part.data):
            self.items.append((part.field_name, UploadFile(io.BytesIO(part.data), filename="")))
            return
        super().on_part_end()


def _is_text(data: bytearray) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def extended_name(disposition: str) -> str | None:
    """Return the ``filename*`` of a Content-Disposition (RFC 5987, RFC 2231), or None.

    Some clients send it instead of ``filename``, or together with a less precise one.
    """
    message = Message()
    try:
        message["content-disposition"] = disposition
        names = [value for name, value in message.get_params([], "content-disposition") if name.lower() == "filename"]
        extended = next((value for value in names if isinstance(value, tuple)), None)
        return None if extended is None else collapse_rfc2231_value(extended).strip('"')
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def decode_encoded_words(name: str) -> str:
    """Decode a file name written in RFC 2047 encoded words, as .NET's and Java's clients do."""
    if "=?" not in name:
        return name
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, LookupError, ValueError):
        return name
