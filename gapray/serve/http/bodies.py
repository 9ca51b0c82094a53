"""Bodies, whatever form they come in: multipart, URL-encoded or JSON -> (field, value) pairs in their order."""

from __future__ import annotations

import asyncio
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
from functools import partial
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from gapray.capture.azimuths import AzimuthOptions
from gapray.errors import InputError
from gapray.serve.jobs import Making, StillWish
from gapray.serve.settings import Limits
from gapray.serve.text import (
    LONGEST,
    number_of,
    refuse_long,
    refuse_nested,
    refuse_unusable,
    strict_json,
    usable,
    values_in,
)
from gapray.serve.uploads import PHOTO_FIELDS, decoded

NAMES = {
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "controlnet_scale": "control_scale",
    "reference_strength": "ip_scale",
    "output_format": "format",
    "controlnet_conditioning_scale": "control_scale",
    "ip_adapter_scale": "ip_scale",
}
"""Names of vLLM-Omni and of the prototype -> ours."""
MAKING = frozenset(Making.model_fields) - {"still"}
AZIMUTH_FIELDS = frozenset(
    {"azimuths", "azimuths_deg", "front", "allow_missing", "direction", "names", "closing_frame"}
)
STILL = {"n": "count", "output_compression": "quality"}
"""Names of the Images API -> ours."""
ONCE = (
    MAKING
    | frozenset(StillWish.model_fields)
    | frozenset(STILL)
    | (AZIMUTH_FIELDS - {"azimuths", "azimuths_deg"})
    | {"size", "model", "webhook", "webhook_url", "package"}
)
"""Fields that have one value."""
MOST_IGNORED = 20
"""Fields that are named as ignored."""
_SIZE = re.compile(r"([0-9]{1,6})[xX]([0-9]{1,6})")
_FILE_NAME = re.compile(r";\s*filename\*?(?:\d+\*?)?\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^;]*)", re.IGNORECASE)
"""The parameters ``filename``, ``filename*`` and ``filename*0`` of a Content-Disposition."""
_FILE_FIELDS = PHOTO_FIELDS | {"video"}
_STEP = 2**18
"""Bytes that are decoded at once."""
_READING = ThreadPoolExecutor(4, "bodies")


@dataclass(frozen=True)
class Body:
    """A request's fields."""

    fields: tuple[tuple[str, Any], ...]
    """A value is a (file name, bytes) pair, a text, or JSON data."""

    def last(self, *names: str) -> Any:
        """The last value that is not empty of any of these fields."""
        found = [value for name, value in self.fields if name in names and value not in (None, "")]
        return found[-1] if found else None

    def text(self, *names: str) -> str | None:
        """As `last`, of a field that must be text.

        Raises:
            InputError: `request.invalid`.
        """
        value = self.last(*names)
        if value is not None and not isinstance(value, str):
            raise InputError("request.invalid", f"{names[0]} must be text")
        return value

    def digest(self, *asked: str) -> str:
        """Hash of everything in it: tells two requests with one idempotency key apart.

        Args:
            asked: What is asked for, beside the fields: which API, and what it shall make.
        """
        total = hashlib.sha256()
        for part in [list(asked), *([name, *_hashable(value)] for name, value in self.fields)]:
            # JSON shows where each part ends: no two different lists are one text.
            total.update(json.dumps(part, sort_keys=True).encode() + b"\n")
        return total.hexdigest()


def _hashable(value: Any) -> tuple[Any, ...]:
    """A field's value as JSON: of a file its name, which may say the photo's angle, and the hash of its bytes."""
    if isinstance(value, tuple):
        return ("file", value[0], hashlib.sha256(value[1]).hexdigest())
    return ("value", _shortened(value))


def _shortened(value: Any) -> Any:
    """JSON data with hashes for pictures in it: hashing lets other threads run, and writing JSON does not."""
    if isinstance(value, str) and len(value) > LONGEST:
        return hashlib.sha256(value.encode()).hexdigest()
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return {name: _shortened(item) for name, item in value.items()} if isinstance(value, dict) else value


async def read_body(request: Request, limits: Limits) -> Body:
    """A request's fields.

    Raises:
        InputError: `request.invalid`, `request.unsupported_media` or `request.too_large`.
    """
    _refuse_encoded(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = await (_form if kind.startswith("multipart/") else _urlencoded)(request, limits)
        for name, value in body.fields:
            refuse_unusable(name, value)
    elif kind in ("application/json", "text/json") or kind.endswith("+json"):
        body = Body(tuple(_members(await read_json(request, limits))))
    else:
        raise InputError("request.unsupported_media", f"content type {kind[:80] or 'none'!r}; send multipart or JSON")
    refuse_long_texts(body.fields, beside=_FILE_FIELDS | {"extra_body"})  # whose members are fields too
    return _once(body)


def refuse_long_texts(fields: Iterable[tuple[str, Any]], *, beside: Collection[str]) -> None:
    """Refuse texts longer than any field takes, but in fields that may hold pictures.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    for name, value in fields:
        if name.partition("[")[0] not in beside:
            refuse_long(name, value)


def _refuse_encoded(request: Request) -> None:
    """Refuse a compressed body: a small one could hold any number of bytes."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise InputError("request.unsupported_media", f"the body is encoded as {encoding[:40]!r}; send it as it is")


def _once(body: Body) -> Body:
    """The body, when no field that has one value comes with two.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    said: dict[str, Any] = {}
    for name, value in body.fields:
        if name in ONCE and value not in (None, "") and said.setdefault(name, value) != value:
            raise InputError("request.invalid", f"{name[:60]} comes twice, with different values")
    return body


async def _form(request: Request, limits: Limits) -> Body:
    found: list[tuple[str, Any]] = []
    least: dict[str, Any] = {"max_fields": limits.fields, "max_part_size": limits.body_bytes}
    try:
        async with aclosing(request.stream()) as stream:
            form = await _PhotoParser(request.headers, stream, max_files=limits.images + 1, **least).parse()
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                found.append((name, (usable(plain_words(value.filename or "")), await _content(value))))
            else:
                found.append((name, value))
        await form.close()
    except InputError:
        raise
    except MultiPartException as error:
        raise InputError("request.invalid", error.message) from error
    except (ValueError, KeyError, AssertionError, UnicodeError) as error:
        raise InputError("request.invalid", f"the form cannot be read: {type(error).__name__}") from error
    return Body(tuple(_named(found)))


async def _urlencoded(request: Request, limits: Limits) -> Body:
    """Fields of a page's simplest form (URL standard, section 5.1), decoded off the event loop."""
    data = await _kept(request, "form", limits.json_bytes)
    found = await in_turn(request, _pairs, data, limits.fields)
    return Body(tuple(_named(found)))


def _pairs(data: bytearray, most: int) -> list[tuple[str, str]]:
    if data.count(b"&") >= most:
        raise InputError("request.invalid", f"Too many fields. Maximum number of fields is {most}.")
    named = (part.partition(b"=") for part in data.split(b"&") if part)
    return [(_unquoted(name), _unquoted(value)) for name, _, value in named]


def _unquoted(text: bytearray) -> str:
    """Text without percent-encoding, decoded in steps between which other threads run."""
    found, start = bytearray(), 0
    while start < len(text):
        end = start + _STEP
        end += max(0, text.rfind(b"%", end - 2, end) + 3 - end)  # behind what a percent sign begins
        found += unquote_to_bytes(bytes(text[start:end].replace(b"+", b" ")))
        start = end
    return found.decode(errors="replace")


async def _content(file: UploadFile) -> bytes:
    data = await file.read()
    if file.headers.get("content-transfer-encoding", "").strip().lower() == "base64":
        return decoded(data.decode("latin-1"))
    return data


class _PhotoParser(MultiPartParser):
    """Starlette's parser of multipart bodies, which also knows files by other signs than a plain ``filename``."""

    def on_headers_finished(self) -> None:
        """Take the name of ``filename*``, which the library leaves unread."""
        part = self._current_part
        said = (part.content_disposition or b"").decode("latin-1")
        if (name := extended_name(said)) is not None:
            plain = re.sub(r"[\x00-\x1f\x7f\"\\]", "_", name).encode(errors="replace")
            part.content_disposition = _FILE_NAME.sub("", said).encode("latin-1") + b'; filename="' + plain + b'"'
        super().on_headers_finished()

    def on_part_end(self) -> None:
        """Make a file of bytes that nobody named: no photo is text in UTF-8, and every other way to send one is."""
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
    """The ``filename*`` of a Content-Disposition (RFC 5987, RFC 2231), which some clients send alone or beside a poorer one."""
    message = Message()
    try:
        message["content-disposition"] = disposition
        found = [value for name, value in message.get_params([], "content-disposition") if name.lower() == "filename"]
        said = next((value for value in found if isinstance(value, tuple)), None)
        return None if said is None else collapse_rfc2231_value(said).strip('"')
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def plain_words(name: str) -> str:
    """A file name without the encoded words of RFC 2047, as .NET's and Java's clients write them."""
    if "=?" not in name:
        return name
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, LookupError, ValueError):
        return name


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """A JSON object. It is parsed and checked off the event loop, because either takes as long as the client likes.

    Raises:
        InputError: `request.invalid`, or `request.too_large`.
    """
    _refuse_encoded(request)
    data = await _kept(request, "JSON", limits.json_bytes, limits.json_values)
    found: dict[str, Any] = await in_turn(request, _object_of, data)
    return found


async def _kept(request: Request, what: str, most_bytes: int, most_values: int | None = None) -> bytearray:
    """A body within these limits. The rest of one beyond them is read and thrown away: most clients read no answer before they have sent all.

    Raises:
        InputError: `request.invalid`, or `request.too_large`.
    """
    data, values, wrong = bytearray(), 1, None
    async for part in request.stream():
        if wrong is not None:
            continue
        data += part
        values += values_in(part)
        if len(data) > most_bytes:
            wrong = InputError("request.too_large", f"the {what} is larger than {most_bytes} bytes")
        elif most_values is not None and values > most_values:
            wrong = InputError("request.invalid", f"the body holds more than {most_values} values")
        if wrong is not None:
            data.clear()
    if wrong is not None:
        raise wrong
    return data


async def in_turn(request: Request, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Something that reads all of a body, off the event loop, and one at a time of each key.

    C code over a large text lets no other thread run for up to 0.2 s: several at once would hold the event loop up one after the
    other, and one key's bodies would take all the threads.
    """
    async with request.app.state.places.turn(request.scope):
        return await asyncio.get_running_loop().run_in_executor(_READING, partial(function, *args, **named))


def _object_of(data: bytearray) -> dict[str, Any]:
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


def _members(value: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    extra = value.get("extra_body")  # SGLang's clients nest what OpenAI's SDK does not know
    return _named([*value.items(), *(extra.items() if isinstance(extra, dict) else ())])


def _named(items: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    for name, value in items:
        yield NAMES.get(name, name), value


def making_of(body: Body, *, product_id: str | None = None) -> Making:
    """What a request asks for.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    values: dict[str, Any] = {
        name: value
        for name, value in body.fields
        if name in MAKING and value not in (None, "") and not isinstance(value, tuple)
    }
    size = body.text("size")
    if size and size != "auto":
        sides = _SIZE.fullmatch(size)
        if sides is None:
            raise InputError("request.invalid", f"size {size[:40]!r} is not of the form 512x512")
        values["width"], values["height"] = int(sides[1]), int(sides[2])
    if product_id is not None:
        values.setdefault("product_id", product_id)
    try:
        making = Making.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from error
    from gapray.capture.discover import PRODUCT_ID

    if PRODUCT_ID.fullmatch(making.product_id) is None:
        raise InputError("capture.invalid_product_id", f"{making.product_id[:80]!r} cannot be a product id")
    return making


def still_of(body: Body) -> StillWish:
    """What a request asks for of stills alone.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    named = [(STILL.get(name, name), value) for name, value in body.fields]
    values = {
        name: value for name, value in named if name in StillWish.model_fields and value not in (None, "", "auto")
    }
    try:
        return StillWish.model_validate(values)
    except ValidationError as error:
        sent = {field: name for name, field in STILL.items() if body.last(name) is not None}
        raise _invalid(error, sent) from error


def _invalid(error: ValidationError, sent: Mapping[str, str] = MappingProxyType({})) -> InputError:
    """What is wrong with the first field that is, by the name under which it was sent (`sent`: our name -> the client's)."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "body"
    return InputError("request.invalid", f"{sent.get(name, name)}: {first['msg']}")


def azimuths_of(body: Body) -> list[float] | None:
    """``azimuths``: repeated, a JSON list, or numbers with commas.

    Raises:
        InputError: `request.invalid`.
    """
    values: list[Any] = [value for name, value in body.fields if name.partition("[")[0] in ("azimuths", "azimuths_deg")]
    if not values:
        return None
    try:
        flat: list[Any] = []
        for value in values:
            listed = json.loads(value) if isinstance(value, str) and value.strip().startswith("[") else value
            flat += listed if isinstance(listed, list) else str(listed).split(",")
        found = [number_of(value) for value in flat]
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError("request.invalid", "azimuths must be numbers of degrees") from error
    if not all(abs(one) < 1e6 for one in found):
        raise InputError("request.invalid", "azimuths must be numbers of degrees")
    return [one % 360.0 for one in found]


def options_of(body: Body) -> AzimuthOptions:
    """Direction, front photo, missing views, and how names are read.

    Raises:
        InputError: `request.invalid`.
    """
    direction = body.text("direction") or "ccw"
    front = body.last("front")
    try:
        front = 0 if front is None else int(front if isinstance(front, str) else number_of(front))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("request.invalid", "front must be a whole number") from error
    if direction not in ("ccw", "cw"):
        raise InputError("request.invalid", "direction must be ccw or cw")
    missing = str(body.last("allow_missing") or "").lower() in ("1", "true", "yes")
    return AzimuthOptions(
        direction="cw" if direction == "cw" else "ccw",
        front=front,
        allow_missing=missing,
        names=cast("Any", _choice(body, "names", ("auto", "degrees", "index", "order"))),
        closing_frame=cast("Any", _choice(body, "closing_frame", ("auto", "drop", "keep"))),
    )


def _choice(body: Body, name: str, choices: tuple[str, ...]) -> str:
    """A field that takes one of some words; the first of them where it did not come."""
    value = body.text(name) or choices[0]
    if value not in choices:
        raise InputError("request.invalid", f"{name} must be one of {', '.join(choices)}")
    return value


def ignored_in(body: Body, known: Sequence[str], *, making: Set[str] = MAKING | {"size"}) -> list[str]:
    """Fields that nothing here reads: said in the answer, so that one that is misspelt or has no effect is noticed.

    Args:
        body: What came.
        known: Fields that are read beside photos, azimuths and `making`.
        making: Fields of `Making` that have an effect on what is asked for.
    """
    names = {name.partition("[")[0] for name, _ in body.fields}
    read = making | PHOTO_FIELDS | AZIMUTH_FIELDS | set(known)
    return sorted(name[:60] for name in names - read)[:MOST_IGNORED]
