"""Pairs of image and truth -> scores; scores of one video -> a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from gapray.config import GateSettings
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.metrics import identity_cosine, psnr, silhouette_iou, ssim
from gapray.fidelity.shown import Shown
from gapray.models.identity import IdentityModel

OURS = "gapray"
NATIVE_BATCH = 16
"""Pairs at a video's own size in one forward pass."""
Kind = Literal["key", "in-between"]
"""``key``: the generator saw the photo of this very angle. Means never mix the two."""


@dataclass(frozen=True)
class FrameScore:
    """One image against the photo of its angle."""

    label: str
    frame: int | None
    """Index in the video; None for what is no frame of one."""
    azimuth_deg: float
    kind: Kind
    lpips: float
    lpips_native: float | None
    psnr: float | None
    ssim: float | None
    iou: float | None
    identity: float | None
    """Null, as the three above, for aligned foreign videos, whose pixels are only roughly in place."""
    product_share: float
    """Share of the truth image that is product: white background dilutes every score by it."""

    def as_dict(self) -> dict[str, Any]:
        """For rows and JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PairSet:
    """Images of one label against truths, one to one."""

    label: str
    """Who made the images."""
    images: Sequence[Shown]
    """At the protocol's size."""
    truths: Sequence[Shown]
    """At the same size."""
    kinds: Sequence[Kind]
    frames: Sequence[int | None] | None = None
    """Index of each image in its video."""
    native: Sequence[tuple[Shown, Shown]] | None = None
    """The same pairs at the video's own size."""


def score_pairs(sets: Sequence[PairSet], *, metric: Lpips, identity: IdentityModel) -> list[list[FrameScore]]:
    """Score images against truths. The pairs of all sets go through each network together.

    Args:
        sets: Of one video or of several.
        metric: LPIPS.
        identity: Model of the identity embedding.

    Returns:
        A list a set, with a score a pair.
    """
    pairs = [pair for one in sets for pair in zip(one.images, one.truths, strict=True)]
    if not pairs:
        return [[] for _ in sets]
    distances = iter(metric.distances([(image.image, truth.image) for image, truth in pairs]))
    fine = iter(
        metric.distances(
            [(image.image, truth.image) for one in sets for image, truth in one.native or ()], batch=NATIVE_BATCH
        )
    )
    rgba = [np.dstack([one.image, one.mask]) for pair in pairs for one in pair]
    features = iter(identity.predict(rgba))
    return [
        [
            FrameScore(
                label=one.label,
                frame=None if one.frames is None else one.frames[index],
                azimuth_deg=truth.azimuth_deg,
                kind=one.kinds[index],
                lpips=next(distances),
                lpips_native=next(fine) if one.native else None,
                psnr=psnr(image.image, truth.image),
                ssim=ssim(image.image, truth.image),
                iou=silhouette_iou(image.mask, truth.mask),
                identity=identity_cosine(next(features), next(features)),
                product_share=float((truth.mask >= 128).mean()),
            )
            for index, (image, truth) in enumerate(zip(one.images, one.truths, strict=True))
        ]
        for one in sets
    ]


@dataclass(frozen=True)
class Motion:
    """What is known of a video as a whole."""

    flicker: float | None = None
    loop_gap: float | None = None
    span_deg: float | None = None


@dataclass(frozen=True)
class Verdict:
    """One video, or one baseline, in a line. Means are over in-between angles unless they say key."""

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
    """``none``: for baselines, which nobody ships."""
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For rows and JSON."""
        return asdict(self)


def verdict(label: str, scores: Sequence[FrameScore], gate: GateSettings | None, motion: Motion = Motion()) -> Verdict:
    """Sum one label's scores up, and judge them.

    Args:
        label: Whose scores.
        scores: Of this label; in-between and key angles are averaged apart.
        gate: None = do not judge.
        motion: Of the video.
    """
    between = [one for one in scores if one.kind == "in-between"]
    keys = [one for one in scores if one.kind == "key"]
    worst = max(between, key=lambda one: one.lpips, default=None)
    found = Verdict(
        label=label,
        angles=len(between),
        lpips=_mean([one.lpips for one in between]),
        worst_lpips=worst.lpips if worst else None,
        worst_azimuth_deg=worst.azimuth_deg if worst else None,
        lpips_native=_mean([one.lpips_native for one in between]),
        psnr=_mean([one.psnr for one in between]),
        ssim=_mean([one.ssim for one in between]),
        iou=_mean([one.iou for one in between]),
        identity=_mean([one.identity for one in between]),
        key_angles=len(keys),
        key_lpips=_mean([one.lpips for one in keys]),
        flicker=motion.flicker,
        loop_gap=motion.loop_gap,
        span_deg=motion.span_deg,
        gate="none",
        reasons=(),
    )
    return found if gate is None else gated(found, gate)


def gated(found: Verdict, gate: GateSettings) -> Verdict:
    """The same numbers, judged by a gate, whatever was said of them before."""
    reasons = tuple(_complaints(found, gate))
    return replace(found, gate="fail" if reasons else "pass", reasons=reasons)


def _complaints(found: Verdict, gate: GateSettings) -> list[str]:
    limits = [
        ("LPIPS", found.lpips, None, gate.max_lpips),
        (f"LPIPS at {found.worst_azimuth_deg}°", found.worst_lpips, None, gate.max_worst_lpips),
        ("silhouette IoU", found.iou, gate.min_iou, None),
        ("flicker", found.flicker, None, gate.max_flicker),
        ("loop gap", found.loop_gap, None, gate.max_loop_gap),
        ("degrees shown", found.span_deg, gate.min_span_deg, None),
    ]
    return [
        f"{name} {value:.3g} is {'under' if low is not None else 'over'} {low if low is not None else high:g}"
        for name, value, low, high in limits
        if value is not None and ((low is not None and value < low) or (high is not None and value > high))
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
