"""Detection of duplicate photos: identical files, or the same picture saved again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.resample import resized

SIDE = 384
"""Longer side at which photos are compared [pixels]."""
BLUR_PX = 6.0
"""Wider than the effects of resizing and compression, narrower than a handle [pixels]."""
COARSE = 4
"""Pixel step of the coarse comparison, which photos blurred by `BLUR_PX` allow."""
WORST_FRACTION = 0.005
"""The difference is the one that this fraction of the product exceeds: two views of a plain cup differ only in the handle."""
SAME = 0.26
"""Largest difference of duplicates. Copies at half the size and JPEG quality 60 differ by 0.01 … 0.22; photos 45 degrees apart by at
least 0.30 for a plain cup and 0.62 for all others of 20 photo sets, including an apple and a tomato (`benchmarks/check.py`)."""


@dataclass(frozen=True)
class Fingerprint:
    """A photo reduced for comparison."""

    colours: NDArray[np.float32]
    """Blurred sRGB, [h, w, 3], 0 … 255."""
    product: NDArray[np.bool_]
    """Product mask, [h, w]."""


def duplicates(prints: Sequence[Fingerprint], *, same: float = SAME) -> list[tuple[int, int]]:
    """Find pairs of photos that show the same picture.

    Args:
        prints: Fingerprints of the photos. Only the product is compared, because a still background looks alike in all photos.
        same: Difference below which two photos are duplicates.

    Returns:
        Pairs of indices, the earlier photo first.
    """
    return [
        (a, b)
        for a, b in combinations(range(len(prints)), 2)
        # One pixel in sixteen of a blurred photo rules out most pairs in a tenth of the time; the rest are compared in full.
        if difference(prints[a], prints[b], step=COARSE) < 2 * same and difference(prints[a], prints[b]) < same
    ]


def fingerprints(photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> list[Fingerprint]:
    """The fingerprints of photos.

    Args:
        photos: uint8 [H, W, 3]; sizes may differ.
        masks: uint8 [H, W] each, none empty, 128 and above = product.
    """
    return [fingerprint(photo, mask) for photo, mask in zip(photos, masks, strict=True)]


def fingerprint(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of a photo.

    Args:
        photo: uint8 [H, W, 3].
        mask: uint8 [H, W], 128 and above = product.
    """
    scale = SIDE / max(photo.shape[:2])
    size = (max(8, round(photo.shape[0] * scale)), max(8, round(photo.shape[1] * scale)))
    colours = cv2.GaussianBlur(resized(photo, size).astype(np.float32), (0, 0), BLUR_PX)
    return Fingerprint(np.asarray(colours, np.float32), resized(mask, size) >= 128)


def difference(first: Fingerprint, second: Fingerprint, *, step: int = 1) -> float:
    """Difference of two photos where either shows the product, relative to their contrast.

    Args:
        first: Fingerprint of one photo.
        second: Fingerprint of the other photo.
        step: Stride of the compared pixels in both directions.

    Returns:
        0 for equal photos; infinite for photos of different shapes.
    """
    if first.product.shape != second.product.shape:
        return float("inf")
    either = cv2.dilate((first.product | second.product).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    either = either[::step, ::step]
    a, b = first.colours[::step, ::step][either], second.colours[::step, ::step][either]
    if not a.size:
        return 0.0
    contrast = float(np.sqrt(np.concatenate([a, b]).var(0).sum()))
    return float(np.quantile(np.abs(a - b).max(-1), 1 - WORST_FRACTION)) / max(contrast, 1e-6)
