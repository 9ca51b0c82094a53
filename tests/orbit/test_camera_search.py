"""The camera that outlines and colours agree on."""

import numpy as np
import pytest
import torch

from gapray.errors import InputError
from gapray.geometry.camera import OrbitCamera
from gapray.geometry.frame import lay_out
from gapray.orbit.camera_search import find_camera, placed
from tests.geometry import scenes

EIGHT = tuple(scenes.EIGHT)


def found(solid, camera, *, photos=None):
    masks, _, painted = scenes.shoot(solid, camera, size=128)
    layout = lay_out([mask >= 128 for mask in masks], framing="photo", margin=0.1)
    with torch.no_grad():
        return find_camera(
            list(painted if photos is None else photos), list(masks), EIGHT, layout, size=128, refine=True, device="cpu"
        )


@pytest.mark.parametrize(("elevation", "k"), [(25.0, 0.3), (10.0, 0.2)])
def test_the_elevation_of_a_printed_can_is_found(elevation, k):
    """Its outlines alone fit many elevations: 12.2 degrees were once found where 24.7 were true."""
    fit = found(scenes.cylinder, OrbitCamera(elevation, k, 0.02, 0.0))
    assert fit.elevation_deg == pytest.approx(elevation, abs=3.0)
    assert fit.inverse_distance == pytest.approx(k, abs=0.08)
    assert fit.axis_x == pytest.approx(0.02, abs=0.015)
    assert fit.direction == 1


def test_the_direction_is_read_from_the_print():
    assert found(scenes.cylinder, OrbitCamera(15, 0.2, 0.0, 0.0, -1)).direction == -1


def test_a_plain_round_product_gets_the_usual_camera():
    camera = OrbitCamera(20, 0.2, 0.0, 0.0)
    plain = np.full((8, 128, 128, 3), 150, np.uint8)
    fit = found(scenes.cylinder, camera, photos=plain)
    assert 0 <= fit.elevation_deg <= 35 and 0.05 <= fit.inverse_distance <= 0.4


def test_photos_are_placed_by_the_shifts():
    masks, _, _ = scenes.shoot(scenes.letter, OrbitCamera(10, 0.1, 0, 0))
    layout = lay_out([mask >= 128 for mask in masks], framing="photo", margin=0.1)
    fit = found(scenes.letter, OrbitCamera(10, 0.1, 0, 0))
    assert placed(layout, fit) == list(layout.placements)


def test_a_mask_that_vanishes_in_the_frame_has_an_error_code():
    masks, _, photos = scenes.shoot(scenes.box, OrbitCamera(10, 0.1, 0, 0))
    layout = lay_out([mask >= 128 for mask in masks], framing="photo", margin=0.1)
    speck = np.zeros_like(masks[0])
    speck[3, 3] = 255
    with pytest.raises(InputError) as error:
        find_camera(list(photos), [*masks[:-1], speck], EIGHT, layout, size=8, refine=True, device="cpu")
    assert error.value.code == "mask.too_small"
