"""Photos that cannot belong to the set as they are: turned in the picture, or of another product.

Each photo is compared with its most similar one of the others. That needs neither angles nor a geometry, and a product with
different sides still has neighbours that look like each side.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.inspect.findings import Finding
from gapray.models.identity import ColourGradient, mask_square
from gapray.resample import cropped

LEAST_PHOTOS = 4
"""Fewer photos do not tell which of them is the odd one."""
SIDE = 32
"""The square round the product is compared at this size [pixels]."""
TURNED, LEAST_TURNED = 1.5, 0.06
"""A photo is turned when upright it is so many times farther from the others than turned, and at least so far: `_distance`.
Of the photos of 33 sets (`benchmarks/check.py odd`) none as it is comes above 1.3."""
OTHER, LEAST_OTHER = 2.0, 0.15
"""A photo shows another product when it is so many times farther from its nearest neighbour than any other photo from its own,
and at least so far (1 - cosine of `ColourGradient`)."""
TURNS = {1: "a quarter turn clockwise", 2: "upside down", 3: "a quarter turn counter-clockwise"}
"""Quarter turns counter-clockwise that would put a photo right -> how it stands now."""


def odd(names: Sequence[str], photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> list[Finding]:
    """Photos that stand differently from the others, or show another product.

    Args:
        names: One a photo.
        photos: uint8 [H, W, 3], sRGB; sizes may differ.
        masks: uint8 [H, W] each, none empty, 128 and above = product.

    Returns:
        `photo.turned` and `photo.other_product`, at most one a photo; none for fewer than `LEAST_PHOTOS` photos.
    """
    if len(names) < LEAST_PHOTOS:
        return []
    findings = {
        index: Finding("photo.turned", (names[index],), f"against the others it stands {TURNS[turn]}")
        for index, turn in _turned(photos, masks).items()
    }
    stranger = _stranger(photos, masks)
    if stranger is not None and stranger not in findings:
        text = "its colours and edges are unlike those of all other photos"
        findings[stranger] = Finding("photo.other_product", (names[stranger],), text)
    return [findings[index] for index in sorted(findings)]


def _turned(photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> dict[int, int]:
    """Index of each photo that stands differently -> quarter turns counter-clockwise that would put it right."""
    squares = [_square(photo, mask) for photo, mask in zip(photos, masks, strict=True)]
    upright = [_rows(square) for square in squares]
    found = {}
    for index, square in enumerate(squares):
        others = [one for place, one in enumerate(upright) if place != index]
        by_turn = [min(_distance(_rows(np.rot90(square, turn)), other) for other in others) for turn in range(4)]
        best = int(np.argmin(by_turn))
        if by_turn[0] > max(TURNED * by_turn[best], LEAST_TURNED):
            found[index] = best
    return found


def _square(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [SIDE, SIDE, 4], 0 … 1: the product's colours times its mask, and the mask."""
    view = np.dstack([photo, mask]) / np.float32(255)
    view[..., :3] *= view[..., 3:]
    x, y, side = mask_square(mask)
    box = x - side / 2, x + side / 2, y - side / 2, y + side / 2
    return cropped(np.asarray(view, np.float32), box, (SIDE, SIDE), growth="linear")


def _rows(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean colour (CIE Lab / 100) and width of the product in each row, float32 [SIDE, 4].

    A product on a turntable changes them little. Thin rows have little colour.
    """
    width = square[..., 3].mean(1, keepdims=True)
    rgb = square[..., :3].mean(1) / np.maximum(width, 1e-6)
    lab = cv2.cvtColor(rgb.clip(0, 1)[:, None], cv2.COLOR_RGB2LAB)[:, 0] / 100
    return np.asarray(np.hstack([lab * np.minimum(4 * width, 1), width]), np.float32)


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).sum(1).mean())


def _stranger(photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> int | None:
    """Index of the one photo that is like none of the others, which are like each other."""
    views = [np.dstack([photo, mask]) for photo, mask in zip(photos, masks, strict=True)]
    features = ColourGradient().predict(views)
    apart = 1 - features @ features.T
    np.fill_diagonal(apart, np.inf)
    far = int(apart.min(1).argmax())
    usual = float(np.delete(np.delete(apart, far, 0), far, 1).min(1).max())
    return far if apart[far].min() > max(OTHER * usual, LEAST_OTHER) else None
