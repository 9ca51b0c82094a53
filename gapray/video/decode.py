"""Frames of a video that somebody else made, within limits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from gapray.capture.decode import decode_photo
from gapray.capture.video import MAX_SIDE, frames_of
from gapray.errors import InputError
from gapray.video.presets import Preset

MAX_FRAMES = 2_000


def read_frames(path: Path) -> list[NDArray[np.uint8]]:
    """All frames of a video, gif, webp, or folder of images, in order.

    Args:
        path: File, or folder whose images are read in the order of their names.

    Returns:
        uint8 [H, W, 3] each, sRGB, turned upright; at least one.

    Raises:
        InputError: `video.unreadable`, or an `image.*` code for a file of a folder.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        frames = [decode_photo(file.read_bytes()) for file in files[:MAX_FRAMES]]
    else:
        frames = _webp(path) if _is_webp(path) else [frame for _, frame in islice(frames_of(path), MAX_FRAMES)]
    if not frames:
        raise InputError("video.unreadable", f"{path} holds no frame")
    return frames


def one_turn(files: Mapping[str, bytes], preset: Preset, frames: int) -> NDArray[np.uint8]:
    """The frames of a delivered video: its first turn, holds and padding undone.

    Args:
        files: Relative name -> content, of a video made with `preset`.
        preset: Says which file holds the turn, and how.
        frames: Of one turn.

    Returns:
        uint8 [frames, S, S, 3].

    Raises:
        InputError: `score.no_video` when no file holds whole frames, `video.unreadable`.
    """
    for output in preset.files:
        if output.kind in ("mp4", "webp", "gif") and output.name in files:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / output.name
                path.write_bytes(files[output.name])
                decoded = read_frames(path)[: frames * output.hold : output.hold]
        elif output.kind == "frames" and not preset.zip:
            names = sorted(name for name in files if PurePosixPath(name).parent == PurePosixPath(output.name).parent)
            decoded = [decode_photo(files[name]) for name in names if name.endswith(".jpg")]
        else:
            continue
        if len(decoded) != frames:
            raise InputError("video.unreadable", f"{output.name} holds {len(decoded)} frames, not {frames}")
        height, width = decoded[0].shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return np.stack([frame[top : top + side, left : left + side] for frame in decoded])
    raise InputError("score.no_video", f"preset {preset.name} has no file that holds the frames")


def _is_webp(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise InputError("video.unreadable", f"{path}: {error}") from error
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def _webp(path: Path) -> list[NDArray[np.uint8]]:
    """By Pillow: FFmpeg reads no animated WebP."""
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            if max(image.size) > MAX_SIDE:
                raise InputError("video.unreadable", f"{path} is {image.width} x {image.height} pixels, too large")
            frames = islice(ImageSequence.Iterator(image), MAX_FRAMES)
            return [np.asarray(frame.convert("RGB")) for frame in frames]
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError("video.unreadable", f"{path}: {error}") from error
