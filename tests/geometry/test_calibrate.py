import numpy as np
import pytest
import torch

from gapray.geometry.calibrate import calibrate
from gapray.geometry.camera import OrbitCamera
from gapray.geometry.frame import lay_out, mask_box, to_frame
from tests.geometry import scenes


def masks_of(camera, solid=scenes.letter):
    return scenes.shoot(solid, camera)[0]


@pytest.mark.parametrize(("elevation", "k"), [(5.0, 0.05), (20.0, 0.2), (32.0, 0.3)])
def test_elevation_and_axis_are_found(elevation, k):
    masks = masks_of(OrbitCamera(elevation, k, 0.05, 0.0))
    fits = calibrate(torch.tensor(masks).float() / 255, scenes.EIGHT, axis_y=0.0, own_crops=False)
    best = max(fits, key=lambda fit: fit.coverage.mean())
    assert best.direction == 1
    assert best.elevation_deg == pytest.approx(elevation, abs=4)
    assert best.axis_x == pytest.approx(0.05, abs=0.02)
    assert best.coverage.mean() > 0.96 and not best.shifted


def test_the_direction_is_found_from_silhouettes_where_they_determine_it():
    masks = masks_of(OrbitCamera(25, 0.2, 0, 0, -1))
    fits = calibrate(torch.tensor(masks).float() / 255, scenes.EIGHT, axis_y=0.0, own_crops=False)
    assert fits[1].direction == -1
    assert fits[1].coverage.mean() > fits[0].coverage.mean() + 0.01


def test_individually_cropped_photos_get_shifts():
    masks = masks_of(OrbitCamera(0, 0.1, 0, 0))
    moved = np.stack([np.roll(mask, shift, 1) for mask, shift in zip(masks, (0, 6, -5, 3, 0, -6, 4, -3), strict=True)])
    tensor = torch.tensor(moved).float() / 255
    fixed = calibrate(tensor, scenes.EIGHT, axis_y=0.0, own_crops=False)[0]
    loose = calibrate(tensor, scenes.EIGHT, axis_y=0.0, own_crops=True)[0]
    assert loose.shifted and not fixed.shifted
    assert 1 - loose.coverage.mean() < 0.6 * (1 - fixed.coverage.mean())
    assert np.abs(loose.shifts.mean(0)).max() < 1e-5


def test_photos_of_one_camera_share_one_placement():
    masks = [mask > 0 for mask in masks_of(OrbitCamera(20, 0.2, 0.2, 0.1))]
    layout = lay_out(masks, framing="product", margin=0.1)
    assert len(set(layout.placements)) == 1 and not layout.own_crops
    [place] = set(layout.placements)
    for mask in masks:
        left, right, upper, lower = mask_box(to_frame(mask.astype(np.uint8) * 255, place, 200) > 127)
        assert min(left, upper, 200 - right, 200 - lower) >= 8


def test_centred_photos_may_have_been_cropped_one_by_one():
    masks = []
    for mask in masks_of(OrbitCamera(0, 0.1, 0.15, 0.05)):
        left, right, upper, lower = mask_box(mask > 0)
        masks.append(np.roll(mask, (48 - (upper + lower) // 2, 48 - (left + right) // 2), (0, 1)) > 0)
    assert lay_out(masks, framing="photo", margin=0.1).own_crops


def test_photos_of_several_sizes_are_scaled_by_the_products_height():
    masks = [mask > 0 for mask in masks_of(OrbitCamera(0, 0, 0, 0), scenes.box)]
    cut = []
    for mask in masks:
        left, right, upper, lower = mask_box(mask)
        cut.append(mask[upper:lower, left:right])
    layout = lay_out(cut, framing="photo", margin=0.1)
    assert layout.own_crops
    heights = []
    for mask, place in zip(cut, layout.placements, strict=True):
        _, _, upper, lower = mask_box(to_frame(mask.astype(np.uint8) * 255, place, 128) > 127)
        heights.append(lower - upper)
    assert max(heights) - min(heights) <= 2


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        lay_out([np.zeros((8, 8), bool)] * 3, framing="product", margin=0.1)
