"""Parses request bodies (multipart, URL-encoded or JSON) into (field, value) pairs, and those into parameters."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import collapse_rfc2231_value
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from gapray.capture.azimuths import AzimuthOptions
from gapray.errors import InputError
from gapray.serve.base64_forms import decode_base64
from gapray.serve.incoming import MAX_IGNORED, PHOTO_FIELDS, fields_in_order
from gapray.serve.jobs import GenerationParams, StillParams
from gapray.serve.settings import Limits
from gapray.serve.text import (
    MAX_TEXT_LENGTH,
    MAX_VALUES,
    count_values,
    escaped,
    parse_number,
    refuse_long,
    refuse_many_values,
    refuse_nested,
    refuse_unusable,
    strict_json,
    without_unusable,
)
from gapray.serve.threads import in_thread

FIELD_ALIASES = {
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "controlnet_scale": "control_scale",
    "reference_strength": "ip_scale",
    "output_format": "format",
    "controlnet_conditioning_scale": "control_scale",
    "ip_adapter_scale": "ip_scale",
}
"""Field names of vLLM-Omni and of the prototype -> fields of `GenerationParams`."""
PARAM_FIELDS = frozenset(GenerationParams.model_fields) - {"still"}
AZIMUTH_FIELDS = frozenset(
    {"azimuths", "azimuths_deg", "front", "allow_missing", "direction", "names", "closing_frame"}
)
STILL_ALIASES = {"n": "count", "output_compression": "quality"}
"""Field names of the Images API -> fields of `StillParams`."""
SINGLE_VALUE_FIELDS = (
    PARAM_FIELDS
    | frozenset(StillParams.model_fields)
    | frozenset(STILL_ALIASES)
    | (AZIMUTH_FIELDS - {"azimuths", "azimuths_deg"})
    | {"size", "model", "webhook", "webhook_url", "package"}
)
"""Fields that may have one value only."""
_EMPTY: tuple[Any, ...] = (None, "", [])
"""Values that mean that a field was not sent."""
_AZIMUTH_LISTS = ("azimuths", "azimuths_deg")
_SIZE = re.compile(r"([0-9]{1,6})[xX]([0-9]{1,6})")
_FILE_NAME = re.compile(r";\s*filename\*?(?:\d+\*?)?\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^;]*)", re.IGNORECASE)
"""The parameters ``filename``, ``filename*`` and ``filename*0`` of a Content-Disposition."""
_FILE_FIELDS = PHOTO_FIELDS | {"video"}
_HEADER_BYTES, _HEADER_PARAMETERS = 4096, 32
"""Maximum length and number of semicolons of a header with parameters. A file name of 255 characters of UTF-8 takes up to 3,060 bytes
percent-encoded."""
_STEP = 2**18
"""Bytes that are decoded in one call of C code, during which no other thread runs."""
_BODY_THREADS = ThreadPoolExecutor(4, "bodies")


@dataclass(frozen=True)
class Body:
    """The fields of a request."""

    fields: tuple[tuple[str, Any], ...]
    """Names and values in their order. A value is a (file name, bytes) pair, a text, or JSON data."""

    def last(self, *names: str) -> Any:
        """Return the last non-empty value of any of these fields; None if there is none."""
        values = [value for name, value in self.fields if name in names and value not in (None, "")]
        return values[-1] if values else None

    def text(self, *names: str) -> str | None:
        """Return the last non-empty value of any of these fields, which must be text; None if there is none.

        Raises:
            InputError: `request.invalid` if it is not text.
        """
        value = self.last(*names)
        if value is not None and not isinstance(value, str):
            raise InputError("request.invalid", f"{names[0]} must be text")
        return value

    def digest(self, *target: str) -> str:
        """Return a hash of the whole request, which tells apart two requests with the same idempotency key.

        Args:
            target: What was requested besides the fields: the API, and the kind of job.
        """
        total = hashlib.sha256()
        for part in [list(target), *([name, *_hashable(value)] for name, value in self.fields)]:
            # JSON delimits the parts, so that different lists never give the same text.
            total.update(json.dumps(part, sort_keys=True).encode() + b"\n")
        return total.hexdigest()


def _hashable(value: Any) -> tuple[Any, ...]:
    """Return a field's value as JSON data: for a file its name, which may state the angle, and the hash of its bytes."""
    if isinstance(value, tuple):
        return ("file", value[0], hashlib.sha256(value[1]).hexdigest())
    return ("value", _with_hashes(value))


def _with_hashes(value: Any) -> Any:
    """Replace long texts in JSON data (images) by their hashes: hashing lets other threads run, writing JSON does not."""
    if isinstance(value, str) and len(value) > MAX_TEXT_LENGTH:
        return hashlib.sha256(value.encode()).hexdigest()
    if isinstance(value, list):
        return [_with_hashes(item) for item in value]
    return {name: _with_hashes(item) for name, item in value.items()} if isinstance(value, dict) else value


async def read_body(request: Request, limits: Limits) -> Body:
    """Read the fields of a multipart, URL-encoded or JSON request.

    The members of `extra_body`, in which SGLang's clients send fields that OpenAI's SDK does not know, become fields of their own.

    Raises:
        InputError: `request.invalid`, `request.unsupported_media` or `request.too_large`.
    """
    _refuse_encoded(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = await (_read_multipart if kind.startswith("multipart/") else _read_urlencoded)(request, limits)
        await run_per_key(request, _refuse_unusable_fields, body)
    elif kind in ("application/json", "text/json") or kind.endswith("+json"):
        body = Body(tuple((await read_json(request, limits)).items()))
    else:
        raise InputError("request.unsupported_media", f"content type {kind[:80] or 'none'!r}; send multipart or JSON")
    refuse_unknown_query(request)
    if any(name == "extra_body" for name, _ in body.fields):
        body = await run_per_key(request, _with_extra_body, body)
    body = Body(tuple(rename_aliases(body.fields)))
    refuse_long_texts(body.fields, exempt=_FILE_FIELDS)
    return refuse_repeated(body)


def refuse_unknown_query(request: Request) -> None:
    """Refuse query parameters that the endpoint does not define, because they would have no effect.

    Raises:
        InputError: `request.invalid`, naming them.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        shown = ", ".join(escaped(name[:60]) for name in unknown[:MAX_IGNORED])
        advice = "" if request.method in ("GET", "HEAD") else "; send them in the body"
        raise InputError("request.invalid", f"query parameters that are not taken here: {shown}{advice}")


def refuse_long_texts(fields: Iterable[tuple[str, Any]], *, exempt: Collection[str]) -> None:
    """Refuse texts of more than `MAX_TEXT_LENGTH` characters, except in fields that may hold images.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    for name, value in fields:
        if name.partition("[")[0] not in exempt:
            refuse_long(name, value)


def _refuse_encoded(request: Request) -> None:
    """Refuse a compressed body, which could expand to any size."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise InputError("request.unsupported_media", f"the body is encoded as {encoding[:40]!r}; send it as it is")


def refuse_repeated(body: Body) -> Body:
    """Return the body if no single-valued field has two different values.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    first_values: dict[str, Any] = {}
    for name, value in body.fields:
        if name in SINGLE_VALUE_FIELDS and value not in (None, "") and first_values.setdefault(name, value) != value:
            raise InputError("request.invalid", f"{name[:60]} comes twice, with different values")
    return body


async def _read_multipart(request: Request, limits: Limits) -> Body:
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


def _refuse_unusable_fields(body: Body) -> None:
    for name, value in body.fields:
        refuse_unusable(name, value)


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


async def _read_urlencoded(request: Request, limits: Limits) -> Body:
    """Read the fields of a URL-encoded form (URL standard, section 5.1), decoding them off the event loop."""
    data = await _read_limited(request, "form", limits.json_bytes)
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
        is_text = part.file is None and part.field_name.partition("[")[0] not in _FILE_FIELDS
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
        if part.file is None and part.field_name.partition("[")[0] in _FILE_FIELDS and not _is_text(part.data):
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


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """Read a JSON object. It is parsed and checked off the event loop, because both can take long.

    Raises:
        InputError: `request.invalid` or `request.too_large`.
    """
    _refuse_encoded(request)
    data = await _read_limited(request, "JSON", limits.json_bytes, limits.json_values)
    members: dict[str, Any] = await run_per_key(request, _parse_object, data)
    return members


async def _read_limited(request: Request, what: str, max_bytes: int, max_values: int | None = None) -> bytearray:
    """Read a body within limits.

    The rest of a body beyond them is read and discarded, because most clients read no answer before they have sent everything.

    Raises:
        InputError: `request.invalid` or `request.too_large`.
    """
    data, values, error = bytearray(), 1, None
    async for part in request.stream():
        if error is not None:
            continue
        data += part
        values += count_values(part)
        if len(data) > max_bytes:
            error = InputError("request.too_large", f"the {what} is larger than {max_bytes} bytes")
        elif max_values is not None and values > max_values:
            error = InputError("request.invalid", f"the body holds more than {max_values} values")
        if error is not None:
            data.clear()
    if error is not None:
        raise error
    return data


async def run_per_key(request: Request, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a function over a whole body in a thread, one at a time for each key.

    C code over a large text keeps other threads from running for up to 0.2 s. Several such calls at once would block the event
    loop one after the other, and the bodies of one key would occupy all threads.
    """
    async with request.app.state.slots.body_lock(request.scope):
        return await in_thread(_BODY_THREADS, function, *args, **kwargs)


def _parse_object(data: bytearray) -> dict[str, Any]:
    """Parse and check a JSON object."""
    try:
        value = strict_json(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError("request.invalid", f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise InputError("request.invalid", "the body must be a JSON object")
    refuse_nested("the body", value)
    for name, member in value.items():
        refuse_unusable(name, member)
    return value


def _with_extra_body(body: Body) -> Body:
    """Replace `extra_body`, an object or the JSON text of one, by its members.

    Raises:
        InputError: `request.invalid` if it is anything else.
    """
    fields: list[tuple[str, Any]] = []
    for name, value in body.fields:
        if name != "extra_body":
            fields.append((name, value))
        elif value not in _EMPTY:
            fields += _object_in(name, value).items()
    return Body(tuple(fields))


def _object_in(name: str, value: Any) -> dict[str, Any]:
    """Return the JSON object in a field's value, which may be its text."""
    if isinstance(value, str):
        try:
            refuse_many_values(name, value.encode(errors="replace"), MAX_VALUES)
            value = strict_json(value)
        except (ValueError, RecursionError) as error:
            raise InputError("request.invalid", f"{name} is no JSON: {str(error)[:200]}") from error
        refuse_nested(name, value)
        refuse_unusable(name, value)
    if not isinstance(value, dict):
        raise InputError("request.invalid", f"{name} must be a JSON object")
    return value


def rename_aliases(items: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    """Replace the names that other APIs use for fields of `GenerationParams`."""
    for name, value in items:
        yield FIELD_ALIASES.get(name, name), value


def parse_params(body: Body, *, product_id: str | None = None) -> GenerationParams:
    """Validate the generation parameters of a request.

    Args:
        body: The request's fields.
        product_id: Default product id.

    Raises:
        InputError: `request.invalid`, naming the field, or `capture.invalid_product_id`.
    """
    values: dict[str, Any] = {
        name: value
        for name, value in body.fields
        if name in PARAM_FIELDS and value not in (None, "") and not isinstance(value, tuple)
    }
    sides = _parse_size(body)
    if product_id is not None:
        values.setdefault("product_id", product_id)
    try:
        params = GenerationParams.model_validate(values)
        for name, side in sides.items():
            if getattr(params, name) not in (None, side):
                raise InputError("request.invalid", f"{name} is {getattr(params, name)}, and size says {side}")
        params = GenerationParams.model_validate(values | sides)
    except ValidationError as error:
        raise _invalid_field(error) from error
    from gapray.capture.discover import PRODUCT_ID

    if PRODUCT_ID.fullmatch(params.product_id) is None:
        raise InputError("capture.invalid_product_id", f"{params.product_id[:80]!r} cannot be a product id")
    return params


def _parse_size(body: Body) -> dict[str, int]:
    """Parse ``size`` into `width` and `height`; empty if the request states none."""
    size = body.text("size")
    if not size or size == "auto":
        return {}
    sides = _SIZE.fullmatch(size)
    if sides is None:
        raise InputError("request.invalid", f"size {size[:40]!r} is not of the form 512x512")
    return {"width": int(sides[1]), "height": int(sides[2])}


def parse_still_params(body: Body) -> StillParams:
    """Validate the parameters that only stills have.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    renamed = [(STILL_ALIASES.get(name, name), value) for name, value in body.fields]
    values = {
        name: value for name, value in renamed if name in StillParams.model_fields and value not in (None, "", "auto")
    }
    try:
        return StillParams.model_validate(values)
    except ValidationError as error:
        client_names = {field: name for name, field in STILL_ALIASES.items() if body.last(name) is not None}
        raise _invalid_field(error, client_names) from error


def _invalid_field(error: ValidationError, client_names: Mapping[str, str] = MappingProxyType({})) -> InputError:
    """Return an error for the first invalid field, under the client's name for it (`client_names`: field -> name)."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "body"
    return InputError("request.invalid", f"{client_names.get(name, name)}: {first['msg']}")


def parse_azimuths(body: Body) -> list[float] | None:
    """Parse ``azimuths``: a repeated field, a JSON list, or numbers separated by commas, semicolons or blanks.

    Returns:
        Azimuths in [0, 360) [degrees]; None if the request states none.

    Raises:
        InputError: `request.invalid`.
    """
    values: list[Any] = []
    for name in _AZIMUTH_LISTS:
        sent = [value for _, value in fields_in_order(body.fields, (name,))]
        values += sent if any(value not in _EMPTY for value in sent) else []
    if not values:
        return None
    try:
        flat: list[Any] = []
        for value in values:
            parsed = json.loads(value) if isinstance(value, str) and value.strip().startswith("[") else value
            flat += parsed if isinstance(parsed, list) else _split_numbers(str(parsed))
        azimuths = [parse_number(value) for value in flat]
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError("request.invalid", "azimuths must be numbers of degrees") from error
    if not all(abs(azimuth) < 1e6 for azimuth in azimuths):
        raise InputError("request.invalid", "azimuths must be numbers of degrees")
    return [azimuth % 360.0 for azimuth in azimuths]


def _split_numbers(text: str) -> list[str]:
    """Split numbers at semicolons, else at commas, else at blanks; blanks before a unit, as in ``45 deg``, separate nothing."""
    separator = next((mark for mark in ";," if mark in text), None)
    return text.split(separator) if separator else re.split(r"\s+(?=[-+\N{MINUS SIGN}\d])", text.strip())


def parse_azimuth_options(body: Body) -> AzimuthOptions:
    """Parse the options for reading azimuths: direction, front photo, missing views, and the meaning of file names.

    Raises:
        InputError: `request.invalid`.
    """
    direction = _choice(body, "direction", ("ccw", "cw"))
    front = body.last("front")
    try:
        front = 0 if front is None else int(front if isinstance(front, str) else parse_number(front))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("request.invalid", "front must be a whole number") from error
    missing = str(body.last("allow_missing") or "").lower() in ("1", "true", "yes")
    return AzimuthOptions(
        direction="cw" if direction == "cw" else "ccw",
        front=front,
        allow_missing=missing,
        names=cast("Any", _choice(body, "names", ("auto", "degrees", "index", "order"))),
        closing_frame=cast("Any", _choice(body, "closing_frame", ("auto", "drop", "keep"))),
    )


def _choice(body: Body, name: str, choices: tuple[str, ...]) -> str:
    """Return a field's value, which must be one of `choices` in any case; the first one if the field is missing."""
    value = (body.text(name) or choices[0]).lower()
    if value not in choices:
        raise InputError("request.invalid", f"{name} must be one of {', '.join(choices)}")
    return value


def ignored_fields(body: Body, known: Sequence[str], *, params: Set[str] = PARAM_FIELDS | {"size"}) -> list[str]:
    """Return the fields that have no effect; answers name them, so that misspelt fields are noticed.

    Args:
        body: The request's fields.
        known: Fields that have an effect, besides photos, azimuths and `params`.
        params: Fields of `GenerationParams` that have an effect on the requested job.
    """
    listed = PHOTO_FIELDS.union(_AZIMUTH_LISTS)  # only these may come with brackets
    names = {name for name, _ in body.fields if name.partition("[")[0] not in listed}
    effective = params | AZIMUTH_FIELDS | set(known)
    return sorted(name[:60] for name in names - effective)[:MAX_IGNORED]
