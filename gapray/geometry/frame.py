"""Place photos in one common frame: a square picture in which the product stands alike in every view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gapray.resample import cropped

_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)

MAX_OFF_CENTRE = 0.01
"""Boxes within this fraction of a side of the centre in nearly all photos were centred photo by photo."""


@dataclass(frozen=True)
class Placement:
    """The square of a photo that becomes the frame."""

    x: float
    """Its centre [photo pixels, from the left edge]."""
    y: float
    """Its centre [photo pixels, from the upper edge]."""
    half: float
    """Half its side [photo pixels]."""

    def moved(self, du: float, dv: float, scale: float) -> Placement:
        """The square around the point that this one shows at (du, dv), `scale` times as large."""
        return Placement(self.x + du * self.half, self.y + dv * self.half, self.half * scale)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, upper and lower edge [photo pixels]."""
        return self.x - self.half, self.x + self.half, self.y - self.half, self.y + self.half


@dataclass(frozen=True)
class Layout:
    """How the photos of one product are placed in the frame."""

    placements: tuple[Placement, ...]
    """One for each photo."""
    own_crops: bool
    """Each photo may have a frame of its own: the product's position in it says nothing about the camera."""


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Bounding box of a mask: left, right, upper and lower edge [pixels].

    Raises:
        ValueError: The mask is empty.
    """
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not columns.size:
        raise ValueError("a mask is empty")
    return int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1


def lay_out(masks: Sequence[NDArray[np.bool_]], *, framing: Literal["product", "photo"], margin: float) -> Layout:
    """Choose the frame.

    Args:
        masks: One silhouette for each photo, bool [H, W], none empty; sizes may differ.
        framing: ``product`` centres the turning product; ``photo`` keeps the photo's own framing, padded to a square.
            Photos of different sizes are always framed by the product, unless they differ only in being upright or lying: then a
            camera was turned by 90 degrees, which leaves the picture's centre and scale as they were.
        margin: ``product`` only: minimum empty border, in half frames.

    Raises:
        ValueError: A mask is empty.
    """
    box = np.array([mask_box(mask) for mask in masks], dtype=float)
    sides = np.array([mask.shape for mask in masks], dtype=float)
    centre_x, centre_y = box[:, :2].mean(1), box[:, 2:].mean(1)
    width, height = box[:, 1] - box[:, 0], box[:, 3] - box[:, 2]
    if np.ptp(np.sort(sides, axis=1), axis=0).any():
        # A turning product keeps its height, so heights give the scale.
        half = 0.5 * height * max(1.0, float((width / height).max())) / (1 - margin)
        return Layout(tuple(map(Placement, centre_x, centre_y, half)), own_crops=True)
    # Shifts that bring the photos' centres together.
    shift_x, shift_y = (sides[:, 1] - sides[0, 1]) / 2, (sides[:, 0] - sides[0, 0]) / 2
    box -= np.stack([shift_x, shift_x, shift_y, shift_y], axis=1)
    off_centre = np.abs(np.stack([centre_x / sides[:, 1], centre_y / sides[:, 0]]) - 0.5)
    centred = bool((off_centre < MAX_OFF_CENTRE).all(0).mean() >= 0.75)
    if framing == "photo":
        placement = Placement(sides[0, 1] / 2, sides[0, 0] / 2, float(sides[0].max()) / 2)
    else:
        axis_x = float((centre_x - shift_x).mean())
        upper, lower = box[:, 2].min(), box[:, 3].max()
        reach = max(np.abs(box[:, :2] - axis_x).max(), (lower - upper) / 2)
        placement = Placement(axis_x, float(upper + lower) / 2, float(reach) / (1 - margin))
    placements = (
        Placement(placement.x + float(right), placement.y + float(down), placement.half)
        for right, down in zip(shift_x, shift_y, strict=True)
    )
    return Layout(tuple(placements), own_crops=centred)


def to_frame(image: NDArray[_Pixel], placement: Placement, size: int, *, outside: int = 0) -> NDArray[_Pixel]:
    """Resample a photo, or a map of its size, into the frame: by area averaging when reducing, cubic when enlarging.

    Args:
        image: uint8 or uint16, [H, W] or [H, W, C].
        placement: Where the frame lies in it.
        size: Side of the frame [pixels].
        outside: Value beyond the photo's edges.

    Returns:
        [size, size] or [size, size, C].
    """
    return cropped(image, placement.box, (size, size), outside=outside)
