"""Signed distances of silhouettes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

REACH_PX = 16.0
"""Distances are clipped here: nothing depends on larger ones, and short ones interpolate better."""


def signed_distance(alpha: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Signed distance to the outline, positive inside, with subpixel accuracy where the mask is soft.

    Args:
        alpha: uint8 [S, S], 128 and above = product.

    Returns:
        float32 [S, S] in pixels, within ±`REACH_PX`.
    """
    inside = (alpha >= 128).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    # The transform measures between pixel centres; the outline is half a pixel nearer, where alpha says.
    soft = (alpha.astype(np.float32) - 127.5) / 255
    distance = np.where(np.abs(distance) <= 1, soft, distance - np.sign(distance) * 0.5)
    return np.clip(distance, -REACH_PX, REACH_PX).astype(np.float32)
