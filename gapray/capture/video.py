"""Decoding videos to upright sRGB frames with square pixels and their times."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.capture.colours import (
    exceeds_sdr_white,
    is_hdr,
    is_unknown,
    needs_conversion,
    to_srgb,
)
from gapray.errors import InputError

MAX_SIDE = 4096
MAX_PIXELS = 4096 * 2304
"""Maximum number of pixels in a frame: cinema and television 4K in either orientation."""
MAX_FRAME_BYTES = 4 * MAX_PIXELS
"""Maximum memory of a decoded frame, enough for 4K in 10-bit 4:2:2. H.264 decoders hold 16 reference frames, and one per thread."""
MAX_THREADS = 4
DEMUXERS = ("mov", "matroska", "avi", "gif")
"""FFmpeg's demuxers for mp4, mov and m4v; mkv and webm; avi; gif. No others are allowed: playlists, `ffconcat` and more of its over
300 demuxers open further files and addresses that the file names."""
_OPTIONS = {
    "format_whitelist": ",".join(DEMUXERS),
    "protocol_whitelist": "file",
    # Also applies to the decoders with which FFmpeg probes a stream: the size in the container may be wrong.
    "max_pixels": str(MAX_PIXELS),
}
WHITE_SIDE = 512
"""Longer side at which key frames are searched for their brightest pixels [pixels]."""
VIDEO_EXTENSIONS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")


def is_video_name(name: str) -> bool:
    """Whether a file name has the extension of a video."""
    return name.lower().endswith(VIDEO_EXTENSIONS)


def count_frames(path: str | Path, *, decode: bool = False) -> int:
    """Number of frames in a video.

    Args:
        path: A video that FFmpeg can read.
        decode: Count the frames that can be decoded; otherwise the packets, which is fast but too many for some files.

    Raises:
        InputError: `video.unreadable` or `video.too_many_pixels`.
    """
    with _open(path) as (container, stream):
        return sum(1 for _ in container.decode(stream)) if decode else sum(p.size > 0 for p in container.demux(stream))


def frame_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a video's frames as stored [pixels].

    Args:
        path: A video that FFmpeg can read.

    Raises:
        InputError: `video.unreadable` or `video.too_many_pixels`.
    """
    with _open(path) as (_, stream):
        return stream.width, stream.height


def frames_of(
    path: str | Path,
    *,
    grey: bool = False,
    side: int | None = None,
    pixels: int | None = None,
    only: Container[int] | None = None,
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Decode a video frame by frame; only one frame is held at a time.

    If the file's pixels are not square (by its sample aspect ratio), their shorter side is stretched to the longer, as far as
    `MAX_SIDE` and `MAX_PIXELS` allow.

    Matrix, range, primaries and transfer are taken from the file; the default is BT.601 with sRGB primaries, as FFmpeg writes
    it. HDR is converted to standard range (`gapray.capture.colours`) with the white of ITU-R BT.2408, except in files that
    FFmpeg wrote and in which nothing is brighter than standard-range white.

    Args:
        path: A video that FFmpeg can read.
        grey: Luma only; that of HDR is not converted.
        side: Maximum length of the longer side [pixels]; larger frames are shrunk.
        pixels: Maximum number of pixels; larger frames are shrunk.
        only: Indices of the frames to yield; the others are decoded but not converted.

    Yields:
        The time in seconds, strictly increasing, and the frame: uint8 [H, W, 3] sRGB or [H, W] luma, rotated as the file says.

    Raises:
        InputError: `video.unreadable` or `video.too_many_pixels`; `video.unknown_colours` for linear or log footage.
    """
    with _open(path) as (container, stream):
        shape = _pixel_shape(stream)
        last, spacing = -1.0, 1 / float(stream.average_rate or 30)
        converted: bool | None = None
        for index, frame in enumerate(container.decode(stream)):
            seconds = float(frame.time) if frame.time is not None else last + spacing
            last = seconds if seconds > last else last + 1e-3  # some phones repeat a time
            _check_size(path, frame.width, frame.height, frame.format)
            if is_unknown(frame.color_primaries, frame.color_trc):
                tags = f"primaries {frame.color_primaries} and transfer {frame.color_trc}"
                raise InputError("video.unknown_colours", f"{path} has {tags} (ITU-T H.273): linear or log footage")
            if only is not None and index not in only:
                continue
            size = _size(frame, shape, side, pixels)
            if grey:
                picture = _converted(frame, "gray", size)
            elif needs_conversion(frame.color_primaries, frame.color_trc):
                signal = _converted(frame, "rgb48le", size)
                if converted is None:
                    converted = is_hdr(frame.color_trc) and _is_converted(path, frame.color_trc)
                picture = to_srgb(signal, frame.color_primaries, frame.color_trc, converted=converted)
            else:
                picture = _converted(frame, "rgb24", size)
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            yield last, np.ascontiguousarray(np.rot90(picture, turns))


def _is_converted(path: str | Path, transfer: int) -> bool:
    """Whether an HDR video was converted from standard range, by its tags and key frames, whichever frames are requested."""
    with _open(path) as (container, stream):
        if not _may_be_converted(container.metadata):
            return False
        stream.codec_context.skip_frame = "NONKEY"
        shape = _pixel_shape(stream)
        pictures = (
            _converted(frame, "rgb48le", _size(frame, shape, WHITE_SIDE, None)) for frame in container.decode(stream)
        )
        return not any(exceeds_sdr_white(picture, transfer) for picture in pictures)


def _may_be_converted(tags: Mapping[str, str]) -> bool:
    """Whether FFmpeg wrote a file that names no camera."""
    known = {key.lower(): value for key, value in tags.items()}
    by_camera = any(key.endswith((".make", ".model")) or key in ("make", "model") for key in known)
    return known.get("encoder", "").startswith("Lav") and not by_camera


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[Any, Any]]:
    import av

    try:
        # The prefix keeps FFmpeg from reading a colon in the file's name as a protocol.
        with av.open(f"file:{path}", options=_OPTIONS) as container:
            if not container.streams.video:
                raise InputError("video.unreadable", f"{path} has no video stream")
            stream = container.streams.video[0]
            if not stream.width or not stream.height:
                raise InputError("video.unreadable", f"{path} has no frame of 1 to {MAX_PIXELS} pixels")
            _check_size(path, stream.width, stream.height, stream.codec_context.format)
            stream.codec_context.options = {"max_pixels": _OPTIONS["max_pixels"]}
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = min(MAX_THREADS, os.cpu_count() or 1)
            yield container, stream
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError("video.unreadable", f"{path}: {error}") from error


def check_frame(path: str | Path, width: int, height: int) -> None:
    """Refuse a video whose frames are too large.

    Raises:
        InputError: `video.too_many_pixels`.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        message = f"{path} is {width} x {height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read"
        raise InputError("video.too_many_pixels", message)


def _check_size(path: str | Path, width: int, height: int, format: Any) -> None:
    check_frame(path, width, height)
    size = width * height * (format.padded_bits_per_pixel if format is not None else 0) // 8
    if size > MAX_FRAME_BYTES:
        message = f"{path} has frames of {size} bytes ({format.name}); at most {MAX_FRAME_BYTES} are decoded"
        raise InputError("video.too_many_pixels", message)


def _pixel_shape(stream: Any) -> float:
    """Width of a pixel over its height; 1 by default."""
    return float(stream.sample_aspect_ratio or 1)


def _size(frame: Any, shape: float, side: int | None, pixels: int | None) -> tuple[int, int]:
    """Width and height of a decoded frame, with square pixels.

    Args:
        frame: PyAV's frame.
        shape: Width of a stored pixel over its height.
        side: Maximum length of the longer side [pixels].
        pixels: Maximum number of pixels.
    """
    width, height = frame.width * max(shape, 1.0), frame.height / min(shape, 1.0)
    scale = min(1.0, min(side or MAX_SIDE, MAX_SIDE) / max(width, height))
    scale = min(scale, (min(pixels or MAX_PIXELS, MAX_PIXELS) / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _converted(frame: Any, format: str, size: tuple[int, int]) -> NDArray[Any]:
    """The frame's pixels, with matrix and range by its tags; area averages for shrinking, cubic interpolation for growing."""
    from av.video.reformatter import ColorRange, Interpolation

    exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    shrinks = size != (frame.width, frame.height) and size[0] <= frame.width and size[1] <= frame.height
    method = Interpolation.AREA if shrinks else Interpolation.BICUBIC
    picture = frame.reformat(*size, format=format, interpolation=method | exact, dst_color_range=ColorRange.JPEG)
    return np.asarray(picture.to_ndarray())
