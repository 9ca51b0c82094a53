"""The fidelity test that the original plan names: LPIPS per angle, truth against generated, and the gain over the baselines."""

from pathlib import Path

import numpy as np
import pytest

from gapray.capture.decode import decode_photo
from gapray.capture.discover import discover
from gapray.cli.options import truth_options
from gapray.fidelity.baselines import BASELINES
from gapray.fidelity.comparison import Truth, compare, judge_comparison
from gapray.models.identity import ColourGradient
from gapray.orbit.conditions import build_conditions
from gapray.packaging.build import PackagingModels, build_package
from gapray.profile import load_profile
from gapray.report.table import SINGLE_IMAGE

PROFILE = load_profile(
    "classic",
    overrides=[
        "decode.reference_side=512",
        "orbit.size=256",
        "orbit.voxels=96",
        "orbit.frames=12",
        "fidelity.native=false",
    ],
    environment={},
)


@pytest.fixture(scope="module")
def scored(samples, classic_weights, mask_network, lpips_alex):
    models = PackagingModels.load(PROFILE.packaging)
    options = truth_options(direction="ccw", front=0, names="auto", layout="auto")
    found = {}
    for capture, hidden in zip(
        discover(str(samples / "captures")), discover(str(samples / "held_out"), options), strict=True
    ):
        assert capture.product_id == hidden.product_id
        package = build_package(capture, models, PROFILE.packaging)
        conditions = build_conditions(package, PROFILE.orbit)
        with_photos = [
            Truth(photo.azimuth_deg, decode_photo(Path(photo.uri).read_bytes(), PROFILE.packaging.decode))
            for photo in hidden.photos
        ]
        comparison = compare(
            package,
            conditions.initial,
            conditions.azimuths_deg,
            mask_network,
            truths=with_photos,
            orbit=PROFILE.orbit,
            mask=PROFILE.packaging.mask,
            settings=PROFILE.fidelity,
        )
        found[capture.product_id] = judge_comparison(comparison, lpips_alex, ColourGradient(), PROFILE.fidelity)
    return found


def test_lpips_per_angle_and_mean_improvement(scored):
    assert set(scored) == {"mug", "supplement"}
    for product, (scores, verdicts) in scored.items():
        by_label = {verdict.label: verdict for verdict in verdicts}
        ours = by_label["gapray"]
        angles = {
            score.azimuth_deg: score.lpips for score in scores if score.label == "gapray" and score.kind == "in-between"
        }
        assert len(angles) == 8 and not {azimuth for azimuth in angles if azimuth % 45 == 0}
        print(f"\n{product}: LPIPS by angle", {azimuth: round(value, 3) for azimuth, value in sorted(angles.items())})
        for label in BASELINES:
            gain = 1 - ours.lpips / by_label[label].lpips
            print(f"  {gain:.0%} less than {label} ({ours.lpips:.3f} against {by_label[label].lpips:.3f})")
            assert gain > 0.3, (product, label)
        assert ours.iou > by_label["nearest view"].iou
        assert ours.key_lpips < 0.02
        assert ours.span_deg > 300
        assert np.mean(list(angles.values())) == pytest.approx(ours.lpips)


def test_nothing_is_claimed_of_what_was_not_scored(scored):
    labels = {verdict.label for _, verdicts in scored.values() for verdict in verdicts}
    assert not labels & set(SINGLE_IMAGE)
