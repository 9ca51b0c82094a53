"""Score a video that somebody else made against a product's photos; alignment is part of the score, and reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError
from gapray.fidelity.align import Alignment, align
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.shown import NormalizedView

MAX_ALIGNED_FRAMES = 96
"""Longer videos are sampled down to this many frames, evenly spaced."""
SAME_PRODUCT = 0.85
"""A video is taken for another product's when its aligned cost, over that of the best other product's photos, is larger."""
STRANGE_COST = 0.5
"""A video with a larger aligned LPIPS is always refused: most pairs of different products, cropped alike, lie above
(docs/fidelity.md)."""
ALIKE_COST = 0.4
"""Below this aligned LPIPS two products look too alike to serve as each other's null: a video of one matches the other too."""


@dataclass(frozen=True)
class AlignedScores:
    """Scores of one video. Angles that no frame shows are scored with the frame that shows the nearest angle."""

    alignment: Alignment
    chosen: tuple[int, ...]
    """Index of the frame that represents each angle."""
    lpips: tuple[float, ...]
    """LPIPS at each true angle, [A]."""

    @property
    def mean(self) -> float:
        """Mean LPIPS over all angles, including those that no frame shows."""
        return float(np.mean(self.lpips))


def aligned_scores(frames: Sequence[NormalizedView], truths: Sequence[NormalizedView], metric: Lpips) -> AlignedScores:
    """Align a video to the true angles and score it there.

    Args:
        frames: In order, framing ``boxes``; their azimuths are ignored.
        truths: Photos with ascending azimuths, framing ``boxes``.
        metric: The LPIPS network.

    Raises:
        InputError: `score.too_short`.
    """
    if len(frames) < 2 or len(truths) < 3:
        raise InputError("score.too_short", f"{len(frames)} frames and {len(truths)} photos cannot be aligned")
    images, photos = (np.stack([view.image for view in views]) for views in (frames, truths))
    cost = metric.all_pairs(images, photos)
    alignment = align(cost, np.array([truth.azimuth_deg for truth in truths]))
    chosen = [_best_frame(cost, alignment, angle) for angle in range(len(truths))]
    lpips = tuple(float(cost[frame, angle]) for angle, frame in enumerate(chosen))
    return AlignedScores(alignment, tuple(chosen), lpips)


def dissimilar_products(
    photos: Sequence[NormalizedView], others: Sequence[Sequence[NormalizedView]], metric: Lpips
) -> list[Sequence[NormalizedView]]:
    """Select the products that look different enough from one product to serve as a null for its videos.

    Args:
        photos: The product's photos, ascending azimuths, framing ``boxes``; at least three.
        others: The photos of each other product, likewise.
        metric: The LPIPS network.
    """
    return [other for other in others if aligned_scores(photos, other, metric).alignment.cost >= ALIKE_COST]


def refuse_other_product(own: AlignedScores, others: Sequence[AlignedScores], what: str) -> None:
    """Refuse a video that shows another product.

    Args:
        own: Scores against the product that the video is said to show.
        others: Scores against other products of the catalogue, as many as are available.
        what: Names the video in the error message.

    Raises:
        InputError: `score.not_this_product`.
    """
    null = min((other.alignment.cost for other in others), default=None)
    if own.alignment.cost > (STRANGE_COST if null is None else min(STRANGE_COST, SAME_PRODUCT * null)):
        beside = "" if null is None else f", {null:.2f} against another product's photos"
        raise InputError("score.not_this_product", f"{what}: LPIPS {own.alignment.cost:.2f} after alignment{beside}")


def _best_frame(cost: NDArray[np.float64], alignment: Alignment, angle: int) -> int:
    """The best frame among those that show an angle and their neighbours; failing that, one that shows the nearest angle."""
    shown = np.array(alignment.angles)
    count = cost.shape[1]
    apart = np.abs((shown - angle + count // 2) % count - count // 2)
    frames = np.flatnonzero(apart == apart.min())
    if apart.min() == 0:
        frames = np.unique(np.clip(np.concatenate([frames - 1, frames, frames + 1]), 0, len(shown) - 1))
    return int(frames[cost[frames, angle].argmin()])
