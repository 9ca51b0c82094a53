"""The seam between a packaged view and what draws it into a scene."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError
from gapray.gap.package import GapPackage, GapView
from gapray.stills.scene import Scene

WIDEST = 3.0
"""Longer side over shorter side, from which on nothing is drawn."""
MULTIPLE_OF = 8
"""Sides are divisible by this: a latent pixel of SDXL."""


@dataclass(frozen=True)
class Still:
    """One picture."""

    image: NDArray[np.uint8]
    """[H, W, 3], sRGB."""
    placed: NDArray[np.uint8]
    """[H, W]: where the product was asked to stand, 128 and above."""
    pasted: bool
    """Whether the product's pixels are the photo's own: its identity then proves nothing about the backend."""


class StillBackend(Protocol):
    """Draws a view of a package into a scene."""

    name: str
    licence: str

    def generate(self, package: GapPackage, view: GapView, scene: Scene, *, seeds: list[int]) -> list[Still]:
        """Draw.

        Args:
            package: All views are references of what the product looks like.
            view: The one that is shown.
            scene: Where.
            seeds: One a picture.

        Raises:
            InputError: `still.*`.
            ModelError: `model.*`.
        """
        ...


def still_size(height: int, width: int, megapixels: float) -> tuple[int, int]:
    """Height and width of a still in the photo's aspect.

    Args:
        height: Of the photo.
        width: Of the photo.
        megapixels: At most so many [2^20 pixels].

    Raises:
        InputError: `still.aspect` for sides more than `WIDEST` apart.
    """
    aspect = max(height, width) / min(height, width)
    if aspect > WIDEST:
        raise InputError(
            "still.aspect", f"{width} x {height}: one side is {aspect:.1f} times the other, {WIDEST:g} at most"
        )
    scale = math.sqrt(megapixels * 2**20 / (height * width))
    tall, wide = (max(MULTIPLE_OF, int(side * scale / MULTIPLE_OF) * MULTIPLE_OF) for side in (height, width))
    return tall, wide


def best_view(package: GapPackage, azimuth_deg: float | None) -> GapView:
    """The view that is asked for, or the front.

    Raises:
        InputError: `still.no_mask` when its mask is empty.
    """
    wanted = 0.0 if azimuth_deg is None else azimuth_deg
    view = min(package.views, key=lambda one: abs((one.azimuth_deg - wanted + 180) % 360 - 180))
    if not (view.mask >= 128).any():
        raise InputError("still.no_mask", f"{package.product_id}: {view.name} has no mask")
    return view
