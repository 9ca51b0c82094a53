"""Reading Polycam raw exports: camera poses, intrinsics and the locations of the pictures, without decoding any.

The layout is documented by Polycam (github.com/PolyCam/polyform, README.md, "Polycam's data format")::

    [capture/] keyframes/ images/            <timestamp in us>.jpg   as the phone took them, distorted
                          cameras/           <timestamp>.json        ARKit's poses
                          corrected_images/  <timestamp>.jpg         undistorted, black at the border
                          corrected_cameras/ <timestamp>.json        globally optimised poses
                          depth/             <timestamp>.png         16 bit, millimetres, smaller than the pictures
                          confidence/        <timestamp>.png         8 bit, 0 low, 127 medium, 255 high

The two corrected folders are missing if a session was too long to optimise (700 frames, or 1,400 with CUSTOM processing).
Only LiDAR and room sessions recorded in developer mode have a raw export.

A camera file holds ``t_00 … t_23``, the first three rows of the row-major camera-to-world matrix in ARKit's gravity-aligned,
right-handed world with +Y up (same README), ``fx, fy, cx, cy`` in pixels of ``width`` x ``height``, and fields that are not used
here. One of them is ``blur_score``: according to the README lower means more blur, according to Polycam's help centre the opposite.

Polycam does not document: that the camera looks along -Z of its frame with +Y up and +X right in the picture (ARKit's
convention; polyform's converter passes matrices and pictures unchanged to instant-ngp, which assumes it), that lengths are
metres (ARKit's unit), that ``neighbors`` and ``manual_keyframe`` are always present, and whether depth is undistorted as well.
This module was written without access to an export from a real phone.
"""

from __future__ import annotations

import json
import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from gapray.capture.kinds import is_visible
from gapray.capture.storage import (
    ArchiveLimits,
    Entry,
    Listing,
    is_local,
    listing_of,
    local_path,
    members_of,
    read_bytes,
)
from gapray.errors import InputError

MAX_KEYFRAMES = 5000
MAX_CAMERA_BYTES = 256 * 2**10
"""A camera file with 22 fields has about 1 kB, but `neighbors` may list many keyframes."""
MIN_SIDE, MAX_SIDE = 64, 65535
"""Allowed range of a picture's width and height [pixels]."""
MAX_METRES = 1e4
"""Maximum coordinate of a camera's position."""
ORTHONORMAL = 1e-2
"""Maximum entry of |R R' - 1|, which allows for the errors of rounding and optimisation."""
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png")
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,  # encrypted members; NotImplementedError (unknown compression) is one too
)

Reader = Callable[[Entry, int], bytes]
"""Entry and the largest accepted size -> its bytes."""


@dataclass(frozen=True)
class Keyframe:
    """One photo with its camera."""

    name: str
    """Common stem of its files."""
    timestamp_us: int | None
    """Time from an arbitrary start, by the name [microseconds]; None if the name is not a number."""
    pose: NDArray[np.float64]
    """Camera to world, [3, 4], in metres; its columns are the camera's right, up and backward axes and its position."""
    focal: tuple[float, float]
    """fx, fy [pixels]."""
    principal: tuple[float, float]
    """cx, cy, from the left and the top [pixels]."""
    size: tuple[int, int]
    """Width and height of the picture that `focal` and `principal` refer to [pixels]."""
    image: Entry
    corrected: bool
    """Whether pose and picture are the optimised, undistorted ones."""
    depth: Entry | None
    """Depth map; None when the export has none."""
    confidence: Entry | None
    """Confidence of the depth map; None when the export has none."""


@dataclass(frozen=True)
class Export:
    """A raw export."""

    uri: str
    keyframes: tuple[Keyframe, ...]
    """Photos with their cameras, in order of time."""

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        """Open the export, and yield a function that reads whole files from it.

        Raises:
            InputError: `capture.invalid_archive`, `capture.unsafe_path` or `capture.not_found`; the yielded function
                raises `image.unreadable`, `image.empty`, `image.too_many_bytes` or `capture.invalid_archive`.
        """
        with _reader(self.uri) as read:
            yield read


def read_export(uri: str) -> Export:
    """Read the cameras of an export, without unpacking it or opening a picture.

    For each keyframe the corrected camera and picture are used if both exist, else the original pair, as in polyform's
    `Keyframe.is_optimized`. A camera without a picture is skipped.

    Args:
        uri: The exported folder or zip file, a local path or an fsspec URI; ``keyframes`` may be nested in other folders.

    Raises:
        InputError: `capture.not_found`, `capture.invalid_archive` (broken or encrypted), `capture.unsafe_path` (a name or
            link that leads outside), `polycam.not_an_export`, `polycam.no_keyframes`, `polycam.too_many_keyframes` or
            `polycam.invalid_camera`.
    """
    source = listing_of(uri)
    with _reader(uri) as read:
        try:
            files = _files(source, uri)
        except OSError as error:
            raise InputError("capture.not_found", f"{uri}: {error}") from error
        stems = sorted({*files["cameras"], *files["corrected_cameras"]})
        if len(stems) > MAX_KEYFRAMES:
            raise InputError(
                "polycam.too_many_keyframes", f"{uri} holds {len(stems)} cameras; the limit is {MAX_KEYFRAMES}"
            )
        keyframes = [keyframe for stem in stems if (keyframe := _keyframe(stem, files, read)) is not None]
    if not keyframes:
        raise InputError("polycam.no_keyframes", f"no camera in {uri} has a photo ({len(stems)} cameras)")
    # By number, because names of different lengths do not sort like their numbers.
    keyframes.sort(key=lambda keyframe: (keyframe.timestamp_us is None, keyframe.timestamp_us or 0, keyframe.name))
    return Export(uri, tuple(keyframes))


def is_export(uri: str) -> bool:
    """Whether a folder or zip file has the layout of an export; False if it cannot be read."""
    try:
        return bool(_keyframes_folder(listing_of(uri), uri))
    except (InputError, OSError):
        return False


def parse_camera(data: bytes, name: str) -> dict[str, Any]:
    """Parse and validate a camera file.

    Args:
        data: The file's bytes (JSON).
        name: The file's name, for error messages.

    Returns:
        `pose` float64 [3, 4], `focal`, `principal` and `size` as in `Keyframe`.

    Raises:
        InputError: `polycam.invalid_camera`.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, f"is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _invalid(name, "is not a JSON object")
    pose = np.array([[_number(fields, f"t_{row}{column}", name) for column in range(4)] for row in range(3)])
    fx, fy, cx, cy, width, height = (_number(fields, key, name) for key in ("fx", "fy", "cx", "cy", "width", "height"))
    rotation = pose[:, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ORTHONORMAL or np.linalg.det(rotation) < 0:
        raise _invalid(name, "has a pose whose first three columns are not a rotation")
    if np.abs(pose[:, 3]).max() > MAX_METRES:
        raise _invalid(name, f"is more than {MAX_METRES:g} m from the start")
    if not all(MIN_SIDE <= side <= MAX_SIDE and side == int(side) for side in (width, height)):
        raise _invalid(name, f"is for {width:g} x {height:g} pixels")
    if not (0 < fx < 1e6 and 0 < fy < 1e6 and 0 <= cx <= width and 0 <= cy <= height):
        raise _invalid(name, f"has fx {fx:g}, fy {fy:g}, cx {cx:g}, cy {cy:g} for {width:g} x {height:g} pixels")
    return {"pose": pose, "focal": (fx, fy), "principal": (cx, cy), "size": (int(width), int(height))}


def _number(fields: dict[str, Any], key: str, name: str) -> float:
    if key not in fields:
        raise _invalid(name, f"lacks {key}")
    value = fields[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(name, f"has a {type(value).__name__} as {key}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or abs(number) > 1e12:
        raise _invalid(
            name, f"has a {key} that is not finite" if not math.isfinite(number) else f"has {key} {number:g}"
        )
    return number


def _invalid(name: str, problem: str) -> InputError:
    return InputError("polycam.invalid_camera", f"{name} {problem}")


def _keyframe(stem: str, files: dict[str, dict[str, Entry]], read: Reader) -> Keyframe | None:
    """Read one keyframe; None if its camera or its picture is missing."""
    corrected = stem in files["corrected_cameras"] and stem in files["corrected_images"]
    prefix = "corrected_" if corrected else ""
    camera, image = files[f"{prefix}cameras"].get(stem), files[f"{prefix}images"].get(stem)
    if camera is None or image is None:
        return None
    name = f"{camera.folder.rpartition('/')[2]}/{camera.name}"
    try:
        data = read(camera, MAX_CAMERA_BYTES)
    except InputError as error:
        if not error.code.startswith("image."):
            raise
        raise _invalid(name, f"cannot be read: {error.message}") from error
    # isdecimal, because int() accepts nothing else; a longer number is not a timestamp.
    stamp = int(stem) if stem.isdecimal() and len(stem) <= 20 else None
    depth, confidence = files["depth"].get(stem), files["confidence"].get(stem)
    return Keyframe(
        stem,
        stamp,
        **parse_camera(data, name),
        image=image,
        corrected=corrected,
        depth=depth,
        confidence=confidence if depth is not None else None,
    )


def _files(source: Listing, uri: str) -> dict[str, dict[str, Entry]]:
    """The files of an export: name of each of its six folders -> stem -> file."""
    root = _keyframes_folder(source, uri)
    _, children = source.list_folder(root)
    files: dict[str, dict[str, Entry]] = {}
    for folder, endings in (
        ("images", PICTURE_EXTENSIONS),
        ("corrected_images", PICTURE_EXTENSIONS),
        ("cameras", (".json",)),
        ("corrected_cameras", (".json",)),
        ("depth", (".png",)),
        ("confidence", (".png",)),
    ):
        entries = source.list_folder(f"{root}/{folder}")[0] if folder in children else []
        files[folder] = {}
        for entry in entries:
            path = PurePosixPath(entry.name)
            if entry.name.startswith(".") or path.suffix.lower() not in endings:
                continue
            if not entry.safe:
                raise InputError("capture.unsafe_path", f"{folder}/{entry.name} leads outside of {uri}")
            files[folder].setdefault(path.stem, entry)
    if not files["cameras"] and not files["corrected_cameras"]:
        raise InputError("polycam.not_an_export", f"{uri} has a folder keyframes without cameras")
    return files


def _keyframes_folder(source: Listing, uri: str) -> str:
    """Path of the folder `keyframes`: at the root, or below a chain of single folders.

    Raises:
        InputError: `polycam.not_an_export`.
    """
    folder = ""
    for _ in range(4):
        children = [name for name in source.list_folder(folder)[1] if is_visible(name)]
        if "keyframes" in children:
            return f"{folder}/keyframes" if folder else "keyframes"
        if len(children) != 1:
            break
        folder = f"{folder}/{children[0]}" if folder else children[0]
    raise InputError("polycam.not_an_export", f"{uri} holds no folder keyframes")


@contextmanager
def _reader(uri: str) -> Iterator[Reader]:
    if not uri.lower().endswith(".zip"):
        yield lambda entry, limit: read_bytes(entry.uri, limit)
        return
    # One archive for all reads: reopening it for each member would parse its directory thousands of times.
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open(uri))
        except Exception as error:
            # fsspec backends share no exception type.
            raise InputError("capture.not_found", f"{uri}: {type(error).__name__}: {error}") from error
        try:
            members_of(file, ArchiveLimits())
            archive = stack.enter_context(zipfile.ZipFile(file))
        except _DAMAGED as error:
            raise InputError("capture.invalid_archive", f"{uri}: {error}") from error
        _check_members(archive, uri)
        yield lambda entry, limit: _member(archive, entry, limit)


def _open(uri: str) -> AbstractContextManager[Any]:
    return open(local_path(uri), "rb") if is_local(uri) else fsspec.open(uri, "rb")


def _check_members(archive: zipfile.ZipFile, uri: str) -> None:
    seen: set[str] = set()
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        windows = PureWindowsPath(name)
        if name.startswith("/") or windows.drive or ".." in windows.parts or "::" in name:
            raise InputError("capture.unsafe_path", f"{uri} holds {member.filename!r}, which leads outside of it")
        if member.flag_bits & 0x1:
            raise InputError("capture.invalid_archive", f"{uri} is encrypted")
        if name in seen:
            raise InputError("capture.invalid_archive", f"{uri} holds {member.filename!r} twice")
        seen.add(name)


def _member(archive: zipfile.ZipFile, entry: Entry, limit: int) -> bytes:
    # The URI is one that `listing_of` made; `_check_members` refused names that contain "::".
    name = entry.uri.removeprefix("zip://").partition("::")[0]
    try:
        member = archive.getinfo(name)
        if member.file_size > limit:
            raise InputError("image.too_many_bytes", f"{entry.name} has {member.file_size} bytes; the limit is {limit}")
        with archive.open(member) as file:
            data = file.read(limit + 1)
    except _DAMAGED as error:
        raise InputError("capture.invalid_archive", f"{name}: {type(error).__name__}: {error}") from error
    if not data:
        raise InputError("image.empty", f"{entry.name} holds no bytes")
    return data
