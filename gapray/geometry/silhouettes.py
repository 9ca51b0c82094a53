"""Silhouettes as signed distances."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

REACH_PX = 16.0
"""Distances are cut here: farther from an outline nothing depends on them, and short ones interpolate better."""


def signed_distance(alpha: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance to the outline, positive inside, to a fraction of a pixel where the mask is soft.

    Args:
        alpha: uint8 [S, S], 128 and above = product.

    Returns:
        float32 [S, S] in pixels, within ±`REACH_PX`.
    """
    inside = (alpha >= 128).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    # A transform counts from pixel centre to pixel centre; the outline runs half a pixel nearer, where alpha says.
    soft = (alpha.astype(np.float32) - 127.5) / 255
    distance = np.where(np.abs(distance) <= 1, soft, distance - np.sign(distance) * 0.5)
    return np.clip(distance, -REACH_PX, REACH_PX).astype(np.float32)
