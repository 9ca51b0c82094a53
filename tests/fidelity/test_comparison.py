import dataclasses

import cv2
import numpy as np
import pytest

from gapray.errors import InputError
from gapray.fidelity.baselines import BASELINES, nearest
from gapray.fidelity.comparison import Truth, compare, judge_comparison, judge_comparisons
from gapray.fidelity.left_out import draw_left_out
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.score import FrameScore, MotionScores, verdict
from gapray.fidelity.settings import GateSettings
from gapray.fidelity.shown import Cut, NormalizedView, normalize_view, scale_placement
from gapray.geometry.frame import Placement
from gapray.models.identity import ColourGradient
from gapray.orbit.conditions import build_conditions
from gapray.profile import load_profile
from gapray.video.morph import Morph
from tests.orbit.test_conditions import solid_package

PROFILE = load_profile(
    "classic",
    overrides=[
        "orbit.size=96",
        "orbit.voxels=48",
        "fidelity.size=64",
        "fidelity.leave_out=2",
        "orbit.refine_camera=false",
        "orbit.engine=morph",
    ],
    environment={},
)


class WhiteIsBackdrop:
    """Everything that is not nearly white or backdrop grey is product."""

    def predict(self, photos):
        return [
            np.where((photo.astype(int).max(-1) - photo.min(-1) > 12) | (photo.max(-1) < 200), 255, 0).astype(np.uint8)
            for photo in photos
        ]


@pytest.fixture(scope="module")
def package():
    return solid_package(size=96)


@pytest.fixture(scope="module")
def frames(package):
    return build_conditions(package, PROFILE.orbit)


def compared(package, frames, images=None, **options):
    return compare(
        package,
        frames.initial if images is None else images,
        frames.azimuths_deg,
        WhiteIsBackdrop(),
        orbit=PROFILE.orbit,
        mask=PROFILE.packaging.mask,
        settings=PROFILE.fidelity,
        **options,
    )


def truths(package, *azimuths):
    return [Truth(azimuth, package.views[0].reference) for azimuth in azimuths]


def test_pairs_by_angle_and_kind(package, frames):
    found = compared(package, frames, truths=truths(package, 15, 46, 23.9, 45.2, 197))
    assert [(pair.truth.azimuth_deg, pair.frame) for pair in found.pairs if pair.kind == "in-between"] == [
        (15, 1),
        (46, 3),
        (197, 13),
    ]  # 23.9 is too far from a frame, 45.2 is a photo that was given
    assert sum(pair.kind == "key" for pair in found.pairs) == 8
    assert (found.truth, len(found.clip), len(found.given)) == ("held-out", 24, 8)


def test_nothing_to_compare_with_is_refused(package, frames):
    with pytest.raises(InputError) as error:
        compared(package, frames, truths=truths(package, 45))
    assert error.value.code == "score.no_truth"


def test_key_frames_score_near_zero_and_ours_beats_a_frozen_video(package, frames, lpips_alex):
    drawn = draw_left_out(package, Morph(), PROFILE.orbit, PROFILE.video, engine="morph", views=2)
    assert [frame.view for frame in drawn] == [1, 5]
    scores, verdicts = judge_comparison(
        compared(package, frames, drawn=drawn), lpips_alex, ColourGradient(), PROFILE.fidelity
    )
    ours = verdicts[0]
    assert [row.label for row in verdicts] == ["gapray", *BASELINES]
    assert (ours.angles, ours.key_angles) == (2, 8)
    assert ours.key_lpips < 0.02 < ours.lpips
    assert ours.loop_gap is not None and ours.flicker is not None
    assert {row.gate for row in verdicts[1:]} == {"none"}
    assert all(row.kind == "in-between" for row in scores if row.label != "gapray")
    frozen = np.repeat(frames.initial[:1], 24, 0)
    _, still = judge_comparison(
        compared(package, frames, frozen, drawn=drawn), lpips_alex, ColourGradient(), PROFILE.fidelity
    )
    assert still[0].key_lpips > 5 * ours.key_lpips
    assert still[0].span_deg == 0


def test_a_baseline_never_sees_the_left_out_view(package, frames, lpips_alex):
    drawn = draw_left_out(package, Morph(), PROFILE.orbit, PROFILE.video, engine="morph", views=1)
    scores, _ = judge_comparison(compared(package, frames, drawn=drawn), lpips_alex, ColourGradient(), PROFILE.fidelity)
    [left] = [row for row in scores if row.label == "nearest view"]
    assert left.lpips > 0.01


def test_videos_judged_together_get_their_own_scores_in_one_pass(package, frames, lpips_alex):
    drawn = draw_left_out(package, Morph(), PROFILE.orbit, PROFILE.video, engine="morph", views=1)
    frozen = np.repeat(frames.initial[:1], 24, 0)
    large = np.stack([cv2.resize(frame, (128, 128)) for frame in frames.initial])
    comparisons = [compared(package, frames, images, drawn=drawn) for images in (None, frozen, large)]
    passes = []

    class Counting(Lpips):
        def distance(self, images, truths, **options):
            passes.append(len(images))
            return super().distance(images, truths, **options)

    metric = Counting("alex", backbone=lpips_alex.backbone)
    passes.clear()
    together = judge_comparisons(comparisons, metric, ColourGradient(), PROFILE.fidelity)
    # All pairs and baselines, the steps of all turns, and the pairs at each of the videos' two sizes.
    assert len(passes) == 4
    for comparison, (scores, verdicts) in zip(comparisons, together, strict=True):
        single_scores, single_verdicts = judge_comparison(comparison, lpips_alex, ColourGradient(), PROFILE.fidelity)
        for found, single in zip([*scores, *verdicts], [*single_scores, *single_verdicts], strict=True):
            for name, value in found.as_dict().items():
                expected = getattr(single, name)
                assert value == (pytest.approx(expected, abs=1e-5) if isinstance(value, float) else expected)


def test_a_photo_is_cut_out_by_the_network_that_cuts_out_the_frames(package, frames):
    """The package's own masks count only where the same network made them."""
    wide = [dataclasses.replace(view, mask=np.full_like(view.mask, 255)) for view in package.views]
    wide = dataclasses.replace(package, views=tuple(wide), models={**package.models, "mask": "old@1"})
    drawn = draw_left_out(package, Morph(), PROFILE.orbit, PROFILE.video, engine="morph", views=1)
    kept, anew = (
        compared(wide, frames, drawn=drawn, mask_model=name).given[0].mask >= 128 for name in ("old@1", "new@2")
    )
    assert kept.mean() > 0.8 > 0.6 > anew.mean()


def test_too_few_views_to_leave_one_out_are_refused(package):
    few = dataclasses.replace(package, views=package.views[:3])
    with pytest.raises(InputError) as error:
        draw_left_out(few, Morph(), PROFILE.orbit, PROFILE.video, engine="morph", views=1)
    assert error.value.code == "score.no_truth"


def score(azimuth, lpips, kind="in-between"):
    return FrameScore("gapray", 0, azimuth, kind, lpips, None, 20.0, 0.9, 0.95, 0.99, 0.3)


def test_a_verdict_never_mixes_key_and_in_between():
    found = verdict(
        "gapray",
        [score(15, 0.1), score(30, 0.3), score(45, 0.0, "key")],
        GateSettings(),
        MotionScores(0.01, 1.0, 360.0),
    )
    assert (found.lpips, found.worst_lpips, found.worst_azimuth_deg, found.key_lpips) == (0.2, 0.3, 30, 0.0)
    assert (found.angles, found.key_angles, found.gate) == (2, 1, "pass")


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ({"max_lpips": 0.15}, "LPIPS 0.2 is over 0.15"),
        ({"max_worst_lpips": 0.25}, "LPIPS at 30° 0.3 is over 0.25"),
        ({"min_iou": 0.99}, "silhouette IoU 0.95 is under 0.99"),
        ({"max_flicker": 0.005}, "flicker 0.01 is over 0.005"),
        ({"max_loop_gap": 0.5}, "loop gap 1 is over 0.5"),
        ({"min_span_deg": 350}, "degrees shown 200 is under 350"),
    ],
)
def test_the_gate_gives_its_reasons(gate, reason):
    limits = GateSettings(**(dict.fromkeys(GateSettings.model_fields) | gate))
    found = verdict("gapray", [score(15, 0.1), score(30, 0.3)], limits, MotionScores(0.01, 1.0, 200.0))
    assert (found.gate, found.reasons) == ("fail", (reason,))


def test_a_missing_measurement_fails_no_gate():
    assert verdict("gapray", [score(45, 0.0, "key")], GateSettings()).gate == "pass"


def test_baselines_at_a_given_angle_are_the_photo():
    rng = np.random.default_rng(0)
    given = [
        NormalizedView(
            45.0 * index, rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), np.full((16, 16), 255, np.uint8)
        )
        for index in range(8)
    ]
    for label, draw in BASELINES.items():
        if label != "front view only":
            assert np.array_equal(draw(given, 90.0).image, given[2].image), label
    assert np.array_equal(nearest(given, 350).image, given[0].image)
    assert np.array_equal(nearest(given, 337.5).image, given[0].image), "of two equally near, the first"
    assert np.array_equal(BASELINES["front view only"](given, 180).image, given[0].image)


def test_boxes_undo_where_and_how_large_the_product_stood():
    image, mask = np.full((200, 300, 3), 255, np.uint8), np.zeros((200, 300), np.uint8)
    image[50:150, 180:240] = (30, 90, 160)
    mask[50:150, 180:240] = 255
    moved = np.full((400, 400, 3), 255, np.uint8), np.zeros((400, 400), np.uint8)
    moved[0][10:210, 20:140] = (30, 90, 160)
    moved[1][10:210, 20:140] = 255
    first = normalize_view(Cut(0, image, mask), 64, framing="boxes")
    second = normalize_view(Cut(0, *moved), 64, framing="boxes")
    assert np.abs(first.image.astype(int) - second.image).mean() < 3


def test_a_placement_follows_the_photos_size():
    assert scale_placement(Placement(100, 50, 40), (200, 300), (400, 600)) == Placement(200, 100, 80)
