"""Normalises uploads: however clients send photos, they become a zip with a `capture.csv` of their azimuths.

Nothing here opens a path that a client named, and a client's file names are never used as such: they are only read for the
azimuth at their end, by the function that also reads the names of files in folders.
"""

from __future__ import annotations

import binascii
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from gapray.capture.azimuths import (
    AzimuthOptions,
    AzimuthsBy,
    Reading,
    in_folders,
    in_order,
    numbered,
    orient,
    read_names,
    refuse_gaps,
)
from gapray.capture.capture_set import CaptureSet
from gapray.capture.decode import check_photo
from gapray.capture.discover import DIRECTION_TITLES, DIRECTIONS, DiscoverOptions, discover
from gapray.capture.kinds import PHOTO_EXTENSIONS, counted
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import ArchiveLimits, read_bytes
from gapray.capture.tables import plain_title
from gapray.errors import InputError
from gapray.gap.manifest import ANGLES, agreed_azimuth, manifest_views
from gapray.serve.artifacts import Artifacts
from gapray.serve.jobs import JobInput, PhotoSource
from gapray.serve.scratch import scratch
from gapray.serve.settings import Limits
from gapray.serve.text import (
    MAX_VALUES,
    parse_number,
    refuse_long,
    refuse_many_values,
    refuse_nested,
    refuse_unusable,
    strict_json,
)

PHOTO_FIELDS = frozenset({"input_reference", "image_reference", "views", "view", "images", "image", "photos", "photo"})
"""Form fields and JSON members that hold photos, with or without trailing brackets."""
_URL_MEMBERS = ("image_url", "url", "reference_url", "image")
_DATA_MEMBERS = ("b64_json", "b64", "image_b64", "reference_b64", "data")
_NAME_MEMBERS = ("name", "file_name", "filename", "file")
_REFERENCES = ("reference", "reference_no_bg", "image", "photo", "rgb")
"""Members of a manifest's view that can hold its photo, best first; each also with the suffix `_b64` or `_url`."""
_MANIFEST_MEMBERS = frozenset(
    {"views", "asset_name", "key", "depth_scale", "depth_shift", "models", "azimuths_by", "warnings"}
)
"""Members of a manifest besides its direction: those that are read, and those that `gapray export` writes about its package."""
_EXTENSIONS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}
_PATH_LIKE = re.compile(r"^[\w./\\ :~-]{1,1024}\.[A-Za-z0-9]{2,5}$")
_ZIP_MAGIC, _EMPTY_ZIP_MAGIC = b"PK\x03\x04", b"PK\x05\x06"
_PATH_START = re.compile(r"^(?:[/\\]|\.{1,2}[/\\]|~[/\\]|[A-Za-z]:[/\\])")
_JPEG_START = "/9j/"
"""How every JPEG begins in base64: the only image format that begins like a path."""
_STEP = 2**18
"""Characters of base64 that are processed in one call of C code, during which no other thread runs: whole groups of four."""
_WHITE_SPACE = re.compile(r"[^\S ]+")
"""White space other than the space character."""
_PERCENT = {"%2B": "+", "%2F": "/", "%3D": "=", "%0D": "", "%0A": "", "%20": " "}
"""Percent-encoded characters that can occur in base64."""
_DATA_URI = re.compile(r"data:(?P<type>[^,]*),", re.IGNORECASE)
MAX_IGNORED = 20
"""Maximum number of ignored members that are named, of one object and in all."""
_MAX_FIELDS_NAMED = 12
"""Maximum number of fields named in an error message."""
_DEGREE_SIGN = re.compile(r"\s*(?:°|º|deg(?:rees?)?)$", re.IGNORECASE)
_LINE_WIDTHS = (60, 64, 72, 76)
"""Line lengths at which common encoders wrap base64 [characters]."""
_NAME_LENGTH = 1024
"""Characters at the end of a client's file name that are read."""
_INDEX = re.compile(r"\[([0-9]{1,6})\]")
_HOW_TO_NAME = (
    "In a request: names=degrees, names=index or names=order (the photos come in their order), closing_frame=drop or keep, "
    "or azimuths=0,45,…"
)
_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class IncomingPhoto:
    """A photo as a client sent it, or a zip of photos: its bytes, or a URL to fetch."""

    name: str = ""
    """The client's file name; only its trailing number is ever used."""
    data: bytes | None = None
    url: str | None = None
    azimuth_deg: float | None = None
    """Azimuth that the client gave with the photo, in [0, 360) [degrees]."""
    directions: tuple[str, ...] = ()
    """Directions of rotation that the client stated with the photo."""
    ignored: tuple[str, ...] = ()
    """Members beside the photo that have no effect."""


def fields_in_order(fields: Iterable[tuple[str, Any]], names: Collection[str]) -> list[tuple[str, Any]]:
    """Return the fields of some names in the order of their indices: ``views[0]`` before ``views[1]``, whichever came first.

    Args:
        fields: (field, value) pairs in the order of the body.
        names: Names without brackets.

    Raises:
        InputError: `request.invalid` if the indices of one name are not 0, 1, 2 …, each once, or if only some fields have one.
    """
    chosen = [field for field in fields if _base_name(field[0]) in names]
    in_order = {
        base: iter(_by_index(base, [field for field in chosen if _base_name(field[0]) == base]))
        for base in {_base_name(name) for name, _ in chosen}
    }
    return [next(in_order[_base_name(name)]) for name, _ in chosen]


def _base_name(name: str) -> str:
    return name.partition("[")[0]


def _by_index(base: str, fields: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Sort the fields of one name by the indices in their brackets; without indices they stay as they are."""
    indices = [_index_in(name) for name, _ in fields]
    stated = [index for index in indices if index is not None]
    if not stated:
        return fields
    if len(stated) < len(fields):
        raise InputError(
            "request.invalid", f"{base}: only some fields have an index in brackets; number all of them or none"
        )
    if sorted(stated) != list(range(len(stated))):
        raise InputError(
            "request.invalid",
            f"{base}: the numbers in brackets must be the indices 0, 1, 2 …, each once and without gaps; send angles in `azimuths`",
        )
    return [field for _, field in sorted(zip(stated, fields, strict=True), key=lambda pair: pair[0])]


def _index_in(name: str) -> int | None:
    """Return the index in a field's name; None for ``views``, ``views[]`` and ``views[image_url]``."""
    brackets = name[len(_base_name(name)) :]
    if (match := _INDEX.match(brackets)) is not None:
        return int(match[1])
    if brackets == "" or brackets.startswith("[]") or brackets[1:].partition("]")[0] in (*_URL_MEMBERS, *_DATA_MEMBERS):
        return None
    raise InputError("request.invalid", f"{name[:60]!r}: {brackets[:40]!r} is no index; send angles in `azimuths`")


def ignored_members(photos: Iterable[IncomingPhoto]) -> list[str]:
    """Return the names of the members beside photos that have no effect, such as ``views.rotate``."""
    return sorted({name for photo in photos for name in photo.ignored})[:MAX_IGNORED]


def photos_in_fields(values: Iterable[tuple[str, Any]], *, needed: bool = True) -> list[IncomingPhoto]:
    """Extract the photos from form fields or members of a JSON body.

    Args:
        values: (field, value) pairs in the order of the body. A value is a (file name, bytes) pair, a text, or JSON data.
        needed: Whether a body without photos is an error.

    Returns:
        The photos of all fields in `PHOTO_FIELDS`, in order.

    Raises:
        InputError: `request.invalid`, `request.path_refused` or `request.no_photos`, which names the fields of the request.
    """
    fields = list(values)
    photos = [
        replace(photo, ignored=tuple(f"{_base_name(name)}.{member}" for member in photo.ignored))
        for name, value in fields_in_order(fields, PHOTO_FIELDS)
        for photo in _photos_in(value)
    ]
    for photo in photos:
        refuse_long("a photo", [photo.name, photo.url])
    if needed and not photos:
        raise InputError("request.no_photos", f"the request holds no photo; {_describe_fields(fields)}")
    return photos


def _describe_fields(fields: Sequence[tuple[str, Any]]) -> str:
    """Name the fields of a request for an error message, those with files first."""
    files = Counter(name for name, value in fields if isinstance(value, tuple))
    names = [f"{name[:60]!r} ({count} file{'s' if count > 1 else ''})" for name, count in files.items()]
    names += [repr(name[:60]) for name in dict.fromkeys(name for name, _ in fields) if name not in files]
    if not names:
        return "no field came"
    more = f" and {len(names) - _MAX_FIELDS_NAMED} more" if len(names) > _MAX_FIELDS_NAMED else ""
    return f"fields that came: {', '.join(names[:_MAX_FIELDS_NAMED])}{more}"


def _photos_in(value: Any) -> list[IncomingPhoto]:
    """Extract the photos from a field's value."""
    if isinstance(value, tuple):
        name, data = value
        return [IncomingPhoto(name=name, data=data)]
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("[", "{", '"'):
            try:
                refuse_many_values("a photo field", text.encode(errors="replace"), MAX_VALUES)
                inner = strict_json(text)
            except (ValueError, RecursionError) as error:
                raise InputError("request.invalid", f"a photo field holds broken JSON: {error}") from error
            refuse_nested("a photo field", inner)
            refuse_unusable("a photo field", inner)
            return _photos_in(inner)
        return [_photo_from_text(text)] if text else []
    if isinstance(value, list):
        return [photo for item in value for photo in _photos_in(item)]
    if isinstance(value, dict):
        return _photos_in_object(value)
    raise InputError("request.invalid", f"a photo field holds a {type(value).__name__}")


def _photos_in_object(value: Mapping[str, Any]) -> list[IncomingPhoto]:
    """Extract a photo described by a JSON object, or several from an object with a member per azimuth."""
    sources = {name: value[name] for name in (*_URL_MEMBERS, *_DATA_MEMBERS) if value.get(name) not in (None, "")}
    if sources:
        inner, *others = sources.values()
        unused = _ignored_in(value, (*_URL_MEMBERS, *_DATA_MEMBERS, *_NAME_MEMBERS, *ANGLES))
        if any(other != inner for other in others):
            raise InputError(
                "request.invalid", f"a photo comes as {' and as '.join(sources)}, which differ: send one of them"
            )
        if isinstance(inner, dict):
            unused += tuple(f"{next(iter(sources))}.{name}" for name in _ignored_in(inner, ("url",)))
            inner = inner.get("url")
        if not isinstance(inner, str):
            raise InputError("request.invalid", "a photo's URL or data is no text")
        azimuth = _agreed_azimuth({name: _parse_degrees(value[name]) for name in ANGLES if value.get(name) is not None})
        photo = _photo_from_text(inner)
        name = next((value[member] for member in _NAME_MEMBERS if isinstance(value.get(member), str)), photo.name)
        return [replace(photo, name=name, azimuth_deg=azimuth, directions=_directions_in(value), ignored=unused)]
    if value and not any(name in value for name in (*ANGLES, *_NAME_MEMBERS)):
        return [_with_azimuth(photo, key) for key, item in value.items() for photo in _photos_in(item)]
    raise InputError("request.invalid", f"a photo needs one of {', '.join((*_URL_MEMBERS, *_DATA_MEMBERS))}")


def _ignored_in(members: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """Return the names of members that have no effect: not in `known`, and not a direction, which is compared."""
    unknown = (name for name, value in members.items() if name not in known and value is not None)
    return tuple(name[:60] for name in unknown if not _is_direction(name))[:MAX_IGNORED]


def _is_direction(name: str) -> bool:
    return plain_title(name) in DIRECTION_TITLES


def _directions_in(members: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the directions of rotation that members state; two if they contradict each other."""
    stated = [str(value)[:40] for name, value in members.items() if _is_direction(name) and value not in (None, "")]
    different = {DIRECTIONS.get(plain_title(value), value): value for value in stated}
    return tuple(different.values())[:2]


def _refuse_other_directions(photos: Iterable[IncomingPhoto], direction: str) -> None:
    """Refuse photos that came with another direction of rotation than the one in which azimuths are read.

    Raises:
        InputError: `request.invalid`.
    """
    stated = [value for photo in photos for value in photo.directions]
    other = [value for value in stated if DIRECTIONS.get(plain_title(value)) != direction]
    if other:
        raise InputError(
            "request.invalid",
            f"the photos come with the direction {other[0]!r}, and azimuths are read as {direction}: send direction=cw beside "
            "the photos if they grow clockwise, direction=ccw if counter-clockwise",
        )


def _with_azimuth(photo: IncomingPhoto, key: str) -> IncomingPhoto:
    """Return the photo with the azimuth that its key in an object states."""
    azimuths = {"the photo": photo.azimuth_deg, f"its key {key[:40]!r}": _parse_degrees(_DEGREE_SIGN.sub("", key))}
    return replace(photo, azimuth_deg=_agreed_azimuth(azimuths))


def _agreed_azimuth(azimuths: Mapping[str, float | None]) -> float | None:
    """Return the azimuth on which all sources agree [degrees]; None if none states one.

    Args:
        azimuths: Name of the source, for the message -> azimuth [degrees], or None.

    Raises:
        InputError: `request.invalid` if sources contradict each other.
    """
    try:
        return agreed_azimuth({name: degrees for name, degrees in azimuths.items() if degrees is not None})
    except ValueError as error:
        raise InputError("request.invalid", f"of one photo {error}: send one of both") from None


def _photo_from_text(text: str) -> IncomingPhoto:
    """Interpret a text as a URL, a data URI or plain base64; anything that looks like a path is refused."""
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", text):
        return IncomingPhoto(name=re.split(r"[?#]", text, maxsplit=1)[0].rpartition("/")[2], url=text)
    if (uri := _DATA_URI.match(text)) is not None:
        media_type, *parameters = (part.strip() for part in uri["type"].split(";"))
        if not any(part.lower() == "base64" for part in (media_type, *parameters)):
            raise InputError("request.invalid", "a data URI must hold base64")
        name = next(
            (part.partition("=")[2] for part in parameters if part.lower().startswith(("name=", "filename="))), ""
        )
        return IncomingPhoto(name=name, data=decode_base64(text[uri.end() :]))
    if text[:5].lower() == "data:":
        raise InputError("request.invalid", "a data URI must hold base64")
    # A path may consist of base64 characters only; it would then be reported as an unreadable photo.
    if _PATH_START.match(text) and not text.startswith(_JPEG_START):
        raise _path_refused(text)
    try:
        return IncomingPhoto(data=decode_base64(text))
    except InputError as error:
        if _PATH_LIKE.match(text) or text.startswith("file:"):
            raise _path_refused(text) from error
        raise


def _path_refused(text: str) -> InputError:
    return InputError("request.path_refused", f"{text[:80]!r} is a path; the server opens no paths")


def decode_base64(text: str) -> bytes:
    """Decode base64 in any form that clients send.

    Accepts both alphabets (RFC 4648, sections 4 and 5), with or without padding and line breaks, percent-encoded, or with
    spaces that a form decoder made of ``+``.

    Raises:
        InputError: `request.invalid`, which says what is wrong.
    """
    if (data := _decode_strict(text)) is not None:
        return data
    if "%" in text:
        for encoded, character in _PERCENT.items():
            text = text.replace(encoded, character).replace(encoded.lower(), character)
    text = _map_slices(lambda part: _WHITE_SPACE.sub("", part), text).strip()
    if " " in text and not re.search(r"[+_-]", text) and not _has_spaces_for_line_breaks(text):
        text = text.replace(" ", "+")
    plain = _map_slices(lambda part: part.replace(" ", "").translate(_URL_SAFE), text).rstrip("=")
    if (invalid := re.search(r"[^A-Za-z0-9+/]", plain)) is not None:
        raise InputError("request.invalid", f"not base64: {invalid.group()!r} at character {invalid.start() + 1}")
    if len(plain) % 4 == 1:
        raise InputError(
            "request.invalid", f"not base64: of {len(plain)} characters the last stands for less than a byte"
        )
    return _decode_strict(plain + "=" * (-len(plain) % 4)) or b""


def _map_slices(change: Callable[[str], str], text: str) -> str:
    """Apply a per-character change to a text in slices, between which other threads can run."""
    return "".join(change(text[start : start + _STEP]) for start in range(0, len(text), _STEP))


def _decode_strict(text: str) -> bytes | None:
    """Decode standard base64 with padding, as most clients send it, in slices between which other threads can run.

    Returns:
        The bytes; None if the text has any other form.
    """
    if not text.isascii() or 0 <= text.find("=") < len(text) - 2:
        return None
    data = io.BytesIO()
    try:
        for start in range(0, len(text), _STEP):
            data.write(binascii.a2b_base64(text[start : start + _STEP], strict_mode=True))
    except binascii.Error:
        return None
    return data.getvalue()


def _has_spaces_for_line_breaks(text: str) -> bool:
    """Whether the spaces replace line breaks, as in an unquoted ``$(base64 FILE)``: the lines then have equal lengths."""
    width, spaces = text.index(" "), text.count(" ")
    breaks = text[width :: width + 1]
    regular = width % 4 == 0 and len(breaks) == spaces and not breaks.strip(" ")
    return regular and (spaces > 1 or width in _LINE_WIDTHS)


def _parse_degrees(value: Any) -> float | None:
    """Return an angle in [0, 360) [degrees]; None for None."""
    if value is None:
        return None
    try:
        degrees = parse_number(value)
    except (TypeError, ValueError, OverflowError) as error:
        shown = repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"
        raise InputError("request.invalid", f"{shown} is no angle") from error
    if not abs(degrees) < 1e6:
        raise InputError("request.invalid", f"{degrees} is no angle")
    return degrees % 360.0


def photos_in_manifest(manifest: Any) -> list[IncomingPhoto]:
    """Extract the photos from a manifest in the prototype's format, as written by `gapray export --inline`.

    The format is ``{"views": {"000": {"reference_b64": …}}}``. Its depth maps are not used, because gapray computes its own,
    on one scale for all views. Photos of views without an angle have no azimuth.

    Raises:
        InputError: `request.invalid`, `request.no_photos` or `request.path_refused`.
    """
    refuse_unusable("the manifest", manifest)
    try:
        views, by = manifest_views(manifest)
    except ValueError as error:
        raise InputError("request.invalid", f"the manifest: {error}") from error
    photos = []
    names = [name + suffix for name in _REFERENCES for suffix in ("_b64", "_url", "")]
    unused, stated = _ignored_in(manifest, _MANIFEST_MEMBERS), _directions_in(manifest)
    for azimuth, members in views:
        value = next((members[name] for name in names if isinstance(members.get(name), str) and members[name]), None)
        if value is None:
            raise InputError("request.no_photos", f"view {azimuth:g} has no reference photo")
        photos.append(
            replace(
                _photo_from_text(value.strip()),
                azimuth_deg=None if by == "order" else azimuth,
                directions=(*stated, *_directions_in(members)),
                ignored=tuple(f"manifest.{name}" for name in (*unused, *_ignored_in(members, (*names, *ANGLES)))),
            )
        )
    return photos


def refuse_two_sources(fields: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a request with several sources of photos, because all but one would be ignored.

    Args:
        fields: Fields of the request and their values.
        names: Fields that are a source each; all fields in `PHOTO_FIELDS` together are another one.

    Raises:
        InputError: `request.invalid`.
    """
    sources = [name for name in names if fields.get(name) not in (None, "", [], {})]
    sources += [
        name for name in fields if name.partition("[")[0] in PHOTO_FIELDS and fields[name] not in (None, "", [], {})
    ][:1]
    if len(sources) > 1:
        raise InputError("request.invalid", f"photos come in {' and in '.join(sources)}: send them in one of these")


@dataclass(frozen=True)
class PreparedUpload:
    """Checked photos as a zip, or the URLs to fetch them from."""

    capture: bytes | None
    """The zip; None if photos still have to be fetched."""
    photos: tuple[PhotoSource, ...]
    """Photos to fetch; empty if there is a zip."""
    azimuths_deg: tuple[float, ...]
    azimuths_by: AzimuthsBy | None
    """How the azimuths were determined: ``table`` if the client stated them; None for a single photo, which has no order."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Number of files that are not used, by kind (`gapray.capture.kinds.counted`)."""
    reading: AzimuthOptions | None = None
    """How to read azimuths from file names once the content of the only URL is fetched; None if azimuths are known."""


def prepare_upload(
    photos: Sequence[IncomingPhoto],
    *,
    azimuths: Sequence[float] | None,
    options: AzimuthOptions,
    limits: Limits,
    decode: DecodeSettings,
    fetch: Callable[[str, int], bytes] | None = None,
    turn: bool = True,
) -> PreparedUpload:
    """Check photos, determine their azimuths, and pack them into a zip.

    Args:
        photos: The photos, or a single zip of them.
        azimuths: Azimuth of each photo, if the client stated them [degrees].
        options: Direction, front photo, missing views, and how names are read.
        limits: Limits on the number, bytes and pixels of all photos together.
        decode: Limits on each photo; only headers are read here.
        fetch: Fetches a URL, given the number of bytes left; None = leave URLs to the worker.
        turn: Whether the photos must be a whole turn: then names with numbers that cannot be read are refused. Otherwise such
            photos are taken in their order.

    Raises:
        InputError: `request.no_photos`, `request.too_many_images`, `request.too_large`, `request.invalid`, `url.*`, `capture.*` or
            `image.*`.
    """
    if not photos:
        raise InputError("request.no_photos", "the request holds no photo")
    if len(photos) > limits.images:
        raise InputError("request.too_many_images", f"{len(photos)} photos; at most {limits.images} are taken")
    _refuse_other_directions(photos, options.direction)
    if fetch is None and azimuths is None and _may_be_zip(photos, turn=turn):
        return PreparedUpload(None, (PhotoSource(url=str(photos[0].url)),), (), None, reading=options)
    if fetch is not None:
        photos = _fetch_all(photos, fetch, limits.photo_bytes)
    for number, photo in enumerate(photos, 1):
        if photo.data == b"":
            raise InputError("image.empty", f"photo {number} holds no bytes")
        if (photo.data or b"").startswith(_EMPTY_ZIP_MAGIC):
            raise InputError("request.no_photos", "the zip is empty")
    if any((photo.data or b"").startswith(_ZIP_MAGIC) for photo in photos):
        if len(photos) > 1:
            raise InputError("request.invalid", "send one zip, or photos, not both")
        if azimuths is not None:
            advice = "photos in a zip come in no order: name them by their angles, or put a capture.csv beside them"
            raise InputError("request.invalid", f"`azimuths` says nothing of a zip; {advice}")
        return _prepare_zip(photos[0].data or b"", options, limits, decode)
    reading = _read_azimuths(photos, azimuths, options, turn=turn)
    placed = [
        (photo, reading.azimuths[str(index)]) for index, photo in enumerate(photos) if str(index) in reading.azimuths
    ]
    angles = tuple(angle for _, angle in placed)
    unused = (photo.name or "photo" for index, photo in enumerate(photos) if str(index) not in reading.azimuths)
    ignored = counted(unused)  # a closing photo, which shows the front again
    by = None if len(photos) == 1 and reading.by == "order" else reading.by
    if any(photo.url for photo in photos):
        if any(photo.data for photo in photos):
            raise InputError("request.invalid", "send photos or their URLs, not both")
        sources = tuple(PhotoSource(url=str(photo.url), azimuth_deg=angle) for photo, angle in placed)
        return PreparedUpload(None, sources, angles, by, ignored)
    capture = _zip_photos((photo.data or b"" for photo, _ in placed), angles, limits, decode)
    return PreparedUpload(capture, (), angles, by, ignored)


def _may_be_zip(photos: Sequence[IncomingPhoto], *, turn: bool) -> bool:
    """Whether the upload is a single URL that may lead to a zip: one photo would be too few for a turn."""
    if len(photos) != 1 or photos[0].url is None or photos[0].azimuth_deg is not None:
        return False
    return not turn or PurePosixPath(photos[0].name.lower()).suffix not in PHOTO_EXTENSIONS


def photo_at_url(source: PhotoSource) -> IncomingPhoto:
    """Return a photo (or a zip of photos) that a job refers to, for `prepare_upload` to fetch."""
    return replace(_photo_from_text(source.url), azimuth_deg=source.azimuth_deg)


def _fetch_all(
    photos: Sequence[IncomingPhoto], fetch: Callable[[str, int], bytes], max_bytes: int
) -> list[IncomingPhoto]:
    """Fetch the photos that are at URLs, one after the other; all photos together may have `max_bytes`."""
    fetched = []
    left = max_bytes - sum(len(photo.data or b"") for photo in photos)
    for photo in photos:
        data = fetch(photo.url, left) if photo.url else photo.data
        left -= len(data or b"") if photo.url else 0
        fetched.append(replace(photo, data=data, url=None))
    return fetched


def _read_azimuths(
    photos: Sequence[IncomingPhoto], azimuths: Sequence[float] | None, options: AzimuthOptions, *, turn: bool
) -> Reading:
    """Determine azimuths: those that the client stated, else the numbers in the file names, else even steps in upload order.

    The order is used only if names carry no numbers: ``blob`` and ``image.png`` say nothing, ``mug (9).jpg`` does.

    Returns:
        Azimuths by the photos' index, as text.
    """
    keys = [str(index) for index in range(len(photos))]
    stated: list[float | None] = [photo.azimuth_deg for photo in photos] if azimuths is None else list(azimuths)
    if len(stated) != len(photos):
        raise InputError("request.invalid", f"{len(stated)} azimuths for {len(photos)} photos")
    for number, (photo, azimuth) in enumerate(zip(photos, stated, strict=True), 1):
        _agreed_azimuth({"`azimuths`": azimuth, f"photo {number}": photo.azimuth_deg})
    by_key = {key: azimuth for key, azimuth in zip(keys, stated, strict=True) if azimuth is not None}
    if by_key:
        if len(by_key) < len(photos):
            raise InputError("request.invalid", f"{len(by_key)} of {len(photos)} photos come with an azimuth")
        oriented = orient(by_key, options)
        refuse_gaps(oriented, allow_missing=options.allow_missing)
        return Reading(oriented, "table")
    names = [photo.name[-_NAME_LENGTH:] for photo in photos]
    if options.names == "order":
        return in_order(keys, options)
    try:
        reading = read_names(names, options)
    except InputError as error:
        if turn and (numbered(names) or in_folders(names)):
            raise InputError(error.code, f"{error.message.rstrip('.')}. {_HOW_TO_NAME}") from error
        if error.code == "capture.missing_views":
            raise
        return in_order(keys, options)
    key_of = dict(zip(names, keys, strict=True))
    return Reading({key_of[name]: azimuth for name, azimuth in reading.azimuths.items()}, reading.by)


def _zip_photos(photos: Iterable[bytes], angles: Sequence[float], limits: Limits, decode: DecodeSettings) -> bytes:
    """Pack photos and a capture.csv of their azimuths into a zip, checking each photo's header."""
    sink = io.BytesIO()
    lines = ["file,azimuth"]
    pixels = 0
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for index, (data, angle) in enumerate(zip(photos, angles, strict=True)):
            try:
                kind, (width, height) = check_photo(data, decode)
            except InputError as error:
                raise InputError(error.code, f"photo {index + 1}: {error.message}") from error
            pixels += width * height
            if pixels > limits.photo_pixels:
                raise InputError("request.too_large", f"the photos have more than {limits.photo_pixels} pixels in all")
            name = f"{index:03d}{_EXTENSIONS.get(kind, '.' + kind.lower())}"
            # A fixed date, so that equal photos make equal archives.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
            lines.append(f"{name},{angle!r}")
        archive.writestr(zipfile.ZipInfo("capture.csv", (1980, 1, 1, 0, 0, 0)), "\n".join(lines) + "\n")
    return sink.getvalue()


def _prepare_zip(data: bytes, options: AzimuthOptions, limits: Limits, decode: DecodeSettings) -> PreparedUpload:
    """Prepare the photos of a client's zip."""
    if options.names == "order":
        raise InputError(
            "request.invalid", "photos in a zip come in no order: name them, or put a capture.csv beside them"
        )
    with scratch() as folder:
        path = folder / "upload.zip"
        path.write_bytes(data)
        others: list[str] = []
        limited = DiscoverOptions(options, archive=ArchiveLimits(entries=limits.entries))
        try:
            captures = discover(str(path), limited, beside=others)
        except InputError as error:  # clients do not know the path
            raise InputError(error.code, error.message.replace(str(path), "the zip")) from error
        if len(captures) != 1:
            raise InputError("capture.ambiguous_layout", f"the zip holds {len(captures)} products; send one a request")
        photos = captures[0].photos
        if len(photos) > limits.images:
            raise InputError("request.too_many_images", f"{len(photos)} photos; at most {limits.images} are taken")
        # Never more is read of a member than the size in the zip's directory.
        if (total := sum(photo.size for photo in photos)) > limits.photo_bytes:
            message = f"the zip's photos have {total} bytes unpacked; at most {limits.photo_bytes} are taken"
            raise InputError("request.too_large", message)
        angles = [photo.azimuth_deg for photo in photos]
        capture = _zip_photos((read_bytes(photo.uri, decode.max_bytes) for photo in photos), angles, limits, decode)
    ignored = counted([*others, *captures[0].ignored])
    return PreparedUpload(capture, (), tuple(angles), captures[0].azimuths_by or "table", ignored)


def store_inputs(
    artifacts: Artifacts, job_id: str, inputs: JobInput, upload: PreparedUpload | None, files: Mapping[str, bytes]
) -> JobInput:
    """Store what a job is made from.

    Args:
        artifacts: Where to.
        job_id: Id of the job.
        inputs: Inputs that need no storage; those of `upload` take their place.
        upload: The photos.
        files: Field of `JobInput` -> content.

    Returns:
        The inputs, with the names of the artifacts.
    """
    if upload is not None:
        inputs = JobInput(
            photos=upload.photos,
            azimuths_by=upload.azimuths_by,
            ignored=upload.ignored,
            reading=upload.reading,
            unread=inputs.unread,
        )
        if upload.capture is not None:
            name = f"uploads/{job_id}/capture.zip"
            artifacts.put(name, upload.capture)
            inputs = inputs.model_copy(update={"capture": name})
    for field_name, data in files.items():
        name = f"uploads/{job_id}/{field_name}"
        artifacts.put(name, data)
        inputs = inputs.model_copy(update={field_name: name})
    return inputs


def open_capture(capture: bytes, folder: Path, product_id: str) -> CaptureSet:
    """Open a zip from `PreparedUpload.capture` as a capture set.

    Args:
        capture: The zip.
        folder: Folder to write the zip into; the set's photos are read from there.
        product_id: Name of the product.

    Raises:
        InputError: A `capture.*` code.
    """
    path = folder / "capture.zip"
    path.write_bytes(capture)
    # Missing views were checked when the photos were uploaded.
    [capture_set] = discover(str(path), DiscoverOptions(AzimuthOptions(allow_missing=True), layout="product"))
    return replace(capture_set, product_id=product_id)
