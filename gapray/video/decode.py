"""Read the frames of foreign videos, within limits; and the turn in a video of our own."""

from __future__ import annotations

import io
import math
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.capture.stems import by_name
from gapray.capture.video import MAX_SIDE, check_frame, count_frames, frame_size, frames_of
from gapray.errors import FileError, InputError, writing
from gapray.resample import at_most
from gapray.video.presets import Output, Preset

MAX_FRAMES = 5_400
"""90 seconds at 60 frames a second."""
MAX_BYTES = 512 * 2**20
"""Maximum memory of all frames read from one video."""
MAX_DECODED_PIXELS = 12 * 10**9
"""Maximum width x height x frames of one video, all of which are decoded: 1920 x 1080 for 90 seconds at 60 frames a second."""
DURATION_TOLERANCE_MS = 1.0
"""Formats round the duration of a frame by this much on average."""

_Mapped = TypeVar("_Mapped")
_WEBP_ERRORS = (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError)


def read_frames(path: Path, *, max_frames: int = MAX_FRAMES, side: int | None = None) -> list[NDArray[np.uint8]]:
    """Read the frames of a video, gif, webp, or folder of images, in order, evenly spaced from the first.

    Frames are selected and reduced while the video is read, so that at most `MAX_BYTES` of them are held.

    Args:
        path: File, or folder whose images are read in the order of their names.
        max_frames: Maximum number of frames.
        side: Reduce to at most this many pixels on the longer side.

    Returns:
        uint8 [H, W, 3] each, sRGB, upright; at least one.

    Raises:
        InputError: `video.unreadable`, `video.too_long`, `video.too_many_pixels`, or an `image.*` code for a file of a folder.
    """
    return map_frames(path, lambda frame: frame, max_frames=max_frames, side=side)


def map_frames(
    path: Path,
    function: Callable[[NDArray[np.uint8]], _Mapped],
    *,
    max_frames: int = MAX_FRAMES,
    side: int | None = None,
) -> list[_Mapped]:
    """Apply a function to each frame of a video, holding one frame at a time.

    Args:
        path: File or folder, as for `read_frames`.
        function: Maps a frame, uint8 [H, W, 3], sRGB, upright, to anything.
        max_frames: Maximum number of frames.
        side: Reduce to at most this many pixels on the longer side.

    Returns:
        One result for each frame, in order; at least one.

    Raises:
        InputError: `video.unreadable`, `video.too_long`, `video.too_many_pixels`, or an `image.*` code for a file of a folder.
    """
    if path.is_dir():
        results = _folder(path, function, max_frames, side)
    elif _is_webp(path):
        results = _webp(path, function, max_frames, side)
    else:
        results = _video(path, function, max_frames, side)
    if not results:
        raise InputError("video.unreadable", f"{path} holds no frame")
    return results


def evenly_spaced(count: int, max_count: int) -> list[int]:
    """Indices of at most `max_count` of `count` items, evenly spaced from the first."""
    chosen = min(count, max_count)
    return [(2 * index * count + chosen) // (2 * chosen) for index in range(chosen)]


def _pixels(frames: int) -> int:
    """Maximum size of each of a number of frames, so that all fit into `MAX_BYTES` [pixels]."""
    return MAX_BYTES // (3 * max(frames, 1))


def _checked(count: int, path: Path, size: tuple[int, int] = (0, 0)) -> int:
    if count > MAX_FRAMES:
        raise InputError("video.too_long", f"{path} holds {count} frames; {MAX_FRAMES} at most are read")
    if count * size[0] * size[1] > MAX_DECODED_PIXELS:
        message = (
            f"{path} holds {count} frames of {size[0]} x {size[1]} pixels; {MAX_DECODED_PIXELS} in all are decoded"
        )
        raise InputError("video.too_many_pixels", message)
    return count


def _video(
    path: Path, function: Callable[[NDArray[np.uint8]], _Mapped], max_frames: int, side: int | None
) -> list[_Mapped]:
    size = frame_size(path)

    def chosen(count: int) -> tuple[list[int], list[_Mapped]]:
        wanted = evenly_spaced(_checked(count, path, size), max_frames)
        found = frames_of(path, only=frozenset(wanted), side=side, pixels=_pixels(len(wanted)))
        return wanted, [function(frame) for _, frame in found]

    wanted, frames = chosen(count_frames(path))
    if len(frames) < len(wanted):  # damaged, or with packets that hold no frame
        wanted, frames = chosen(count_frames(path, decode=True))
    return frames


def _folder(
    path: Path, function: Callable[[NDArray[np.uint8]], _Mapped], max_frames: int, side: int | None
) -> list[_Mapped]:
    names = [file.name for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    files = [path / name for name in by_name(names)]
    wanted = evenly_spaced(_checked(len(files), path), max_frames)
    settings = DecodeSettings()
    longer = min(side or settings.reference_side, settings.reference_side, math.isqrt(_pixels(len(wanted))))
    return [function(at_most(decode_photo(files[index].read_bytes(), settings), longer)) for index in wanted]


def _webp(
    path: Path, function: Callable[[NDArray[np.uint8]], _Mapped], max_frames: int, side: int | None
) -> list[_Mapped]:
    """Read a WebP with Pillow: FFmpeg cannot read animated WebP."""
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            check_frame(path, *image.size)
            wanted = evenly_spaced(_checked(getattr(image, "n_frames", 1), path, image.size), max_frames)
            scale = min(1.0, math.sqrt(_pixels(len(wanted)) / (image.width * image.height)))
            longer = min(side or MAX_SIDE, math.floor(scale * max(image.size)))
            chosen = frozenset(wanted)
            frames = (frame for index, frame in enumerate(ImageSequence.Iterator(image)) if index in chosen)
            return [function(at_most(np.asarray(frame.convert("RGB")), longer)) for frame in frames]
    except _WEBP_ERRORS as error:
        raise InputError("video.unreadable", f"{path}: {error}") from error


def one_turn(files: Mapping[str, bytes], preset: Preset, frames: int) -> NDArray[np.uint8]:
    """Extract one turn from a delivered video, undoing holds, repetitions, archives and padding.

    Args:
        files: Relative name -> content, of a video exported with `preset`.
        preset: Says which file holds the turn, and how.
        frames: Number of frames in one turn.

    Returns:
        uint8 [frames, S, S, 3].

    Raises:
        InputError: `score.no_video` when no file holds whole frames, `video.unreadable`.
    """
    inside = _unzipped(files, preset.zip) if preset.zip else files
    for output in preset.files:
        decoded = _of_output(inside, output, frames)
        if decoded is None:
            continue
        if len(decoded) != frames:
            raise InputError("video.unreadable", f"{output.name} holds {len(decoded)} frames, not {frames}")
        height, width = decoded[0].shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return np.stack([frame[top : top + side, left : left + side] for frame in decoded])
    raise InputError("score.no_video", f"preset {preset.name} has no file that holds the frames")


def _of_output(files: Mapping[str, bytes], output: Output, frames: int) -> Sequence[NDArray[np.uint8]] | None:
    """Frames in one output of a preset; None if it holds none."""
    if output.kind == "frames":
        pattern = re.sub(r"\{[^}]*\}", "*", output.name)
        names = sorted(name for name in files if PurePosixPath(name).match(pattern))
        return [decode_photo(files[name]) for name in names]
    if output.name not in files:
        return None
    if output.kind == "mp4":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "turn.mp4"
            with writing(FileError, "file.write_failed", path):
                path.write_bytes(files[output.name])
            shown = frames_of(path, only=range(0, frames * output.hold, output.hold))
            return [frame for _, frame in islice(shown, frames)]
    if output.kind in ("gif", "webp"):
        return _timed(files[output.name], output, frames)
    return None


def _timed(data: bytes, output: Output, frames: int) -> list[NDArray[np.uint8]]:
    """Frames of an animation by their times, because encoders merge equal successive frames into one long frame."""
    try:
        with Image.open(io.BytesIO(data), formats=[output.kind.upper()]) as image:
            pictures, ends = zip(*_with_ends(image), strict=True)
    except _WEBP_ERRORS as error:
        raise InputError("video.unreadable", f"{output.name}: {error}") from error
    # Browsers slow down faster GIFs, so none is made.
    each = max(1000 / output.fps, 20.0) if output.kind == "gif" else 1000 / output.fps
    if abs(ends[-1] / frames - each) > DURATION_TOLERANCE_MS:
        raise InputError("video.unreadable", f"{output.name} lasts {ends[-1]:g} ms, not {frames * each:g}")
    middles = (np.arange(frames) + 0.5) * ends[-1] / frames
    return [pictures[index] for index in np.searchsorted(ends, middles, side="right")]


def _with_ends(image: Image.Image) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Each frame of an animation, uint8 [H, W, 3], and its end time [ms]."""
    end = 0.0
    for frame in ImageSequence.Iterator(image):
        picture = np.asarray(frame.convert("RGB"))
        end += frame.info.get("duration", 0)
        yield picture, end


def _unzipped(files: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    if name not in files:
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(files[name])) as archive:
            return {inner: archive.read(inner) for inner in archive.namelist()}
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise InputError("video.unreadable", f"{name}: {error}") from error


def _is_webp(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise InputError("video.unreadable", f"{path}: {error}") from error
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"
