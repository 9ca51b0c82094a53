"""Sharpness of photos, absolute and relative to each other."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Variance of the 3 x 3 Laplacian [grey levels squared]; comparable only between photos of the same scene.

    Args:
        grey: uint8 [H, W].
    """
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def halvings(sharp: float, best: float) -> float:
    """Number of times that the sharpness `best` has to be halved to give `sharp`; a real number."""
    # One grey level squared is the noise of any photo; without it the ratio would be undefined for empty pictures.
    return float(np.log2((best + 1.0) / (sharp + 1.0)))
