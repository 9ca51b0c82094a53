"""Every way in which clients send photos -> one form: a zip of them with a `capture.csv` that names their azimuths.

Nothing here opens a path that a client named, and no client's file name becomes one of ours: names are only read for the
azimuth at their end, by the same function as those of files in folders.
"""

from __future__ import annotations

import binascii
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from gapray.capture.discover import DiscoverOptions, discover
from gapray.capture.kinds import PHOTO_EXTENSIONS, counted
from gapray.capture.storage import ArchiveLimits, read_bytes
from gapray.config import DecodeSettings
from gapray.errors import InputError
from gapray.gap.manifest import ANGLES, agreed_azimuth, manifest_views
from gapray.serve.jobs import PhotoSource
from gapray.serve.scratch import scratch
from gapray.serve.settings import Limits
from gapray.serve.text import (
    VALUES,
    number_of,
    refuse_long,
    refuse_many_values,
    refuse_nested,
    refuse_unusable,
    strict_json,
)

PHOTO_FIELDS = frozenset({"input_reference", "image_reference", "views", "view", "images", "image", "photos", "photo"})
"""Form fields and JSON members that hold photos, with or without brackets behind."""
_URL_MEMBERS = ("image_url", "url", "reference_url", "image")
_DATA_MEMBERS = ("b64_json", "b64", "image_b64", "reference_b64", "data")
_NAME_MEMBERS = ("name", "file_name", "filename", "file")
_REFERENCES = ("reference", "reference_no_bg", "image", "photo", "rgb")
"""Members of a manifest's view that can hold its photo, best first; each also with `_b64` and `_url` behind."""
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}
_PATH_LIKE = re.compile(r"^[\w./\\ :~-]{1,1024}\.[A-Za-z0-9]{2,5}$")
_ZIP_MAGIC, _EMPTY_ZIP_MAGIC = b"PK\x03\x04", b"PK\x05\x06"
_PATH_START = re.compile(r"^(?:[/\\]|\.{1,2}[/\\]|~[/\\]|[A-Za-z]:[/\\])")
_JPEG_START = "/9j/"
_STEP = 2**18
"""Characters of base64 that are looked at in one call of C code, during which no other thread runs: whole groups of four."""
_WHITE = re.compile(r"[^\S ]+")
_PERCENT = {"%2B": "+", "%2F": "/", "%3D": "=", "%0D": "", "%0A": "", "%20": " "}
"""What percent-encoding changes of base64."""
"""How every JPEG begins in base64: the one photo that begins as a path does."""
_DATA_URI = re.compile(r"data:(?P<type>[^,]*),", re.IGNORECASE)
_FIELDS_TOLD = 12
_DEGREE_SIGN = re.compile(r"\s*(?:°|º|deg(?:rees?)?)$", re.IGNORECASE)
_LINE_WIDTHS = (60, 64, 72, 76)
"""Lengths of lines into which usual writers break base64 [characters]."""
_NAME_LENGTH = 1024
"""Characters of a client's file name that are read, from its end."""
_SETTLED_BY = (
    "In a request: names=degrees, names=index or names=order (the photos come in their order), closing_frame=drop or keep, "
    "or azimuths=0,45,…"
)
_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class Sent:
    """One photo as it came."""

    name: str = ""
    """The client's file name; only its trailing number is ever used."""
    data: bytes | None = None
    url: str | None = None
    azimuth_deg: float | None = None


def sent_by(values: Iterable[tuple[str, Any]], *, needed: bool = True) -> list[Sent]:
    """Photos in form fields or members of a JSON body.

    Args:
        values: (field, value) in the order of the body. A value is a (file name, bytes) pair, a text, or JSON data.
        needed: Whether a body without photos is an error.

    Returns:
        The photos of all fields in `PHOTO_FIELDS`, in order.

    Raises:
        InputError: `request.invalid`, `request.path_refused` or `request.no_photos`, which names the fields that came.
    """
    came = list(values)
    found = [photo for field, value in came if field.partition("[")[0] in PHOTO_FIELDS for photo in _photos(value)]
    for photo in found:
        refuse_long("a photo", [photo.name, photo.url])
    if needed and not found:
        raise InputError("request.no_photos", f"the request holds no photo; {_told(came)}")
    return found


def _told(came: Sequence[tuple[str, Any]]) -> str:
    """Which fields came, those with files first."""
    files = Counter(field for field, value in came if isinstance(value, tuple))
    told = [f"{field[:60]!r} ({count} file{'s' if count > 1 else ''})" for field, count in files.items()]
    told += [repr(field[:60]) for field in dict.fromkeys(field for field, _ in came) if field not in files]
    if not told:
        return "no field came"
    more = f" and {len(told) - _FIELDS_TOLD} more" if len(told) > _FIELDS_TOLD else ""
    return f"fields that came: {', '.join(told[:_FIELDS_TOLD])}{more}"


def _photos(value: Any) -> list[Sent]:
    if isinstance(value, tuple):
        name, data = value
        return [Sent(name=name, data=data)]
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("[", "{", '"'):
            try:
                refuse_many_values("a photo field", text.encode(errors="replace"), VALUES)
                inner = strict_json(text)
            except (ValueError, RecursionError) as error:
                raise InputError("request.invalid", f"a photo field holds broken JSON: {error}") from error
            refuse_nested("a photo field", inner)
            refuse_unusable("a photo field", inner)
            return _photos(inner)
        return [_text(text)] if text else []
    if isinstance(value, list):
        return [one for item in value for one in _photos(item)]
    if isinstance(value, dict):
        return _mapping(value)
    raise InputError("request.invalid", f"a photo field holds a {type(value).__name__}")


def _mapping(value: Mapping[str, Any]) -> list[Sent]:
    given = {name: value[name] for name in (*_URL_MEMBERS, *_DATA_MEMBERS) if value.get(name) not in (None, "")}
    if given:
        inner, *others = given.values()
        if any(other != inner for other in others):
            raise InputError(
                "request.invalid", f"a photo comes as {' and as '.join(given)}, which differ: send one of them"
            )
        if isinstance(inner, dict):
            inner = inner.get("url")
        if not isinstance(inner, str):
            raise InputError("request.invalid", "a photo's URL or data is no text")
        azimuth = _agreed({name: _degrees(value[name]) for name in ANGLES if value.get(name) is not None})
        photo = _text(inner)
        name = next((value[member] for member in _NAME_MEMBERS if isinstance(value.get(member), str)), photo.name)
        return [replace(photo, name=name, azimuth_deg=azimuth)]
    if value and not any(name in value for name in (*ANGLES, *_NAME_MEMBERS)):
        return [_at(photo, key) for key, item in value.items() for photo in _photos(item)]
    raise InputError("request.invalid", f"a photo needs one of {', '.join((*_URL_MEMBERS, *_DATA_MEMBERS))}")


def _at(photo: Sent, key: str) -> Sent:
    """A photo at the degrees that its key says."""
    said = {"the photo": photo.azimuth_deg, f"its key {key[:40]!r}": _degrees(_DEGREE_SIGN.sub("", key))}
    return replace(photo, azimuth_deg=_agreed(said))


def _agreed(said: Mapping[str, float | None]) -> float | None:
    """What all that is said of a photo's azimuth means [degrees].

    Raises:
        InputError: `request.invalid` for statements that contradict each other.
    """
    try:
        return agreed_azimuth({name: degrees for name, degrees in said.items() if degrees is not None})
    except ValueError as error:
        raise InputError("request.invalid", f"of one photo {error}: send one of both") from None


def _text(text: str) -> Sent:
    """A URL, a data URI, or plain base64; anything that looks like a path is refused."""
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", text):
        return Sent(name=re.split(r"[?#]", text, maxsplit=1)[0].rpartition("/")[2], url=text)
    if (uri := _DATA_URI.match(text)) is not None:
        said, *parameters = (part.strip() for part in uri["type"].split(";"))
        if not any(word.lower() == "base64" for word in (said, *parameters)):
            raise InputError("request.invalid", "a data URI must hold base64")
        name = next(
            (word.partition("=")[2] for word in parameters if word.lower().startswith(("name=", "filename="))), ""
        )
        return Sent(name=name, data=decoded(text[uri.end() :]))
    if text[:5].lower() == "data:":
        raise InputError("request.invalid", "a data URI must hold base64")
    # A path may consist of base64's letters alone, and then it would be taken for a photo that nobody can read.
    if _PATH_START.match(text) and not text.startswith(_JPEG_START):
        raise _path_refused(text)
    try:
        return Sent(data=decoded(text))
    except InputError as error:
        if _PATH_LIKE.match(text) or text.startswith("file:"):
            raise _path_refused(text) from error
        raise


def _path_refused(text: str) -> InputError:
    return InputError("request.path_refused", f"{text[:80]!r} is a path; the server opens no paths")


def decoded(text: str) -> bytes:
    """Base64 as clients write it.

    Either alphabet (RFC 4648, sections 4 and 5), with or without padding and line breaks, percent-encoded, or with spaces where a
    form's decoder made them of ``+``.

    Raises:
        InputError: `request.invalid`, which says what is wrong.
    """
    if (found := _base64(text)) is not None:
        return found
    if "%" in text:
        for written, character in _PERCENT.items():
            text = text.replace(written, character).replace(written.lower(), character)
    text = _sliced(lambda part: _WHITE.sub("", part), text).strip()
    if " " in text and not re.search(r"[+_-]", text) and not _broken_into_lines(text):
        text = text.replace(" ", "+")
    plain = _sliced(lambda part: part.replace(" ", "").translate(_URL_SAFE), text).rstrip("=")
    if (wrong := re.search(r"[^A-Za-z0-9+/]", plain)) is not None:
        raise InputError("request.invalid", f"not base64: {wrong.group()!r} at character {wrong.start() + 1}")
    if len(plain) % 4 == 1:
        raise InputError(
            "request.invalid", f"not base64: of {len(plain)} characters the last stands for less than a byte"
        )
    return _base64(plain + "=" * (-len(plain) % 4)) or b""


def _sliced(change: Callable[[str], str], text: str) -> str:
    """A text with each character changed or left out, in steps between which other threads run."""
    return "".join(change(text[start : start + _STEP]) for start in range(0, len(text), _STEP))


def _base64(text: str) -> bytes | None:
    """Base64 of the plainest form, as most clients write it; None for any other. In steps, between which other threads run."""
    if not text.isascii() or 0 <= text.find("=") < len(text) - 2:
        return None
    found = bytearray()
    try:
        for start in range(0, len(text), _STEP):
            found += binascii.a2b_base64(text[start : start + _STEP], strict_mode=True)
    except binascii.Error:
        return None
    return bytes(found)


def _broken_into_lines(text: str) -> bool:
    """Whether spaces stand for line breaks, as in an unquoted ``$(base64 FILE)``: then the parts are of one length."""
    width, blanks = text.index(" "), text.count(" ")
    seams = text[width :: width + 1]
    even = width % 4 == 0 and len(seams) == blanks and not seams.strip(" ")
    return even and (blanks > 1 or width in _LINE_WIDTHS)


def _degrees(value: Any) -> float | None:
    if value is None:
        return None
    try:
        degrees = number_of(value)
    except (TypeError, ValueError, OverflowError) as error:
        told = repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"
        raise InputError("request.invalid", f"{told} is no angle") from error
    if not abs(degrees) < 1e6:
        raise InputError("request.invalid", f"{degrees} is no angle")
    return degrees % 360.0


def sent_in_manifest(manifest: Any) -> list[Sent]:
    """Photos of the prototype's manifest: ``{"views": {"000": {"reference_b64": …}}}``; `gapray export --inline` writes it.

    Depth maps in it are not used: gapray makes its own, on one scale for the whole set. Views of which it says no angle come
    without one.

    Raises:
        InputError: `request.invalid`, `request.no_photos` or `request.path_refused`.
    """
    refuse_unusable("the manifest", manifest)
    try:
        views, by = manifest_views(manifest)
    except ValueError as error:
        raise InputError("request.invalid", f"the manifest: {error}") from error
    found = []
    for azimuth, members in views:
        names = [name + ending for name in _REFERENCES for ending in ("_b64", "_url", "")]
        value = next((members[name] for name in names if isinstance(members.get(name), str) and members[name]), None)
        if value is None:
            raise InputError("request.no_photos", f"view {azimuth:g} has no reference photo")
        found.append(replace(_text(value.strip()), azimuth_deg=None if by == "order" else azimuth))
    return found


def refuse_two_sources(given: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a request whose photos come in several ways, of which all but one would be dropped.

    Args:
        given: Fields and values.
        names: Fields of which each is a source of its own; those in `PHOTO_FIELDS` are one together.

    Raises:
        InputError: `request.invalid`.
    """
    came = [name for name in names if given.get(name) not in (None, "", [], {})]
    came += [
        name for name in given if name.partition("[")[0] in PHOTO_FIELDS and given[name] not in (None, "", [], {})
    ][:1]
    if len(came) > 1:
        raise InputError("request.invalid", f"photos come in {' and in '.join(came)}: send them in one of these")


@dataclass(frozen=True)
class Arrived:
    """Photos in the one form, or where to fetch them."""

    capture: bytes | None
    """The zip; None when some photos still lie at URLs."""
    photos: tuple[PhotoSource, ...]
    azimuths_deg: tuple[float, ...]
    azimuths_by: AzimuthsBy | None
    """What a client says of azimuths, in a field or with each photo, is a table. None: one photo alone, which has no order."""
    ignored: dict[str, int] = field(default_factory=dict)
    """What came beside the photos that are used, by kind: `gapray.capture.kinds.counted`."""
    reading: AzimuthOptions | None = None
    """How names are to be read once it is fetched what lies at the only URL; None where azimuths are known."""


def arrived(
    sent: Sequence[Sent],
    *,
    azimuths: Sequence[float] | None,
    options: AzimuthOptions,
    limits: Limits,
    decode: DecodeSettings,
    fetch: Callable[[str, int], bytes] | None = None,
    turn: bool = True,
) -> Arrived:
    """Check photos and bring them into the one form.

    Args:
        sent: As they came; a single zip stands for the photos in it.
        azimuths: One a photo, in their order, when the client said so.
        options: Direction, front photo, missing views.
        limits: Number of photos, bytes and pixels of all together.
        decode: Limits on each photo; only headers are read here.
        fetch: URL, and how many bytes are left for it -> what lies there; None = leave URLs for later.
        turn: The photos must be a turn: names that carry numbers which cannot be read are refused. Else their order counts.

    Raises:
        InputError: `request.no_photos`, `request.too_many_images`, `request.too_large`, `request.invalid`, `url.*`, `capture.*` or
            `image.*`.
    """
    if not sent:
        raise InputError("request.no_photos", "the request holds no photo")
    if len(sent) > limits.images:
        raise InputError("request.too_many_images", f"{len(sent)} photos; at most {limits.images} are taken")
    if fetch is None and azimuths is None and _may_be_zip(sent, turn=turn):
        return Arrived(None, (PhotoSource(url=str(sent[0].url)),), (), None, reading=options)
    if fetch is not None:
        sent = _fetched(sent, fetch, limits.photo_bytes)
    for number, photo in enumerate(sent, 1):
        if photo.data == b"":
            raise InputError("image.empty", f"photo {number} holds no bytes")
        if (photo.data or b"").startswith(_EMPTY_ZIP_MAGIC):
            raise InputError("request.no_photos", "the zip is empty")
    if any((one.data or b"").startswith(_ZIP_MAGIC) for one in sent):
        if len(sent) > 1:
            raise InputError("request.invalid", "send one zip, or photos, not both")
        if azimuths is not None:
            told = "photos in a zip come in no order: name them by their angles, or put a capture.csv beside them"
            raise InputError("request.invalid", f"`azimuths` says nothing of a zip; {told}")
        return _unzipped(sent[0].data or b"", options, limits, decode)
    reading = _read(sent, azimuths, options, turn=turn)
    placed = [(photo, reading.azimuths[str(at)]) for at, photo in enumerate(sent) if str(at) in reading.azimuths]
    angles = tuple(angle for _, angle in placed)
    unused = (photo.name or "photo" for at, photo in enumerate(sent) if str(at) not in reading.azimuths)
    ignored = counted(unused)  # a photo that shows the front again
    by = None if len(sent) == 1 and reading.by == "order" else reading.by
    if any(one.url for one in sent):
        if any(one.data for one in sent):
            raise InputError("request.invalid", "send photos or their URLs, not both")
        sources = tuple(PhotoSource(url=str(photo.url), azimuth_deg=angle) for photo, angle in placed)
        return Arrived(None, sources, angles, by, ignored)
    capture = _zipped((photo.data or b"" for photo, _ in placed), angles, limits, decode)
    return Arrived(capture, (), angles, by, ignored)


def _may_be_zip(sent: Sequence[Sent], *, turn: bool) -> bool:
    """Whether one URL came that nothing is known of: for a turn one photo is too few, so that it leads to a zip or is refused."""
    if len(sent) != 1 or sent[0].url is None or sent[0].azimuth_deg is not None:
        return False
    return not turn or PurePosixPath(sent[0].name.lower()).suffix not in PHOTO_EXTENSIONS


def at_url(source: PhotoSource) -> Sent:
    """A photo, or a zip of photos, that is fetched now."""
    return replace(_text(source.url), azimuth_deg=source.azimuth_deg)


def _fetched(sent: Sequence[Sent], fetch: Callable[[str, int], bytes], most: int) -> list[Sent]:
    """Photos with their URLs fetched, one after the other, `most` bytes of them all in memory."""
    found = []
    left = most - sum(len(photo.data or b"") for photo in sent)
    for photo in sent:
        data = fetch(photo.url, left) if photo.url else photo.data
        left -= len(data or b"") if photo.url else 0
        found.append(replace(photo, data=data, url=None))
    return found


def _read(sent: Sequence[Sent], azimuths: Sequence[float] | None, options: AzimuthOptions, *, turn: bool) -> Reading:
    """What the client said, else the numbers in the file names, else even steps in the order of the photos.

    Order is taken only where names carry no numbers: ``blob`` and ``image.png`` say nothing, ``mug (9).jpg`` does.

    Returns:
        Azimuths by the photos' index, as text.
    """
    keys = [str(index) for index in range(len(sent))]
    said: list[float | None] = [photo.azimuth_deg for photo in sent] if azimuths is None else list(azimuths)
    if len(said) != len(sent):
        raise InputError("request.invalid", f"{len(said)} azimuths for {len(sent)} photos")
    for number, (photo, azimuth) in enumerate(zip(sent, said, strict=True), 1):
        _agreed({"`azimuths`": azimuth, f"photo {number}": photo.azimuth_deg})
    given = {key: azimuth for key, azimuth in zip(keys, said, strict=True) if azimuth is not None}
    if given:
        if len(given) < len(sent):
            raise InputError("request.invalid", f"{len(given)} of {len(sent)} photos come with an azimuth")
        placed = orient(given, options)
        refuse_gaps(placed, allow_missing=options.allow_missing)
        return Reading(placed, "table")
    names = [photo.name[-_NAME_LENGTH:] for photo in sent]
    if options.names == "order":
        return in_order(keys, options)
    try:
        read = read_names(names, options)
    except InputError as error:
        if turn and (numbered(names) or in_folders(names)):
            raise InputError(error.code, f"{error.message.rstrip('.')}. {_SETTLED_BY}") from error
        if error.code == "capture.missing_views":
            raise
        return in_order(keys, options)
    index_of = dict(zip(names, keys, strict=True))
    return Reading({index_of[name]: azimuth for name, azimuth in read.azimuths.items()}, read.by)


def _zipped(photos: Iterable[bytes], angles: Sequence[float], limits: Limits, decode: DecodeSettings) -> bytes:
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
            name = f"{index:03d}{_ENDINGS.get(kind, '.' + kind.lower())}"
            # A fixed date: equal photos make equal archives, and equal keys.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
            lines.append(f"{name},{angle!r}")
        archive.writestr(zipfile.ZipInfo("capture.csv", (1980, 1, 1, 0, 0, 0)), "\n".join(lines) + "\n")
    return sink.getvalue()


def _unzipped(data: bytes, options: AzimuthOptions, limits: Limits, decode: DecodeSettings) -> Arrived:
    if options.names == "order":
        raise InputError(
            "request.invalid", "photos in a zip come in no order: name them, or put a capture.csv beside them"
        )
    with scratch() as folder:
        path = folder / "upload.zip"
        path.write_bytes(data)
        beside: list[str] = []
        limited = DiscoverOptions(options, archive=ArchiveLimits(entries=limits.entries))
        try:
            found = discover(str(path), limited, beside=beside)
        except InputError as error:  # whose words are for those who know the path
            raise InputError(error.code, error.message.replace(str(path), "the zip")) from error
        if len(found) != 1:
            raise InputError("capture.ambiguous_layout", f"the zip holds {len(found)} products; send one a request")
        photos = found[0].photos
        if len(photos) > limits.images:
            raise InputError("request.too_many_images", f"{len(photos)} photos; at most {limits.images} are taken")
        # What the directory says of a member's size is the most that is ever read of it.
        if (total := sum(photo.size for photo in photos)) > limits.photo_bytes:
            message = f"the zip's photos have {total} bytes unpacked; at most {limits.photo_bytes} are taken"
            raise InputError("request.too_large", message)
        angles = [photo.azimuth_deg for photo in photos]
        capture = _zipped((read_bytes(photo.uri, decode.max_bytes) for photo in photos), angles, limits, decode)
    ignored = counted([*beside, *found[0].ignored])
    return Arrived(capture, (), tuple(angles), found[0].azimuths_by or "table", ignored)


def opened(capture: bytes, folder: Path, product_id: str) -> CaptureSet:
    """A capture zip as a capture set.

    Args:
        capture: From `Arrived.capture`.
        folder: Where the zip is put; the set's photos are read from there.
        product_id: Name of the product.

    Raises:
        InputError: A `capture.*` code.
    """
    path = folder / "capture.zip"
    path.write_bytes(capture)
    # The gaps were judged when the photos arrived.
    [found] = discover(str(path), DiscoverOptions(AzimuthOptions(allow_missing=True), layout="product"))
    return replace(found, product_id=product_id)
