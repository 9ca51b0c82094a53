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
MOST_ODD = 0.25
"""Of more turned photos, as a share, nobody can say which ones stand right."""
SIDE = 32
"""The square round the product is compared at this size [pixels]."""
TURNED, LEAST_TURNED, MOST_TURNED = 1.5, 0.065, 0.1
"""A photo is turned when upright it is so many times farther from the others than turned, at least so far, and turned at most so
far (`_distance`): once turned it must fit, because a pan seen along its handle looks turned from the other side."""
OTHER, LEAST_OTHER = 2.0, 0.15
"""A photo shows another product when it is so many times farther from its nearest neighbour than any other photo from its own,
and at least so far (1 - cosine of `ColourGradient`).

Of the photos of 33 sets, as they are and from other starts, 4, 8 and 24 at a time, none is named (`benchmarks/check.py odd`); of
photos turned by 90 or 180 degrees about seven in ten are, of photos of another of the sets nearly all."""
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
    by_turn = [[_rows(np.rot90(square, turn)) for turn in range(4)] for square in squares]
    kept, found = list(range(len(photos))), {}
    while len(kept) >= LEAST_PHOTOS:
        # The worst goes first: beside it a good photo may look turned, because turned it is like this one.
        worst, gain = None, 0.0
        for index in kept:
            others = [by_turn[place][0] for place in kept if place != index]
            far = [min(_distance(rows, other) for other in others) for rows in by_turn[index]]
            least = min(far)
            if far[0] > max(TURNED * least, LEAST_TURNED) and least < MOST_TURNED and far[0] / max(least, 1e-6) > gain:
                worst, gain, turn = index, far[0] / max(least, 1e-6), int(np.argmin(far))
        if worst is None:
            break
        found[worst] = turn
        kept.remove(worst)
    return found if len(found) <= MOST_ODD * len(photos) else {}


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
