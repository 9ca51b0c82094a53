"""A scene that several tests draw from."""

import pytest

from gapray.geometry.camera import OrbitCamera
from gapray.orbit.reconstruct import build_scene
from gapray.orbit.settings import OrbitSettings
from tests.geometry import scenes


@pytest.fixture(scope="session")
def letter_scene():
    """A printed solid from eight sides, 64 px; shared, so never changed."""
    masks, _, photos = scenes.shoot(scenes.letter, OrbitCamera(18, 0.2, 0.0, 0.0), size=64)
    settings = OrbitSettings(size=64, voxels=32, framing="photo", engine="morph", refine_camera=False)
    found, _ = build_scene(list(photos), list(masks), scenes.EIGHT, settings)
    return found
