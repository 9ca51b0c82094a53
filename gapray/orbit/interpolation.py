"""Interpolate between two photos along the optical flow: ordinary frame interpolation, without knowledge of shape."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Motion:
    """Where an in-between image finds its pixels in the two images around it."""

    fraction: float
    """Position between the first image and the second, 0 … 1."""
    in_first: NDArray[np.float32]
    """[S, S, 2], pixels; OpenCV's convention: x, y, pixel centres at integers."""
    in_second: NDArray[np.float32]
    """Likewise, in the second image."""

    def applied(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
        """Warp two float32 [S, S] or [S, S, C] images to the time in between, then cross-fade them.

        Beyond an image's edge the nearest pixel is repeated.
        """
        moved = [
            cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for image, at in ((first, self.in_first), (second, self.in_second))
        ]
        return np.asarray(moved[0] * (1 - self.fraction) + moved[1] * self.fraction, np.float32)


def motion_between(first: Image, second: Image, fraction: float) -> Motion:
    """Compute the motion to a time between two images.

    Equation 4 of Jiang et al. (2018, "Super SloMo"), with flow by dense inverse search (Kroeger et al. 2016), OpenCV's
    medium preset.

    Args:
        first: uint8 [S, S] or [S, S, 3], sRGB.
        second: uint8, same shape.
        fraction: Position between the first image and the second, 0 … 1.
    """
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    forward, backward = solver.calc(grey[0], grey[1], None), solver.calc(grey[1], grey[0], None)
    y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
    grid = np.stack([x, y], -1)
    return Motion(
        fraction,
        np.asarray(grid - (1 - fraction) * fraction * forward + fraction**2 * backward, np.float32),
        np.asarray(grid + (1 - fraction) ** 2 * forward - fraction * (1 - fraction) * backward, np.float32),
    )
