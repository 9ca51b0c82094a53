"""Every way in which clients send photos -> one form: a zip of them with a `capture.csv` that names their azimuths.

Nothing here opens a path that a client named, and no client's file name becomes one of ours: names are only read for the
azimuth at their end.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from gapray.capture.azimuths import AzimuthOptions, azimuths_from_names, orient, refuse_gaps
from gapray.capture.capture_set import CaptureSet
from gapray.capture.decode import check_photo
from gapray.capture.discover import DiscoverOptions, discover
from gapray.capture.storage import read_bytes
from gapray.config import DecodeSettings
from gapray.errors import InputError
from gapray.gap.manifest import manifest_views
from gapray.serve.jobs import PhotoSource
from gapray.serve.settings import Limits

PHOTO_FIELDS = frozenset({"input_reference", "image_reference", "views", "view", "images", "image", "photos", "photo"})
"""Form fields and JSON members that hold photos, with or without brackets behind."""
_URL_MEMBERS = ("image_url", "url", "reference_url", "image")
_DATA_MEMBERS = ("b64_json", "b64", "image_b64", "reference_b64", "data")
_AZIMUTH_MEMBERS = ("azimuth_deg", "azimuth", "angle")
_REFERENCES = ("reference", "reference_no_bg", "image", "photo", "rgb")
"""Members of a manifest's view that can hold its photo, best first; each also with `_b64` and `_url` behind."""
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}
_PATH_LIKE = re.compile(r"^[\w./\\ :~-]{1,1024}\.[A-Za-z0-9]{2,5}$")
_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class Sent:
    """One photo as it came."""

    name: str = ""
    """The client's file name; only its trailing number is ever used."""
    data: bytes | None = None
    url: str | None = None
    azimuth_deg: float | None = None


def sent_by(values: Iterable[tuple[str, Any]]) -> list[Sent]:
    """Photos in form fields or members of a JSON body.

    Args:
        values: (field, value) in the order of the body. A value is a (file name, bytes) pair, a text, or JSON data.

    Returns:
        The photos of all fields in `PHOTO_FIELDS`, in order.

    Raises:
        InputError: `request.invalid` or `request.path_refused`.
    """
    found: list[Sent] = []
    for field, value in values:
        if field.partition("[")[0] in PHOTO_FIELDS:
            found += _photos(value)
    return found


def _photos(value: Any) -> list[Sent]:
    if isinstance(value, tuple):
        name, data = value
        return [Sent(name=name, data=data)]
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("[", "{"):
            try:
                return _photos(json.loads(text))
            except (ValueError, RecursionError) as error:
                raise InputError("request.invalid", f"a photo field holds broken JSON: {error}") from error
        return [_text(text)] if text else []
    if isinstance(value, list):
        return [one for item in value for one in _photos(item)]
    if isinstance(value, dict):
        return _mapping(value)
    raise InputError("request.invalid", f"a photo field holds a {type(value).__name__}")


def _mapping(value: Mapping[str, Any]) -> list[Sent]:
    inner = next((value[name] for name in (*_URL_MEMBERS, *_DATA_MEMBERS) if name in value), None)
    if inner is not None:
        if isinstance(inner, dict):
            inner = inner.get("url")
        if not isinstance(inner, str):
            raise InputError("request.invalid", "a photo's URL or data is no text")
        azimuth = next((value[name] for name in _AZIMUTH_MEMBERS if value.get(name) is not None), None)
        return [replace(_text(inner), name=str(value.get("name", "")), azimuth_deg=_degrees(azimuth))]
    if value and all(re.fullmatch(r"\d+(\.\d+)?", str(key)) for key in value):
        return [replace(one, azimuth_deg=_degrees(key)) for key, item in value.items() for one in _photos(item)]
    raise InputError("request.invalid", f"a photo needs one of {', '.join((*_URL_MEMBERS, *_DATA_MEMBERS))}")


def _text(text: str) -> Sent:
    """A URL, a data URI, or plain base64; anything that looks like a path is refused."""
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", text):
        return Sent(name=PurePosixPath(text.partition("?")[0]).name, url=text)
    if text.startswith("data:"):
        head, comma, body = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InputError("request.invalid", "a data URI must hold base64")
        return Sent(data=decoded(body))
    try:
        # First of all, because every JPEG in base64 begins with "/9j/".
        return Sent(data=decoded(text))
    except InputError as error:
        if _PATH_LIKE.match(text) or text.startswith(("/", "\\", "./", "../", "file:")):
            raise InputError("request.path_refused", f"{text[:80]!r} is a path; the server opens no paths") from error
        raise


def decoded(text: str) -> bytes:
    """Strict base64.

    Raises:
        InputError: `request.invalid`.
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("request.invalid", f"not base64: {error}") from error


def _degrees(value: Any) -> float | None:
    if value is None:
        return None
    try:
        degrees = float(value)
    except (TypeError, ValueError) as error:
        raise InputError("request.invalid", f"{str(value)[:40]!r} is no angle") from error
    if not abs(degrees) < 1e6:
        raise InputError("request.invalid", f"{degrees} is no angle")
    return degrees % 360.0


def sent_in_manifest(manifest: Any) -> list[Sent]:
    """Photos of the prototype's manifest: ``{"views": {"000": {"reference_b64": …}}}``; `gapray export --inline` writes it.

    Depth maps in it are not used: gapray makes its own, on one scale for the whole set.

    Raises:
        InputError: `request.invalid`, `request.no_photos` or `request.path_refused`.
    """
    try:
        views = manifest_views(manifest)
    except ValueError as error:
        raise InputError("request.invalid", f"the manifest: {error}") from error
    found = []
    for azimuth, members in views:
        names = [name + ending for name in _REFERENCES for ending in ("_b64", "_url", "")]
        value = next((members[name] for name in names if isinstance(members.get(name), str) and members[name]), None)
        if value is None:
            raise InputError("request.no_photos", f"view {azimuth:g} has no reference photo")
        found.append(replace(_text(value.strip()), azimuth_deg=azimuth))
    return found


@dataclass(frozen=True)
class Arrived:
    """Photos in the one form, or where to fetch them."""

    capture: bytes | None
    """The zip; None when some photos still lie at URLs."""
    photos: tuple[PhotoSource, ...]
    azimuths_deg: tuple[float, ...]
    azimuths_by: Literal["given", "names", "order", "archive"]


def arrived(
    sent: Sequence[Sent],
    *,
    azimuths: Sequence[float] | None,
    options: AzimuthOptions,
    limits: Limits,
    decode: DecodeSettings,
    fetch: Callable[[str], bytes] | None = None,
) -> Arrived:
    """Check photos and bring them into the one form.

    Args:
        sent: As they came; a single zip stands for the photos in it.
        azimuths: One a photo, in their order, when the client said so.
        options: Direction, front photo, missing views.
        limits: Number of photos, bytes.
        decode: Limits on each photo; only headers are read here.
        fetch: Fetches URLs; None = leave them for later.

    Raises:
        InputError: `request.no_photos`, `request.too_many_images`, `request.invalid`, `capture.*` or `image.*`.
    """
    if not sent:
        raise InputError("request.no_photos", "the request holds no photo")
    if fetch is not None:
        sent = [replace(one, data=fetch(one.url), url=None) if one.url else one for one in sent]
    if any((one.data or b"").startswith(_ZIP_MAGIC) for one in sent):
        if len(sent) > 1:
            raise InputError("request.invalid", "send one zip, or photos, not both")
        return _unzipped(sent[0].data or b"", options, limits, decode)
    if len(sent) > limits.images:
        raise InputError("request.too_many_images", f"{len(sent)} photos; at most {limits.images} are taken")
    angles, how = _angles(sent, azimuths, options)
    if any(one.url for one in sent):
        if any(one.data for one in sent):
            raise InputError("request.invalid", "send photos or their URLs, not both")
        sources = tuple(
            PhotoSource(url=str(one.url), azimuth_deg=angle) for one, angle in zip(sent, angles, strict=True)
        )
        return Arrived(None, sources, tuple(angles), how)
    photos = [one.data or b"" for one in sent]
    return Arrived(_zipped(photos, angles, decode), (), tuple(angles), how)


def _angles(
    sent: Sequence[Sent], azimuths: Sequence[float] | None, options: AzimuthOptions
) -> tuple[list[float], Literal["given", "names", "order"]]:
    """What the client said, else the numbers in the file names, else even steps in the order of the photos."""
    how: Literal["given", "names", "order"] = "given"
    keys = [str(index) for index in range(len(sent))]
    if azimuths is not None:
        if len(azimuths) != len(sent):
            raise InputError("request.invalid", f"{len(azimuths)} azimuths for {len(sent)} photos")
        named = dict(zip(keys, azimuths, strict=True))
    elif all(one.azimuth_deg is not None for one in sent):
        named = {key: one.azimuth_deg or 0.0 for key, one in zip(keys, sent, strict=True)}
    else:
        names = [one.name for one in sent]
        if len(set(names)) == len(names) and all(names):
            try:
                read = azimuths_from_names(names, options)
                if set(read) == set(names):
                    return [read[name] for name in names], "names"
            except InputError as error:
                if error.code != "capture.ambiguous_azimuths":
                    raise
        how = "order"
        named = {key: index * 360.0 / len(sent) for index, key in enumerate(keys)}
    turned = orient(named, options)
    if not options.allow_missing:
        refuse_gaps(turned)
    return [turned[key] for key in keys], how


def _zipped(photos: Sequence[bytes], angles: Sequence[float], decode: DecodeSettings) -> bytes:
    sink = io.BytesIO()
    lines = ["file,azimuth"]
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for index, (data, angle) in enumerate(zip(photos, angles, strict=True)):
            try:
                kind = check_photo(data, decode)
            except InputError as error:
                raise InputError(error.code, f"photo {index + 1}: {error.message}") from error
            name = f"{index:03d}{_ENDINGS.get(kind, '.' + kind.lower())}"
            # A fixed date: equal photos make equal archives, and equal keys.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
            lines.append(f"{name},{angle!r}")
        archive.writestr(zipfile.ZipInfo("capture.csv", (1980, 1, 1, 0, 0, 0)), "\n".join(lines) + "\n")
    return sink.getvalue()


def _unzipped(data: bytes, options: AzimuthOptions, limits: Limits, decode: DecodeSettings) -> Arrived:
    with tempfile.TemporaryDirectory(prefix="gapray-") as folder:
        path = Path(folder) / "upload.zip"
        path.write_bytes(data)
        found = discover(str(path), DiscoverOptions(options))
        if len(found) != 1:
            raise InputError("capture.ambiguous_layout", f"the zip holds {len(found)} products; send one a request")
        photos = found[0].photos
        if len(photos) > limits.images:
            raise InputError("request.too_many_images", f"{len(photos)} photos; at most {limits.images} are taken")
        total = 0
        read = []
        for photo in photos:
            read.append(read_bytes(photo.uri, decode.max_bytes))
            total += len(read[-1])
            if total > 2 * limits.body_bytes:
                raise InputError("request.too_large", f"the zip unpacks to more than {2 * limits.body_bytes} bytes")
    angles = [photo.azimuth_deg for photo in photos]
    return Arrived(_zipped(read, angles, decode), (), tuple(angles), "archive")


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
