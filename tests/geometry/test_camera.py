import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gapray.geometry.camera import camera_axes

angles = st.floats(-720, 720)


@given(angles, st.floats(-89, 89))
def test_axes_are_a_rotation(azimuth, elevation):
    axes = camera_axes(azimuth, elevation)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.isclose(np.linalg.det(axes), 1)


@given(angles, st.floats(-89, 89))
def test_a_turn_later_is_the_same(azimuth, elevation):
    assert np.allclose(camera_axes(azimuth, elevation), camera_axes(azimuth + 360, elevation), atol=1e-9)


def test_convention():
    assert np.allclose(camera_axes(0, 0), np.eye(3))
    # Counter-clockwise seen from above: a quarter turn brings the camera to +x, where +z lies to its left.
    right, up, towards = camera_axes(90, 0)
    assert np.allclose(towards, [1, 0, 0], atol=1e-12)
    assert np.allclose(right, [0, 0, -1], atol=1e-12)
    assert np.allclose(up, [0, 1, 0], atol=1e-12)
