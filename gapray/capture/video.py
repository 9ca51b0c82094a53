"""Videos -> frames, upright, with square pixels, in sRGB, with their times."""

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
"""Most pixels in a frame: 4K of cinema and of television, upright too."""
MAX_FRAME_BYTES = 4 * MAX_PIXELS
"""Most memory of a decoded frame: 4K in 4:2:2 with 10 bits, say. Decoders of H.264 hold 16 of them for reference, and one a thread."""
MAX_THREADS = 4
DEMUXERS = ("mov", "matroska", "avi", "gif")
"""FFmpeg's readers of mp4, mov and m4v, of mkv and webm, of avi, of gif. No other is ever opened: playlists, `ffconcat` and more of
its 300 and odd readers open further files and addresses that the file names."""
_OPTIONS = {
    "format_whitelist": ",".join(DEMUXERS),
    "protocol_whitelist": "file",
    # Of decoders, also of those with which FFmpeg looks for a stream's properties: what the container says may not be so.
    "max_pixels": str(MAX_PIXELS),
}
WHITE_SIDE = 512
"""Size in which key frames are looked at for the brightest there is [pixels]."""
VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")


def is_video_name(name: str) -> bool:
    """Whether a file is named as a video."""
    return name.lower().endswith(VIDEO_ENDINGS)


def count_frames(path: str | Path, *, decode: bool = False) -> int:
    """How many frames a video holds.

    Args:
        path: A file that FFmpeg reads.
        decode: Count the frames that can be decoded; otherwise the packets, which is quick, and of some files more.

    Raises:
        InputError: `video.unreadable` or `video.too_many_pixels`.
    """
    with _opened(path) as (container, stream):
        return sum(1 for _ in container.decode(stream)) if decode else sum(p.size > 0 for p in container.demux(stream))


def frame_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a video's frames [pixels], as the file stores them.

    Args:
        path: A file that FFmpeg reads.

    Raises:
        InputError: `video.unreadable` or `video.too_many_pixels`.
    """
    with _opened(path) as (_, stream):
        return stream.width, stream.height


def frames_of(
    path: str | Path,
    *,
    grey: bool = False,
    side: int | None = None,
    pixels: int | None = None,
    only: Container[int] | None = None,
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Decode a video frame by frame; no more than one is held.

    Where the file says that its pixels are not square (its sample aspect ratio), the shorter side of a pixel is stretched to the
    longer, as far as `MAX_SIDE` and `MAX_PIXELS` allow.

    Matrix, range, primaries and transfer are the file's own; where it says nothing, BT.601 with sRGB's primaries, as FFmpeg
    writes it. HDR becomes standard range (`gapray.capture.colours`); its white is that of ITU-R BT.2408, but for files that FFmpeg
    wrote and in which nothing is brighter than the white of standard range.

    Args:
        path: A file that FFmpeg reads.
        grey: Luma only; that of HDR is left as it is.
        side: Shrink to at most this many pixels on the longer side.
        pixels: Shrink to at most so many pixels.
        only: Indices of the frames that are wanted; the others are decoded and not converted.

    Yields:
        Seconds, which grow from frame to frame, and uint8 [H, W, 3] sRGB or [H, W] luma, turned as the file says.

    Raises:
        InputError: `video.unreadable` or `video.too_many_pixels`; `video.unknown_colours` for linear or log footage.
    """
    with _opened(path) as (container, stream):
        shape = _pixel_shape(stream)
        last, spacing = -1.0, 1 / float(stream.average_rate or 30)
        converted: bool | None = None
        for index, frame in enumerate(container.decode(stream)):
            seconds = float(frame.time) if frame.time is not None else last + spacing
            last = seconds if seconds > last else last + 1e-3  # some phones write a time twice
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
    """Whether an HDR video was converted from standard range, by its tags and key frames: one answer, whichever frames are wanted."""
    with _opened(path) as (container, stream):
        if not _may_be_converted(container.metadata):
            return False
        stream.codec_context.skip_frame = "NONKEY"
        shape = _pixel_shape(stream)
        pictures = (
            _converted(frame, "rgb48le", _size(frame, shape, WHITE_SIDE, None)) for frame in container.decode(stream)
        )
        return not any(exceeds_sdr_white(picture, transfer) for picture in pictures)


def _may_be_converted(tags: Mapping[str, str]) -> bool:
    """Whether FFmpeg wrote a file and no camera is named in it."""
    known = {key.lower(): value for key, value in tags.items()}
    by_camera = any(key.endswith((".make", ".model")) or key in ("make", "model") for key in known)
    return known.get("encoder", "").startswith("Lav") and not by_camera


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    import av

    try:
        # The prefix keeps a colon in a file's name from becoming another protocol.
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
    """Refuse a video by the size of its frames.

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
    """Width of a pixel over its height; 1 where the file says nothing."""
    return float(stream.sample_aspect_ratio or 1)


def _size(frame: Any, shape: float, side: int | None, pixels: int | None) -> tuple[int, int]:
    """Width and height at which a frame is wanted, with square pixels.

    Args:
        frame: Of PyAV.
        shape: Width of a stored pixel over its height.
        side: At most so many pixels on the longer side.
        pixels: At most so many pixels.
    """
    width, height = frame.width * max(shape, 1.0), frame.height / min(shape, 1.0)
    share = min(1.0, min(side or MAX_SIDE, MAX_SIDE) / max(width, height))
    share = min(share, (min(pixels or MAX_PIXELS, MAX_PIXELS) / (width * height)) ** 0.5)
    return max(1, round(width * share)), max(1, round(height * share))


def _converted(frame: Any, format: str, size: tuple[int, int]) -> NDArray[Any]:
    """Matrix and range by the frame's tags; area averages where it shrinks, cubic where a side grows."""
    from av.video.reformatter import ColorRange, Interpolation

    exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    shrinks = size != (frame.width, frame.height) and size[0] <= frame.width and size[1] <= frame.height
    way = Interpolation.AREA if shrinks else Interpolation.BICUBIC
    picture = frame.reformat(*size, format=format, interpolation=way | exact, dst_color_range=ColorRange.JPEG)
    return np.asarray(picture.to_ndarray())
