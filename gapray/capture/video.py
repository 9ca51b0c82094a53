"""Videos -> frames, upright, with their times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError

MAX_SIDE = 4096
VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")


def is_video_name(name: str) -> bool:
    """Whether a file is named as a video."""
    return name.lower().endswith(VIDEO_ENDINGS)


def frames_of(
    path: str | Path, *, grey: bool = False, side: int | None = None
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Decode a video frame by frame; no more than one is held.

    Args:
        path: A file that FFmpeg reads.
        grey: Luminance only.
        side: Shrink to at most this many pixels on the longer side.

    Yields:
        Seconds, which grow from frame to frame, and uint8 [H, W, 3] sRGB or [H, W] luminance, turned as the file says.

    Raises:
        InputError: `video.unreadable`.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError("video.unreadable", f"{path} has no video stream")
            stream = container.streams.video[0]
            if max(stream.width, stream.height) > MAX_SIDE:
                raise InputError("video.unreadable", f"{path} is {stream.width} x {stream.height} pixels, too large")
            stream.thread_type = "AUTO"
            last, spacing = -1.0, 1 / float(stream.average_rate or 30)
            for frame in container.decode(stream):
                seconds = float(frame.time) if frame.time is not None else last + spacing
                last = seconds if seconds > last else last + 1e-3  # some phones write a time twice
                turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
                share = min(1.0, side / max(frame.width, frame.height)) if side else 1.0
                size = {"width": max(1, round(frame.width * share)), "height": max(1, round(frame.height * share))}
                picture = frame.to_ndarray(format="gray" if grey else "rgb24", **(size if share < 1 else {}))
                yield last, np.ascontiguousarray(np.rot90(picture, turns))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError("video.unreadable", f"{path}: {error}") from error
