"""Photos in requests: in fields, objects and manifests, as bytes, base64 or URLs, each with what is said of its angle."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gapray.capture.azimuth_table import DIRECTION_TITLES, DIRECTIONS
from gapray.capture.tables import plain_title
from gapray.errors import InputError
from gapray.gap.manifest import ANGLES, agreed_azimuth, manifest_views
from gapray.serve.base64_forms import decode_base64
from gapray.serve.jobs import PhotoSource
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
_PATH_LIKE = re.compile(r"^[\w./\\ :~-]{1,1024}\.[A-Za-z0-9]{2,5}$")
_PATH_START = re.compile(r"^(?:[/\\]|\.{1,2}[/\\]|~[/\\]|[A-Za-z]:[/\\])")
_JPEG_START = "/9j/"
"""How every JPEG begins in base64: the only image format that begins like a path."""
_DATA_URI = re.compile(r"data:(?P<type>[^,]*),", re.IGNORECASE)
MAX_IGNORED = 20
"""Maximum number of ignored members that are named, of one object and in all."""
_MAX_FIELDS_NAMED = 12
"""Maximum number of fields named in an error message."""
_DEGREE_SIGN = re.compile(r"\s*(?:°|º|deg(?:rees?)?)$", re.IGNORECASE)
_INDEX = re.compile(r"\[([0-9]{1,6})\]")


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
        azimuth = azimuth_in({name: _parse_degrees(value[name]) for name in ANGLES if value.get(name) is not None})
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


def _with_azimuth(photo: IncomingPhoto, key: str) -> IncomingPhoto:
    """Return the photo with the azimuth that its key in an object states."""
    azimuths = {"the photo": photo.azimuth_deg, f"its key {key[:40]!r}": _parse_degrees(_DEGREE_SIGN.sub("", key))}
    return replace(photo, azimuth_deg=azimuth_in(azimuths))


def azimuth_in(azimuths: Mapping[str, float | None]) -> float | None:
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


def photo_at_url(source: PhotoSource) -> IncomingPhoto:
    """Return a photo (or a zip of photos) that a job refers to, for `prepare_upload` to fetch."""
    return replace(_photo_from_text(source.url), azimuth_deg=source.azimuth_deg)
