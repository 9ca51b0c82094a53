import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.capture.decode import decode_photo
from gapray.errors import InputError
from gapray.fidelity.align import align
from gapray.fidelity.foreign import aligned_scores, refuse_other_product
from gapray.fidelity.shown import NormalizedView, cut_out, normalize_view
from gapray.gap.settings import MaskSettings


def circle(count):
    return 360 * np.arange(count) / count


def apart(a, b):
    return np.abs((np.asarray(a) - np.asarray(b) + 180) % 360 - 180)


@given(
    start=st.floats(0, 360),
    way=st.sampled_from([1, -1]),
    frames=st.integers(16, 60),
    ripple=st.floats(-0.5, 0.5),
)
@settings(max_examples=60, deadline=None)
def test_a_known_turn_is_found(start, way, frames, ripple):
    """Cost = distance on the circle: any start, direction and moderate change of speed is recovered."""
    angles = circle(24)
    time = np.arange(frames) / frames
    shows = (start + way * 360 * (time + ripple * np.sin(2 * np.pi * time) / (2 * np.pi))) % 360
    cost = 1 - np.cos(np.radians(apart(shows[:, None], angles[None]))) + 0.05
    found = align(cost, angles)
    assert found.direction == way
    assert apart(angles[list(found.angles)], shows).max() <= 15
    assert found.span_deg >= 330
    assert found.violations == 0


def test_a_frozen_video_matches_no_angle():
    angles = circle(24)
    cost = np.repeat((1 - np.cos(np.radians(apart(0, angles))) + 0.05)[None], 24, 0)
    found = align(cost, angles)
    assert found.span_deg == 0
    assert len(found.unmatched) >= 20


def test_half_a_turn_leaves_angles_unmatched():
    angles = circle(24)
    shows = 180 * np.arange(24) / 24
    cost = 1 - np.cos(np.radians(apart(shows[:, None], angles[None]))) + 0.05
    found = align(cost, angles)
    assert 150 <= found.span_deg <= 210
    assert {14, 17, 20} <= set(found.unmatched)


@pytest.mark.parametrize("shape", [(1, 8), (5, 2)])
def test_too_few_frames_or_angles_are_refused(shape):
    with pytest.raises(ValueError, match="cannot be aligned"):
        align(np.zeros(shape), circle(shape[1]))


@pytest.fixture(scope="module")
def real_spins(spins, mask_network):
    found = {}
    for name in ("vans_plaid_shoe", "dresser_brown"):
        frames = json.loads((spins / name / "views.json").read_text())["frames"][::2]
        photos = [decode_photo((spins / name / frame["file"]).read_bytes()) for frame in frames]
        cuts = cut_out(photos, [frame["azimuth_deg"] for frame in frames], mask_network, MaskSettings())
        found[name] = sorted(
            (normalize_view(cut, 128, framing="boxes") for cut in cuts), key=lambda view: view.azimuth_deg
        )
    return found


def speeding(count):
    time = np.arange(count) / count
    return np.rint(count * (time + 0.35 * np.sin(2 * np.pi * time) / (2 * np.pi))).astype(int) % count


@pytest.mark.long
@pytest.mark.parametrize("order", ["shifted", "reversed", "speeding"])
def test_real_spins_align_to_within_one_frame(real_spins, lpips_alex, order):
    for spin in real_spins.values():
        count = len(spin)
        picked = {
            "shifted": (np.arange(count) + 7) % count,
            "reversed": np.arange(count)[::-1],
            "speeding": speeding(count),
        }[order]
        truths = spin[::2]
        found = aligned_scores([spin[index] for index in picked], truths, lpips_alex)
        aligned = [truths[angle].azimuth_deg for angle in found.alignment.angles]
        want = [spin[index].azimuth_deg for index in picked]
        assert apart(aligned, want).max() <= max(np.diff([view.azimuth_deg for view in spin])) + 0.1
        assert found.alignment.direction == (-1 if order == "reversed" else 1)
        assert found.mean < 0.1


def test_another_products_video_is_refused(real_spins, lpips_alex):
    shoe, dresser = real_spins["vans_plaid_shoe"], real_spins["dresser_brown"]
    right, wrong = (aligned_scores(shoe, truths[::2], lpips_alex) for truths in (shoe, dresser))
    refuse_other_product(right, [wrong], "shoe.mp4")
    refuse_other_product(right, [], "shoe.mp4")
    for others in ([right], []):
        with pytest.raises(InputError) as error:
            refuse_other_product(wrong, others, "shoe.mp4")
        assert error.value.code == "score.not_this_product"


def test_a_frozen_spin_does_not_score_well(real_spins, lpips_alex):
    shoe = real_spins["vans_plaid_shoe"]
    moving, frozen = (aligned_scores(video, shoe[::2], lpips_alex) for video in (shoe, [shoe[0]] * 30))
    assert frozen.alignment.span_deg == 0 < moving.alignment.span_deg
    assert frozen.mean > 3 * moving.mean


def test_a_video_too_short_to_align_is_refused():
    picture = NormalizedView(0.0, np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError) as error:
        aligned_scores([picture], [picture] * 8, None)
    assert error.value.code == "score.too_short"
