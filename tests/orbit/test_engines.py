"""Which engine draws the frames in between."""

import numpy as np
import pytest
import torch

from gapray.geometry.camera import OrbitCamera
from gapray.orbit.engines import ENGINES, TRIED, draw_between
from gapray.orbit.reconstruct import build_scene
from gapray.orbit.settings import OrbitSettings
from tests.geometry import scenes

CAMERA = OrbitCamera(12, 0.2, 0.0, 0.0)
SETTINGS = OrbitSettings(size=96, framing="photo", voxels=64)
CHOSEN = SETTINGS.model_copy(update={"engine": "morph", "refine_camera": False})
"""For tests of the drawing alone."""


def glossy(masks):
    """Photos whose shading is fixed to the lamp and the camera: nothing turns with the product."""
    v, u = np.mgrid[0:96, 0:96] / 96.0
    shade = np.stack([np.sin(9 * u), np.cos(11 * v), np.sin(8 * (u + v))], -1)
    picture = np.rint(140 + 90 * shade).astype(np.uint8)
    return [np.where(mask[..., None] > 0, picture, 255).astype(np.uint8) for mask in masks]


def scene_of(solid, photos=None, settings=SETTINGS):
    masks, _, painted = scenes.shoot(solid, CAMERA)
    return build_scene(list(painted) if photos is None else photos(masks), list(masks), scenes.EIGHT, settings)


def test_a_printed_product_is_drawn_by_its_shape():
    _, calibration = scene_of(scenes.letter)
    assert calibration.engine == "synthesis"
    assert set(calibration.engine_errors) == set(TRIED)
    assert not any("shape" in warning for warning in calibration.warnings([str(a) for a in scenes.EIGHT]))


def test_a_product_whose_appearance_does_not_turn_with_it_is_not():
    _, calibration = scene_of(scenes.cylinder, glossy)
    assert calibration.engine in ("flow", "nearest")
    assert min(calibration.engine_errors, key=calibration.engine_errors.get) == calibration.engine
    assert any("shape" in warning for warning in calibration.warnings([str(a) for a in scenes.EIGHT]))


def test_settings_name_the_engine():
    for engine in ENGINES:
        _, calibration = scene_of(scenes.box, settings=CHOSEN.model_copy(update={"engine": engine}))
        assert calibration.engine == engine and not calibration.engine_errors


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_draws_whole_frames(engine):
    scene, _ = scene_of(scenes.letter, settings=CHOSEN)
    truth, view_z, _ = scenes.look(scenes.letter, CAMERA, 20.0)
    [frame] = draw_between(scene, [20.0], engine)
    assert frame.colour.shape == (3, 96, 96) and frame.alpha.shape == frame.view_z.shape == (96, 96)
    assert float(frame.colour.min()) >= 0 and float(frame.colour.max()) <= 1
    drawn = frame.alpha.numpy() > 0.5
    min_iou = {"synthesis": 0.9, "morph": 0.9, "flow": 0.7, "nearest": 0.7}[engine]
    assert (drawn & (truth > 0)).sum() / (drawn | (truth > 0)).sum() > min_iou
    both = drawn & (truth > 0)
    assert np.median(np.abs(frame.view_z.numpy()[both] - view_z[both])) < 0.25


def test_flow_at_a_photos_own_angle_is_the_photo():
    scene, _ = scene_of(scenes.box, settings=CHOSEN)
    [frame] = draw_between(scene, [90.0], "flow")
    assert torch.equal(frame.colour, scene.photos[2]) and torch.equal(frame.alpha, scene.alpha[2])


def test_a_tall_product_from_above_ends_at_its_foot():
    """Regression: the hull's field ended inside such products and its last layer repeated: a bottle grew a second neck."""
    camera = OrbitCamera(24, 0.3, 0.0, 0.05)

    def bottle(points):
        body = scenes.cylinder(points - torch.tensor([0.0, -0.15, 0.0]), 0.13, 0.72)
        return torch.maximum(body, scenes.cylinder(points - torch.tensor([0.0, 0.7, 0.0]), 0.05, 0.2))

    masks, _, photos = scenes.shoot(bottle, camera)
    scene, _ = build_scene(list(photos), list(masks), scenes.EIGHT, CHOSEN)
    lowest = max(int(np.flatnonzero(mask.any(1))[-1]) for mask in masks)
    [frame] = draw_between(scene, [22.5], "morph")
    assert not (frame.alpha[lowest + 3 :] > 0.1).any()
    assert (frame.alpha[lowest - 3] > 0.5).any()
