"""Backend `external`: a video from elsewhere (an mp4 from Runway, for example), so that it can be scored in the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gapray.gap.package import GapPackage
from gapray.orbit.conditions import OrbitConditions
from gapray.resample import resized
from gapray.video.backend import Capabilities
from gapray.video.decode import read_frames


class External:
    """Frames of a video file, resampled in time to the orbit's number of frames and fitted into its square.

    The azimuth of a frame is unknown: frame i of F is placed where it would be in an even turn. Scores of such a video
    need alignment (`gapray.fidelity`).

    Args:
        path: mp4, webm, gif, webp, or a folder of images.
        label: Name of the video in reports.
    """

    def __init__(self, path: Path, *, label: str = "external") -> None:
        self._path = path
        self.capabilities = Capabilities(
            name=label,
            max_frames=None,
            multiple_of=1,
            needs_gpu=False,
            licence="unknown",
            source_type="trainedAlgorithmicMedia",
        )

    def generate(
        self, package: GapPackage, conditions: OrbitConditions, settings: object = None, *, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Read the frames, as described in `VideoBackend.generate`.

        Raises:
            InputError: `video.unreadable`, `video.too_long`.
        """
        del package, settings, seed
        count, side = conditions.depth.shape[:2]
        frames = read_frames(self._path, max_frames=count, side=side)
        fitted = [letterboxed(frame, side, side, conditions.background) for frame in frames]
        return np.stack([fitted[index * len(fitted) // count] for index in range(count)])


def letterboxed(
    image: NDArray[np.uint8], width: int, height: int, background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Fit an image into the middle of a canvas, keeping its aspect ratio.

    Args:
        image: uint8 [h, w, 3].
        width: Width of the canvas [pixels].
        height: Height of the canvas [pixels].
        background: sRGB colour of the rest.

    Returns:
        uint8 [height, width, 3].
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = background
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = resized(image, inner)
    return canvas
