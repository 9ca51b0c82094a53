"""A video that somebody else made, against the photos of a product: aligned, and honest about what that hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError
from gapray.fidelity.align import Alignment, align
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.shown import Shown

MOST_FRAMES = 96
"""Frames that are read of a longer video, evenly spaced."""
SAME_PRODUCT = 0.85
"""Aligned cost over the cost of the best other product's photos, from which on a video is taken for the other product's."""
STRANGE_COST = 0.5
"""Aligned LPIPS from which on a video is refused whatever it is compared with: most pairs of products, cropped alike, lie above
(docs/fidelity.md)."""
ALIKE_COST = 0.4
"""Aligned LPIPS of two products' photos below which one is no null for the other: a video of the one fits the other too."""


@dataclass(frozen=True)
class AlignedScores:
    """Scores of one video. Angles that no frame shows count at the cost of the frame that shows the nearest angle."""

    alignment: Alignment
    chosen: tuple[int, ...]
    """Frame that stands for each angle."""
    lpips: tuple[float, ...]
    """[A], one a true angle."""

    @property
    def mean(self) -> float:
        """Over all angles, the uncovered ones included."""
        return float(np.mean(self.lpips))


def aligned_scores(frames: Sequence[Shown], truths: Sequence[Shown], metric: Lpips) -> AlignedScores:
    """Lay a video along the true angles and score it there.

    Args:
        frames: In order, framing ``boxes``; their azimuths are not looked at.
        truths: Ascending azimuths, framing ``boxes``.
        metric: Loaded.

    Raises:
        InputError: `score.too_short`.
    """
    if len(frames) < 2 or len(truths) < 3:
        raise InputError("score.too_short", f"{len(frames)} frames and {len(truths)} photos cannot be aligned")
    cost = metric.all_pairs(np.stack([one.image for one in frames]), np.stack([one.image for one in truths]))
    found = align(cost, np.array([one.azimuth_deg for one in truths]))
    chosen = [_best_frame(cost, found, angle) for angle in range(len(truths))]
    return AlignedScores(found, tuple(chosen), tuple(float(cost[frame, angle]) for angle, frame in enumerate(chosen)))


def unlike(photos: Sequence[Shown], others: Sequence[Sequence[Shown]], metric: Lpips) -> list[Sequence[Shown]]:
    """Those of several products' photos that look unlike a product's, so that they can be a null for its videos.

    Args:
        photos: Of the product, ascending azimuths, framing ``boxes``; at least three.
        others: The same of each other product.
        metric: Loaded.
    """
    return [other for other in others if aligned_scores(photos, other, metric).alignment.cost >= ALIKE_COST]


def refuse_strangers(mine: AlignedScores, others: Sequence[AlignedScores], what: str) -> None:
    """Refuse a video that shows another product.

    Args:
        mine: Against the product it is said to show.
        others: Against other products of the catalogue, as many as are at hand.
        what: Of the message.

    Raises:
        InputError: `score.not_this_product`.
    """
    null = min((other.alignment.cost for other in others), default=None)
    if mine.alignment.cost > (STRANGE_COST if null is None else min(STRANGE_COST, SAME_PRODUCT * null)):
        beside = "" if null is None else f", {null:.2f} against another product's photos"
        raise InputError("score.not_this_product", f"{what}: LPIPS {mine.alignment.cost:.2f} after alignment{beside}")


def _best_frame(cost: NDArray[np.float64], found: Alignment, angle: int) -> int:
    """The best of the frames that show an angle, or the frame next to them; else one that shows the nearest angle."""
    shown = np.array(found.angles)
    count = cost.shape[1]
    apart = np.abs((shown - angle + count // 2) % count - count // 2)
    at = np.flatnonzero(apart == apart.min())
    if apart.min() == 0:
        at = np.unique(np.clip(np.concatenate([at - 1, at, at + 1]), 0, len(shown) - 1))
    return int(at[cost[at, angle].argmin()])
