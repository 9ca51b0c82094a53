"""Files that are one photo: the same bytes, or the same picture saved again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.resample import resized

SIDE = 384
"""Photos are compared at this size of the longer side [pixels]."""
BLUR_PX = 6.0
"""Wider than what a smaller copy or a compression changes, narrower than a handle [pixels]."""
COARSE = 4
"""Every fourth pixel of photos that are blurred by `BLUR_PX`."""
WORST_SHARE = 0.005
"""The difference counts that so much of the product exceeds: two views of a plain cup differ by the handle alone."""
SAME = 0.26
"""Copies at half the size and JPEG quality 60 differ by 0.01 … 0.22, two photos of 45 degrees apart by 0.30 and more on a plain
cup, 0.62 and more on all other of 20 photo sets, apple and tomato among them (`benchmarks/check.py`)."""


@dataclass(frozen=True)
class Look:
    """A photo as it is compared."""

    colours: NDArray[np.float32]
    """[h, w, 3], blurred."""
    product: NDArray[np.bool_]
    """[h, w]."""


def duplicates(
    photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], *, same: float = SAME
) -> list[tuple[int, int]]:
    """Pairs of photos that are one photo, by index, the earlier one first.

    Args:
        photos: uint8 [H, W, 3]; sizes may differ.
        masks: uint8 [H, W] each, none empty: what stands still behind the product is alike in all photos and tells nothing.
        same: Difference below which a pair is one photo.
    """
    looks = [look(photo, mask) for photo, mask in zip(photos, masks, strict=True)]
    return [
        (a, b)
        for a, b in combinations(range(len(looks)), 2)
        # Blurred photos are told apart by one pixel in sixteen, in a tenth of the time; what could be one is looked at whole.
        if difference(looks[a], looks[b], step=COARSE) < 2 * same and difference(looks[a], looks[b]) < same
    ]


def look(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Look:
    """What is compared of a photo."""
    scale = SIDE / max(photo.shape[:2])
    size = (max(8, round(photo.shape[0] * scale)), max(8, round(photo.shape[1] * scale)))
    colours = cv2.GaussianBlur(resized(photo, size).astype(np.float32), (0, 0), BLUR_PX)
    return Look(np.asarray(colours, np.float32), resized(mask, size) >= 128)


def difference(first: Look, second: Look, *, step: int = 1) -> float:
    """How different two photos are where either shows product, in their own contrast; 0 = the same.

    Args:
        first: A photo.
        second: The photo that it is compared with.
        step: Every so many pixels are compared, each way.
    """
    if first.product.shape != second.product.shape:
        return float("inf")
    either = cv2.dilate((first.product | second.product).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    either = either[::step, ::step]
    a, b = first.colours[::step, ::step][either], second.colours[::step, ::step][either]
    if not a.size:
        return 0.0
    contrast = float(np.sqrt(np.concatenate([a, b]).var(0).sum()))
    return float(np.quantile(np.abs(a - b).max(-1), 1 - WORST_SHARE)) / max(contrast, 1e-6)
