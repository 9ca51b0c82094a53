"""One product's video against its photos: first everything is cut out and laid alike, then it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import turned
from gapray.config import FidelitySettings, MaskSettings, OrbitSettings
from gapray.errors import InputError
from gapray.fidelity.align import align
from gapray.fidelity.baselines import BASELINES
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.motion import flicker, loop_gap, turn_steps
from gapray.fidelity.protocol import TruthKind
from gapray.fidelity.score import OURS, FrameScore, Kind, Motion, PairSet, Verdict, score_pairs, verdict
from gapray.fidelity.shown import Cut, Framing, Shown, cut_out, for_size, known_masks, layout_of, shown
from gapray.gap.package import GapPackage
from gapray.geometry.frame import Placement
from gapray.models.identity import IdentityModel
from gapray.models.mask import MaskModel
from gapray.orbit.weights import KEY_TOLERANCE_DEG

LEAST_FOR_MOTION = 3
"""Frames from which on a video can be said to move."""
LEAST_FOR_SPAN = 6
"""True angles from which on degrees shown are measured."""


@dataclass(frozen=True)
class Truth:
    """A photo that a frame is compared with."""

    azimuth_deg: float
    photo: NDArray[np.uint8]
    """[H, W, 3]."""


@dataclass(frozen=True)
class Drawn:
    """A frame that was drawn from the other views, for leave-one-out."""

    view: int
    """Index of the view left out."""
    image: NDArray[np.uint8]
    """[S, S, 3]."""


@dataclass(frozen=True)
class Pair:
    """An image and its truth at the protocol's size."""

    image: Shown
    truth: Shown
    kind: Kind
    frame: int | None
    without: int | None
    """View that neither we nor a baseline may use."""
    native: tuple[Shown, Shown] | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is scored of one video."""

    pairs: tuple[Pair, ...]
    given: tuple[Shown, ...]
    """The package's views."""
    clip: tuple[Shown, ...]
    """All frames."""
    framing: Framing
    truth: TruthKind


def compare(
    package: GapPackage,
    frames: NDArray[np.uint8],
    azimuths_deg: Sequence[float],
    network: MaskModel,
    *,
    truths: Sequence[Truth] = (),
    drawn: Sequence[Drawn] = (),
    orbit: OrbitSettings,
    mask: MaskSettings,
    settings: FidelitySettings,
    mask_model: str | None = None,
    shifted: bool = False,
) -> Comparison:
    """Cut out and lay alike.

    Args:
        package: What the video was made from.
        frames: uint8 [F, S, S, 3] in the orbit's frame.
        azimuths_deg: Of the frames.
        network: Cuts out frames, hidden photos, and photos of the package that another network was used on.
        truths: Hidden photos; those farther than the tolerance from every frame, and those the package has, are left out.
        drawn: Leave-one-out frames, in place of `truths`.
        orbit: Of the video.
        mask: Clean-up of the network's masks.
        settings: Size, tolerance.
        mask_model: name@revision of `network`; default: that of the package.
        shifted: The photos needed a shift each, so that only their boxes can be compared.

    Raises:
        InputError: `score.no_truth`.
    """
    layout = layout_of([view.mask for view in package.views], orbit)
    framing: Framing = "boxes" if shifted or layout.own_crops else "camera"
    placement = None if framing == "boxes" else layout.placements[0]
    size, side = settings.size, frames.shape[1]
    views = cut_out(
        [view.reference for view in package.views],
        [view.azimuth_deg for view in package.views],
        network,
        mask,
        within=known_masks(package, mask_model or package.models.get("mask")),
    )
    clip = cut_out(list(frames), azimuths_deg, network, mask)
    hidden = _matched(truths, azimuths_deg, package, settings.angle_tolerance_deg)
    cut_truths = cut_out([one.photo for _, one in hidden], [one.azimuth_deg for _, one in hidden], network, mask)
    if len({cut.mask.shape for cut in cut_truths}) > 1:
        framing, placement = "boxes", None  # hidden photos of several sizes have no common frame
    lay = _Layer(framing, placement, package.views[0].mask.shape, size, side if settings.native else None)
    pairs = [
        lay.pair(clip[frame], cut, "in-between", frame) for (frame, _), cut in zip(hidden, cut_truths, strict=True)
    ]
    left_out = cut_out(
        [one.image for one in drawn], [package.views[one.view].azimuth_deg for one in drawn], network, mask
    )
    for one, cut in zip(drawn, left_out, strict=True):
        pairs.append(lay.pair(cut, views[one.view], "in-between", None, without=one.view))
    if not pairs:
        raise InputError("score.no_truth", f"{package.product_id}: no photo at an in-between angle of this video")
    for frame, view in _keys(azimuths_deg, package):
        pairs.append(lay.pair(clip[frame], views[view], "key", frame))
    return Comparison(
        tuple(pairs),
        tuple(lay.photo(cut, size) for cut in views),
        tuple(shown(cut, size, framing=framing) for cut in clip),
        framing,
        "leave-one-out" if drawn else "held-out",
    )


def judged(
    comparison: Comparison, metric: Lpips, identity: IdentityModel, settings: FidelitySettings
) -> tuple[list[FrameScore], list[Verdict]]:
    """Score one video and, if asked for, the baselines at the same angles.

    Returns:
        A score a label and pair, and a verdict a label, ours first.
    """
    [found] = judged_together([comparison], metric, identity, settings)
    return found


def judged_together(
    comparisons: Sequence[Comparison], metric: Lpips, identity: IdentityModel, settings: FidelitySettings
) -> list[tuple[list[FrameScore], list[Verdict]]]:
    """`judged` of several videos, whose pictures go through each network together."""
    sets = [_pair_sets(comparison, settings) for comparison in comparisons]
    scored = iter(score_pairs([one for many in sets for one in many], metric=metric, identity=identity))
    results = []
    for many, motion in zip(sets, motions_of(comparisons, metric), strict=True):
        scores = [next(scored) for _ in many]
        verdicts = [
            verdict(one.label, its, settings.gate, motion) if one.label == OURS else verdict(one.label, its, None)
            for one, its in zip(many, scores, strict=True)
        ]
        results.append(([score for its in scores for score in its], verdicts))
    return results


def _pair_sets(comparison: Comparison, settings: FidelitySettings) -> list[PairSet]:
    """Ours, then every baseline at the in-between angles."""
    pairs = comparison.pairs
    native = [pair.native for pair in pairs if pair.native is not None]
    ours = PairSet(
        OURS,
        [pair.image for pair in pairs],
        [pair.truth for pair in pairs],
        [pair.kind for pair in pairs],
        frames=[pair.frame for pair in pairs],
        native=native if len(native) == len(pairs) else None,
    )
    between = [pair for pair in pairs if pair.kind == "in-between"]
    baselines = [
        PairSet(
            label,
            [draw(_others(comparison.given, pair.without), pair.truth.azimuth_deg) for pair in between],
            [pair.truth for pair in between],
            ["in-between"] * len(between),
        )
        for label, draw in (BASELINES.items() if settings.baselines else ())
    ]
    return [ours, *baselines]


def motions_of(comparisons: Sequence[Comparison], metric: Lpips) -> list[Motion]:
    """Each video's flicker, loop gap, and degrees shown against all photos at hand."""
    clips = [np.stack([one.image for one in comparison.clip]) for comparison in comparisons]
    moving = [len(clip) >= LEAST_FOR_MOTION for clip in clips]
    steps = iter(
        metric.distances(
            [pair for clip, moves in zip(clips, moving, strict=True) if moves for pair in turn_steps(clip)]
        )
    )
    truths = [_photos(comparison) for comparison in comparisons]
    measured = [moves and len(photos) >= LEAST_FOR_SPAN for moves, photos in zip(moving, truths, strict=True)]
    spans = iter(
        metric.all_pairs_of(
            [
                (clip, np.stack([one.image for one in photos]))
                for clip, photos, wanted in zip(clips, truths, measured, strict=True)
                if wanted
            ]
        )
    )
    found = []
    for comparison, clip, photos, moves, wanted in zip(comparisons, clips, truths, moving, measured, strict=True):
        if not moves:
            found.append(Motion())
            continue
        masks = np.stack([one.mask for one in comparison.clip])
        gap = loop_gap([next(steps) for _ in clip])
        span = align(next(spans), np.array([one.azimuth_deg for one in photos])).span_deg if wanted else None
        found.append(Motion(flicker(clip, masks), gap, span))
    return found


def _photos(comparison: Comparison) -> list[Shown]:
    """All photos at hand, by azimuth."""
    photos = {one.azimuth_deg: one for one in [*comparison.given, *(pair.truth for pair in comparison.pairs)]}
    return [photos[azimuth] for azimuth in sorted(photos)]


@dataclass(frozen=True)
class _Layer:
    """Lays photos and frames alike."""

    framing: Framing
    placement: Placement | None
    kept: tuple[int, ...]
    size: int
    side: int | None

    def photo(self, cut: Cut, size: int) -> Shown:
        at = for_size(self.placement, self.kept, cut.mask.shape) if self.placement else None
        return shown(cut, size, framing=self.framing, placement=at)

    def pair(self, frame: Cut, truth: Cut, kind: Kind, index: int | None, *, without: int | None = None) -> Pair:
        native = None
        if self.side and self.side != self.size:
            native = shown(frame, self.side, framing=self.framing), self.photo(truth, self.side)
        return Pair(
            shown(frame, self.size, framing=self.framing), self.photo(truth, self.size), kind, index, without, native
        )


def _matched(
    truths: Sequence[Truth], azimuths_deg: Sequence[float], package: GapPackage, tolerance: float
) -> list[tuple[int, Truth]]:
    """Hidden photos with the frame nearest to each."""
    matched = []
    for truth in truths:
        if any(abs(turned(truth.azimuth_deg, view.azimuth_deg)) <= KEY_TOLERANCE_DEG for view in package.views):
            continue
        frame = min(range(len(azimuths_deg)), key=lambda index: abs(turned(azimuths_deg[index], truth.azimuth_deg)))
        if abs(turned(azimuths_deg[frame], truth.azimuth_deg)) <= tolerance:
            matched.append((frame, truth))
    return matched


def _keys(azimuths_deg: Sequence[float], package: GapPackage) -> list[tuple[int, int]]:
    return [
        (frame, index)
        for frame, azimuth in enumerate(azimuths_deg)
        for index, view in enumerate(package.views)
        if abs(turned(azimuth, view.azimuth_deg)) <= KEY_TOLERANCE_DEG
    ]


def _others(given: Sequence[Shown], without: int | None) -> list[Shown]:
    return [one for index, one in enumerate(given) if index != without]
