"""Outliers in a set of photos: rotated pictures and photos of another product.

Each photo is compared with the most similar one of the others. That needs neither angles nor geometry, and even a product whose sides
differ has neighbouring photos that look alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.inspect.findings import Finding
from gapray.models.identity import ColourGradient, mask_square
from gapray.resample import cropped

MIN_PHOTOS = 4
"""With fewer photos the outlier cannot be identified."""
MAX_OUTLIER_FRACTION = 0.25
"""If more photos than this fraction seem rotated, it is unknown which ones are upright."""
SIDE = 32
"""Side of the square around the product at which photos are compared [pixels]."""
ROTATED_RATIO, MIN_ROTATED_DISTANCE, MAX_CORRECTED_DISTANCE = 1.5, 0.065, 0.1
"""A photo is rotated if its `_distance` from the others exceeds the second value, and this many times its distance after rotating it
back, which must stay below the third: a pan seen along its handle looks rotated from the other side, but fits neither way."""
OTHER_RATIO, MIN_OTHER_DISTANCE = 2.0, 0.15
"""A photo shows another product if its distance from the nearest other photo (1 - cosine of `ColourGradient`) exceeds the second
value, and this many times the largest such distance among the others.

In 33 sets, as they are and with other starting angles, 4, 8 and 24 photos at a time, there is no false alarm (`benchmarks/check.py
odd`); about seven in ten photos rotated by 90 or 180 degrees are found, and nearly all photos of another set."""
TURNS = {1: "a quarter turn clockwise", 2: "upside down", 3: "a quarter turn counter-clockwise"}
"""Counter-clockwise quarter turns that would bring a photo upright -> its present rotation, in words."""


def find_outliers(
    names: Sequence[str], photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]
) -> list[Finding]:
    """Find photos that are rotated against the others or show another product.

    Args:
        names: Name of each photo.
        photos: uint8 [H, W, 3], sRGB; sizes may differ.
        masks: uint8 [H, W] each, none empty, 128 and above = product.

    Returns:
        Findings `photo.turned` and `photo.other_product`, at most one per photo; none for fewer than `MIN_PHOTOS` photos.
    """
    if len(names) < MIN_PHOTOS:
        return []
    findings = {
        index: Finding("photo.turned", (names[index],), f"against the others it stands {TURNS[turn]}")
        for index, turn in _find_rotated(photos, masks).items()
    }
    other = _find_other_product(photos, masks)
    if other is not None and other not in findings:
        message = "its colours and edges are unlike those of all other photos"
        findings[other] = Finding("photo.other_product", (names[other],), message)
    return [findings[index] for index in sorted(findings)]


def _find_rotated(photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> dict[int, int]:
    """Index of each rotated photo -> counter-clockwise quarter turns that would bring it upright."""
    squares = [_square(photo, mask) for photo, mask in zip(photos, masks, strict=True)]
    by_turn = [[_rows(np.rot90(square, turn)) for turn in range(4)] for square in squares]
    kept, rotated = list(range(len(photos))), {}
    while len(kept) >= MIN_PHOTOS:
        # The worst is removed first: next to it a good photo may look rotated, because rotating it makes the two alike.
        worst, worst_ratio = None, 0.0
        for index in kept:
            others = [by_turn[other][0] for other in kept if other != index]
            distances = [min(_distance(rows, other) for other in others) for rows in by_turn[index]]
            least = min(distances)
            ratio = distances[0] / max(least, 1e-6)
            looks_rotated = distances[0] > max(ROTATED_RATIO * least, MIN_ROTATED_DISTANCE)
            if looks_rotated and least < MAX_CORRECTED_DISTANCE and ratio > worst_ratio:
                worst, worst_ratio, turn = index, ratio, int(np.argmin(distances))
        if worst is None:
            break
        rotated[worst] = turn
        kept.remove(worst)
    return rotated if len(rotated) <= MAX_OUTLIER_FRACTION * len(photos) else {}


def _square(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The square around the product: its colours premultiplied by its mask, and the mask; float32 [SIDE, SIDE, 4], 0 … 1."""
    view = np.dstack([photo, mask]) / np.float32(255)
    view[..., :3] *= view[..., 3:]
    x, y, side = mask_square(mask)
    box = x - side / 2, x + side / 2, y - side / 2, y + side / 2
    return cropped(np.asarray(view, np.float32), box, (SIDE, SIDE), growth="linear")


def _rows(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean colour (CIE Lab / 100) and width of the product in each row, float32 [SIDE, 4].

    They change little as a product turns on a turntable. The colour of narrow rows is scaled down.
    """
    width = square[..., 3].mean(1, keepdims=True)
    rgb = square[..., :3].mean(1) / np.maximum(width, 1e-6)
    lab = cv2.cvtColor(rgb.clip(0, 1)[:, None], cv2.COLOR_RGB2LAB)[:, 0] / 100
    return np.asarray(np.hstack([lab * np.minimum(4 * width, 1), width]), np.float32)


def _distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Mean absolute difference of two results of `_rows`, summed over their four values."""
    return float(np.abs(first - second).sum(1).mean())


def _find_other_product(photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> int | None:
    """Index of the photo that is unlike all others while those are like each other; None if there is none."""
    views = [np.dstack([photo, mask]) for photo, mask in zip(photos, masks, strict=True)]
    features = ColourGradient().predict(views)
    distances = 1 - features @ features.T
    np.fill_diagonal(distances, np.inf)
    farthest = int(distances.min(1).argmax())
    usual = float(np.delete(np.delete(distances, farthest, 0), farthest, 1).min(1).max())
    return farthest if distances[farthest].min() > max(OTHER_RATIO * usual, MIN_OTHER_DISTANCE) else None
