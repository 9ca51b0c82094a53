"""Scores of image-truth pairs, and verdicts on whole videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from gapray.fidelity.lpips import Lpips
from gapray.fidelity.metrics import identity_cosine, psnr, silhouette_iou, ssim
from gapray.fidelity.settings import GateSettings
from gapray.fidelity.shown import NormalizedView
from gapray.models.identity import IdentityModel

OURS = "gapray"
NATIVE_BATCH = 16
"""Pairs in one forward pass at a video's own size."""
AngleKind = Literal["key", "in-between"]
"""``key``: the generator saw the photo of this angle. The two kinds are never averaged together."""


@dataclass(frozen=True)
class FrameScore:
    """Scores of one image against the photo of its angle."""

    label: str
    frame: int | None
    """Index of the frame in the video; None for an image that is not one of its frames."""
    azimuth_deg: float
    kind: AngleKind
    lpips: float
    lpips_native: float | None
    psnr: float | None
    ssim: float | None
    iou: float | None
    identity: float | None
    """None, like the three above, for aligned foreign videos, whose pixels are only roughly in place."""
    product_share: float
    """Fraction of the truth image that is product; the white background dilutes every score accordingly."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data, for rows and JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PairSet:
    """Images with one label and their truths, one to one."""

    label: str
    """Who made the images."""
    images: Sequence[NormalizedView]
    """At the protocol's size."""
    truths: Sequence[NormalizedView]
    """At the same size."""
    kinds: Sequence[AngleKind]
    frames: Sequence[int | None] | None = None
    """Index of each image in its video."""
    native: Sequence[tuple[NormalizedView, NormalizedView]] | None = None
    """The same pairs at the video's own size."""


def score_pairs(sets: Sequence[PairSet], *, metric: Lpips, identity: IdentityModel) -> list[list[FrameScore]]:
    """Score images against truths. The pairs of all sets go through each network together.

    Args:
        sets: Pairs of one video or several.
        metric: The LPIPS network.
        identity: Model of the identity embedding.

    Returns:
        One list for each set, with one score for each pair.
    """
    pairs = [pair for pair_set in sets for pair in zip(pair_set.images, pair_set.truths, strict=True)]
    if not pairs:
        return [[] for _ in sets]
    distances = iter(metric.distances([(image.image, truth.image) for image, truth in pairs]))
    fine = iter(
        metric.distances(
            [(image.image, truth.image) for pair_set in sets for image, truth in pair_set.native or ()],
            batch=NATIVE_BATCH,
        )
    )
    rgba = [np.dstack([view.image, view.mask]) for pair in pairs for view in pair]
    features = iter(identity.predict(rgba))
    return [
        [
            FrameScore(
                label=pair_set.label,
                frame=None if pair_set.frames is None else pair_set.frames[index],
                azimuth_deg=truth.azimuth_deg,
                kind=pair_set.kinds[index],
                lpips=next(distances),
                lpips_native=next(fine) if pair_set.native else None,
                psnr=psnr(image.image, truth.image),
                ssim=ssim(image.image, truth.image),
                iou=silhouette_iou(image.mask, truth.mask),
                identity=identity_cosine(next(features), next(features)),
                product_share=float((truth.mask >= 128).mean()),
            )
            for index, (image, truth) in enumerate(zip(pair_set.images, pair_set.truths, strict=True))
        ]
        for pair_set in sets
    ]


@dataclass(frozen=True)
class MotionScores:
    """Scores of a video as a whole; None where they could not be measured."""

    flicker: float | None = None
    loop_gap: float | None = None
    span_deg: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Summary of one video or one baseline. Means are over in-between angles unless the name says key."""

    label: str
    angles: int
    lpips: float | None
    worst_lpips: float | None
    worst_azimuth_deg: float | None
    lpips_native: float | None
    psnr: float | None
    ssim: float | None
    iou: float | None
    identity: float | None
    key_angles: int
    key_lpips: float | None
    flicker: float | None
    loop_gap: float | None
    span_deg: float | None
    gate: Literal["pass", "fail", "none"]
    """``none`` for baselines, which are never delivered."""
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data, for rows and JSON."""
        return asdict(self)


def verdict(
    label: str, scores: Sequence[FrameScore], gate: GateSettings | None, motion: MotionScores = MotionScores()
) -> Verdict:
    """Summarise the scores of one label and judge them.

    Args:
        label: Who made the images.
        scores: Scores of this label; in-between and key angles are averaged separately.
        gate: The limits to judge by; None = do not judge.
        motion: Scores of the whole video.
    """
    between = [score for score in scores if score.kind == "in-between"]
    keys = [score for score in scores if score.kind == "key"]
    worst = max(between, key=lambda score: score.lpips, default=None)
    summary = Verdict(
        label=label,
        angles=len(between),
        lpips=_mean([score.lpips for score in between]),
        worst_lpips=worst.lpips if worst else None,
        worst_azimuth_deg=worst.azimuth_deg if worst else None,
        lpips_native=_mean([score.lpips_native for score in between]),
        psnr=_mean([score.psnr for score in between]),
        ssim=_mean([score.ssim for score in between]),
        iou=_mean([score.iou for score in between]),
        identity=_mean([score.identity for score in between]),
        key_angles=len(keys),
        key_lpips=_mean([score.lpips for score in keys]),
        flicker=motion.flicker,
        loop_gap=motion.loop_gap,
        span_deg=motion.span_deg,
        gate="none",
        reasons=(),
    )
    return summary if gate is None else apply_gate(summary, gate)


def apply_gate(summary: Verdict, gate: GateSettings) -> Verdict:
    """Judge a verdict's numbers by a gate, whatever it was judged by before."""
    reasons = tuple(_violations(summary, gate))
    return replace(summary, gate="fail" if reasons else "pass", reasons=reasons)


def _violations(summary: Verdict, gate: GateSettings) -> list[str]:
    limits = [
        ("LPIPS", summary.lpips, None, gate.max_lpips),
        (f"LPIPS at {summary.worst_azimuth_deg}°", summary.worst_lpips, None, gate.max_worst_lpips),
        ("silhouette IoU", summary.iou, gate.min_iou, None),
        ("flicker", summary.flicker, None, gate.max_flicker),
        ("loop gap", summary.loop_gap, None, gate.max_loop_gap),
        ("degrees shown", summary.span_deg, gate.min_span_deg, None),
    ]
    return [
        f"{name} {value:.3g} is {'under' if low is not None else 'over'} {low if low is not None else high:g}"
        for name, value, low, high in limits
        if value is not None and ((low is not None and value < low) or (high is not None and value > high))
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
