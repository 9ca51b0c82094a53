"""Normalises uploads: however clients send photos, they become a zip with a `capture.csv` of their azimuths.

Nothing here opens a path that a client named, and a client's file names are never used as such: they are only read for the
azimuth at their end, by the function that also reads the names of files in folders.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from gapray.capture.azimuth_table import DIRECTIONS
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
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import ArchiveLimits, read_bytes
from gapray.capture.tables import plain_title
from gapray.errors import InputError
from gapray.serve.artifacts import Artifacts
from gapray.serve.incoming import IncomingPhoto, azimuth_in
from gapray.serve.jobs import JobInput, PhotoSource
from gapray.serve.scratch import scratch
from gapray.serve.settings import Limits

_EXTENSIONS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}
_ZIP_MAGIC, _EMPTY_ZIP_MAGIC = b"PK\x03\x04", b"PK\x05\x06"
_NAME_LENGTH = 1024
"""Characters at the end of a client's file name that are read."""
_HOW_TO_NAME = (
    "In a request: names=degrees, names=index or names=order (the photos come in their order), closing_frame=drop or keep, "
    "or azimuths=0,45,…"
)


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
        azimuth_in({"`azimuths`": azimuth, f"photo {number}": photo.azimuth_deg})
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
