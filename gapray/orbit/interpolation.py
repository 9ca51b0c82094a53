"""Between two photos along the optical flow from one to the other: ordinary frame interpolation, which knows no shape."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Motion:
    """Where the image in between finds its pixels in the two images that it lies between."""

    share: float
    """How far it lies from the first to the second, 0 … 1."""
    in_first: NDArray[np.float32]
    """[S, S, 2], pixels; OpenCV's convention: x, y, pixel centres at integers."""
    in_second: NDArray[np.float32]

    def applied(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
        """Two float32 [S, S] or [S, S, C] images moved to the time in between, then cross-faded.

        Beyond an image's edge its nearest pixel goes on.
        """
        moved = [
            cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for image, at in ((first, self.in_first), (second, self.in_second))
        ]
        return np.asarray(moved[0] * (1 - self.share) + moved[1] * self.share, np.float32)


def motion_between(first: Image, second: Image, share: float) -> Motion:
    """The motion to a time in between.

    Equation 4 of Jiang et al. (2018, "Super SloMo"), from flow by dense inverse search (Kroeger et al. 2016), OpenCV's medium
    preset.

    Args:
        first: uint8 [S, S] or [S, S, 3], sRGB.
        second: uint8 of the same shape.
        share: How far from the first to the second, 0 … 1.
    """
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    there, back = solver.calc(grey[0], grey[1], None), solver.calc(grey[1], grey[0], None)
    y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
    grid = np.stack([x, y], -1)
    return Motion(
        share,
        np.asarray(grid - (1 - share) * share * there + share**2 * back, np.float32),
        np.asarray(grid + (1 - share) ** 2 * there - share * (1 - share) * back, np.float32),
    )
