import numpy as np
import torch

from gapray.geometry.camera import OrbitCamera
from gapray.geometry.photo_consistency import disagreement
from tests.geometry import scenes

CAMERA = OrbitCamera(22, 0.25, 0.02, 0.0)


def tensors(solid, camera=CAMERA, azimuths=scenes.EIGHT):
    masks, fronts, photos = scenes.shoot(solid, camera, azimuths)
    colour = torch.tensor(photos).permute(0, 3, 1, 2).float() / 255
    return colour, torch.tensor(masks).float() / 255, torch.tensor(fronts)


def test_photos_of_a_surface_agree_under_the_camera_that_took_them():
    colour, alpha, view_z = tensors(scenes.cylinder)
    own = disagreement(colour, alpha, view_z, scenes.EIGHT, CAMERA)
    assert own.shape == (8,) and float(own.max()) < 0.05
    for wrong in (
        OrbitCamera(8, 0.25, 0.02, 0.0),
        OrbitCamera(22, 0.25, 0.15, 0.0),
        OrbitCamera(22, 0.25, 0.02, 0.0, -1),
    ):
        assert disagreement(colour, alpha, view_z, scenes.EIGHT, wrong).mean() > 2 * own.mean()


def test_a_point_off_the_surface_costs_its_whole_colour():
    colour, alpha, view_z = tensors(scenes.box)
    nothing = disagreement(colour, alpha, torch.full_like(view_z, -9.0), scenes.EIGHT, CAMERA)
    expected = (colour.mean(1) * alpha).sum((1, 2)) / alpha.sum((1, 2))
    assert torch.allclose(nothing, expected, atol=1e-5)


def test_plain_products_agree_under_any_camera():
    colour, alpha, view_z = tensors(scenes.cylinder)
    plain = torch.full_like(colour, 0.6)
    for elevation in (0, 22, 45):
        assert float(disagreement(plain, alpha, view_z, scenes.EIGHT, OrbitCamera(elevation, 0.2, 0, 0)).max()) < 1e-5
    assert np.isfinite(float(disagreement(plain, alpha, view_z, scenes.EIGHT, CAMERA).sum()))
