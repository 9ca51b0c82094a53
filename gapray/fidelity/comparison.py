"""Compare one product's video with its photos: everything is cut out and normalised alike, then scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference, nearest_angle
from gapray.errors import InputError
from gapray.fidelity.align import align
from gapray.fidelity.baselines import BASELINES
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.motion import flicker, loop_gap, turn_steps
from gapray.fidelity.protocol import TruthKind
from gapray.fidelity.score import OURS, AngleKind, FrameScore, MotionScores, PairSet, Verdict, score_pairs, verdict
from gapray.fidelity.settings import FidelitySettings
from gapray.fidelity.shown import (
    Cut,
    Framing,
    NormalizedView,
    cut_out,
    known_masks,
    normalize_view,
    orbit_layout,
    scale_placement,
)
from gapray.gap.package import GapPackage
from gapray.gap.settings import MaskSettings
from gapray.geometry.frame import Placement
from gapray.models.identity import IdentityModel
from gapray.models.mask import MaskModel
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.weights import KEY_TOLERANCE_DEG

MIN_FRAMES_FOR_MOTION = 3
"""A video needs at least this many frames for its motion to be measured."""
MIN_ANGLES_FOR_SPAN = 6
"""The degrees shown are measured only with at least this many true angles."""


@dataclass(frozen=True)
class Truth:
    """A photo that a frame is compared with."""

    azimuth_deg: float
    photo: NDArray[np.uint8]
    """uint8 [H, W, 3], sRGB."""


@dataclass(frozen=True)
class LeftOutFrame:
    """A frame that was drawn from the other views, for leave-one-out."""

    view: int
    """Index of the view that was left out."""
    image: NDArray[np.uint8]
    """uint8 [S, S, 3], sRGB."""


@dataclass(frozen=True)
class Pair:
    """An image and its truth at the protocol's size."""

    image: NormalizedView
    truth: NormalizedView
    kind: AngleKind
    frame: int | None
    """Index of the frame in the video; None for a leave-one-out image."""
    without: int | None
    """Index of the view that neither the video nor a baseline may use."""
    native: tuple[NormalizedView, NormalizedView] | None
    """The same pair at the video's own size; None when that is the protocol's, or not asked for."""


@dataclass(frozen=True)
class Comparison:
    """Everything that is scored of one video."""

    pairs: tuple[Pair, ...]
    given: tuple[NormalizedView, ...]
    """The package's views, normalised."""
    clip: tuple[NormalizedView, ...]
    """All frames of the video, normalised."""
    framing: Framing
    truth: TruthKind


def compare(
    package: GapPackage,
    frames: NDArray[np.uint8],
    azimuths_deg: Sequence[float],
    network: MaskModel,
    *,
    truths: Sequence[Truth] = (),
    drawn: Sequence[LeftOutFrame] = (),
    orbit: OrbitSettings,
    mask: MaskSettings,
    settings: FidelitySettings,
    mask_model: str | None = None,
    shifted: bool = False,
) -> Comparison:
    """Cut out and normalise a product's frames and photos, and pair them.

    Args:
        package: The package that the video was made from.
        frames: uint8 [F, S, S, 3] in the orbit's frame.
        azimuths_deg: One azimuth a frame.
        network: Cuts out frames, hidden photos, and the package's photos when another network made their masks.
        truths: Hidden photos; those farther than the tolerance from every frame, and those in the package, are ignored.
        drawn: Leave-one-out frames, in place of `truths`.
        orbit: The orbit settings of the video.
        mask: Settings for cleaning up the network's masks.
        settings: Image size and angle tolerance.
        mask_model: name@revision of `network`; default: that of the package.
        shifted: Each photo needed a shift of its own, so that only bounding boxes can be compared.

    Raises:
        InputError: `score.no_truth`.
    """
    layout = orbit_layout([view.mask for view in package.views], orbit)
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
    cut_truths = cut_out(
        [truth.photo for _, truth in hidden], [truth.azimuth_deg for _, truth in hidden], network, mask
    )
    if len({cut.mask.shape for cut in cut_truths}) > 1:
        framing, placement = "boxes", None  # hidden photos of several sizes have no common frame
    normalizer = _Normalizer(framing, placement, package.views[0].mask.shape, size, side if settings.native else None)
    pairs = [
        normalizer.pair(clip[frame], cut, "in-between", frame)
        for (frame, _), cut in zip(hidden, cut_truths, strict=True)
    ]
    left_out = cut_out(
        [left.image for left in drawn], [package.views[left.view].azimuth_deg for left in drawn], network, mask
    )
    for left, cut in zip(drawn, left_out, strict=True):
        pairs.append(normalizer.pair(cut, views[left.view], "in-between", None, without=left.view))
    if not pairs:
        raise InputError("score.no_truth", f"{package.product_id}: no photo at an in-between angle of this video")
    for frame, view in _keys(azimuths_deg, package):
        pairs.append(normalizer.pair(clip[frame], views[view], "key", frame))
    return Comparison(
        tuple(pairs),
        tuple(normalizer.photo(cut, size) for cut in views),
        tuple(normalize_view(cut, size, framing=framing) for cut in clip),
        framing,
        "leave-one-out" if drawn else "held-out",
    )


def judge_comparison(
    comparison: Comparison, metric: Lpips, identity: IdentityModel, settings: FidelitySettings
) -> tuple[list[FrameScore], list[Verdict]]:
    """Score one video and, if the settings ask for them, the baselines at the same angles.

    Returns:
        One score for each label and pair, and one verdict for each label, the video's first.
    """
    [result] = judge_comparisons([comparison], metric, identity, settings)
    return result


def judge_comparisons(
    comparisons: Sequence[Comparison], metric: Lpips, identity: IdentityModel, settings: FidelitySettings
) -> list[tuple[list[FrameScore], list[Verdict]]]:
    """`judge_comparison` for several videos, whose images go through each network together."""
    sets = [_pair_sets(comparison, settings) for comparison in comparisons]
    scored = iter(score_pairs([pair_set for group in sets for pair_set in group], metric=metric, identity=identity))
    results = []
    for group, motion in zip(sets, measure_motion(comparisons, metric), strict=True):
        scores = [next(scored) for _ in group]
        verdicts = [
            verdict(pair_set.label, set_scores, settings.gate, motion)
            if pair_set.label == OURS
            else verdict(pair_set.label, set_scores, None)
            for pair_set, set_scores in zip(group, scores, strict=True)
        ]
        results.append(([score for set_scores in scores for score in set_scores], verdicts))
    return results


def _pair_sets(comparison: Comparison, settings: FidelitySettings) -> list[PairSet]:
    """The video's pairs, then those of every baseline at the in-between angles."""
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


def measure_motion(comparisons: Sequence[Comparison], metric: Lpips) -> list[MotionScores]:
    """Measure each video's flicker, loop gap, and degrees shown against all available photos."""
    clips = [np.stack([frame.image for frame in comparison.clip]) for comparison in comparisons]
    moving = [len(clip) >= MIN_FRAMES_FOR_MOTION for clip in clips]
    steps = iter(
        metric.distances(
            [pair for clip, moves in zip(clips, moving, strict=True) if moves for pair in turn_steps(clip)]
        )
    )
    truths = [_photos(comparison) for comparison in comparisons]
    measured = [moves and len(photos) >= MIN_ANGLES_FOR_SPAN for moves, photos in zip(moving, truths, strict=True)]
    spans = iter(
        metric.all_pairs_of(
            [
                (clip, np.stack([photo.image for photo in photos]))
                for clip, photos, wanted in zip(clips, truths, measured, strict=True)
                if wanted
            ]
        )
    )
    motions = []
    for comparison, clip, photos, moves, wanted in zip(comparisons, clips, truths, moving, measured, strict=True):
        if not moves:
            motions.append(MotionScores())
            continue
        masks = np.stack([frame.mask for frame in comparison.clip])
        gap = loop_gap([next(steps) for _ in clip])
        span = align(next(spans), np.array([photo.azimuth_deg for photo in photos])).span_deg if wanted else None
        motions.append(MotionScores(flicker(clip, masks), gap, span))
    return motions


def _photos(comparison: Comparison) -> list[NormalizedView]:
    """All available photos, ordered by azimuth."""
    photos = {view.azimuth_deg: view for view in [*comparison.given, *(pair.truth for pair in comparison.pairs)]}
    return [photos[azimuth] for azimuth in sorted(photos)]


@dataclass(frozen=True)
class _Normalizer:
    """Brings photos and frames into one form."""

    framing: Framing
    placement: Placement | None
    """Where the orbit's frame lies in the package's photos; None under framing ``boxes``."""
    package_size: tuple[int, ...]
    """Height and width of the package's photos [pixels]."""
    size: int
    """Side of the compared images [pixels]."""
    native_side: int | None
    """Side of the video's frames [pixels], when they are also compared at that size."""

    def photo(self, cut: Cut, size: int) -> NormalizedView:
        at = scale_placement(self.placement, self.package_size, cut.mask.shape) if self.placement else None
        return normalize_view(cut, size, framing=self.framing, placement=at)

    def pair(self, frame: Cut, truth: Cut, kind: AngleKind, index: int | None, *, without: int | None = None) -> Pair:
        native = None
        if self.native_side and self.native_side != self.size:
            native = (
                normalize_view(frame, self.native_side, framing=self.framing),
                self.photo(truth, self.native_side),
            )
        image = normalize_view(frame, self.size, framing=self.framing)
        return Pair(image, self.photo(truth, self.size), kind, index, without, native)


def _matched(
    truths: Sequence[Truth], azimuths_deg: Sequence[float], package: GapPackage, tolerance: float
) -> list[tuple[int, Truth]]:
    """Pair each hidden photo with the nearest frame's index, if one is within the tolerance [degrees]."""
    matched = []
    for truth in truths:
        if any(
            abs(angle_difference(truth.azimuth_deg, view.azimuth_deg)) <= KEY_TOLERANCE_DEG for view in package.views
        ):
            continue
        frame = nearest_angle(azimuths_deg, truth.azimuth_deg)
        if abs(angle_difference(azimuths_deg[frame], truth.azimuth_deg)) <= tolerance:
            matched.append((frame, truth))
    return matched


def _keys(azimuths_deg: Sequence[float], package: GapPackage) -> list[tuple[int, int]]:
    """Index of each key frame, with the index of the view that it shows."""
    return [
        (frame, index)
        for frame, azimuth in enumerate(azimuths_deg)
        for index, view in enumerate(package.views)
        if abs(angle_difference(azimuth, view.azimuth_deg)) <= KEY_TOLERANCE_DEG
    ]


def _others(given: Sequence[NormalizedView], without: int | None) -> list[NormalizedView]:
    return [view for index, view in enumerate(given) if index != without]
