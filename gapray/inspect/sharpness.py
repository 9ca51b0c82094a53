"""How sharp a photo is, and what that is worth against its neighbours."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Variance of the 3 x 3 Laplacian of uint8 [H, W] [grey levels squared]. Only photos of the same thing compare."""
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def halvings(sharp: float, best: float) -> float:
    """How often the sharpest of some photos would have to lose half its sharpness to have that of another."""
    # One grey level squared is the noise of any photo; without it nothing could be said of empty pictures.
    return float(np.log2((best + 1.0) / (sharp + 1.0)))
