"""Synthetic stand-ins: a toy product that warms up models, and the grey turn that the null engine answers with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gapray.gap.package import GapPackage, GapView, Quality

_SIDE = 128


def toy_package(views: int = 8) -> GapPackage:
    """Return a package of a box with a stripe, with `views` views at even steps round it."""
    return GapPackage(
        "toy",
        "0" * 64,
        tuple(_view(360.0 * step / views) for step in range(views)),
        1.0,
        0.0,
        {"mask": "null-model", "depth": "null-model", "canny": "none", "identity": "null-model"},
    )


def grey_turn(frames: int = 4) -> NDArray[np.uint8]:
    """Return the null engine's frames: uint8 [frames, 64, 64, 3], all grey."""
    return np.full((frames, 64, 64, 3), 128, np.uint8)


def _view(azimuth_deg: float) -> GapView:
    angle = math.radians(azimuth_deg)
    half = int(_SIDE * (0.15 + 0.1 * abs(math.cos(angle))))
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    mask[_SIDE // 4 : -_SIDE // 4, _SIDE // 2 - half : _SIDE // 2 + half] = 255
    photo = np.where(mask[..., None] > 0, np.uint8(90), np.uint8(235)).repeat(3, axis=2)
    stripe = int(_SIDE / 2 + (half - 4) * math.sin(angle))
    photo[_SIDE // 4 : -_SIDE // 4, stripe - 2 : stripe + 3] = (200, 40, 40)
    return GapView(
        name=f"toy_{azimuth_deg:03.0f}",
        azimuth_deg=azimuth_deg,
        uri="",
        sha256="0" * 64,
        reference=photo,
        mask=mask,
        depth=np.where(mask > 0, 32768, 0).astype(np.uint16),
        canny=np.zeros_like(mask),
        identity=np.zeros(517, np.float32),
        quality=Quality(0.0, 0.0, 0.0),
    )
