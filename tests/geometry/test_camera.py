import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gapray.geometry.camera import OrbitCamera, camera_axes, frame_grid, sample

angles = st.floats(-720, 720)
elevations = st.floats(-89, 89)
cameras = st.builds(
    OrbitCamera,
    elevation_deg=st.floats(-30, 60),
    inverse_distance=st.floats(0, 0.45),
    axis_x=st.floats(-0.3, 0.3),
    axis_y=st.floats(-0.3, 0.3),
    direction=st.sampled_from([1, -1]),
)
points = st.lists(st.floats(-1, 1), min_size=3, max_size=3)


@given(angles, elevations)
def test_axes_are_a_rotation(azimuth, elevation):
    axes = camera_axes(azimuth, elevation)
    assert np.allclose(axes @ axes.T, np.eye(3))
    assert np.isclose(np.linalg.det(axes), 1)


@given(angles, elevations)
def test_the_camera_stands_where_the_convention_says(azimuth, elevation):
    a, e = np.radians(azimuth), np.radians(elevation)
    assert np.allclose(camera_axes(azimuth, elevation)[2], [np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])


def test_at_azimuth_90_the_camera_looks_from_plus_x():
    assert np.allclose(camera_axes(90, 0) @ [1, 0, 0], [0, 0, 1])
    assert np.allclose(camera_axes(90, 0) @ [0, 0, -1], [1, 0, 0])


@given(cameras, angles, points)
def test_unproject_undoes_project(camera, azimuth, point):
    world = torch.tensor(point, dtype=torch.float64)
    u, v, view_z = camera.project(world, azimuth)
    assert torch.allclose(camera.unproject(u, v, view_z, azimuth), world, atol=1e-9)


@given(cameras, angles)
def test_the_axis_stays_where_it_is(camera, azimuth):
    u, v, _ = camera.project(torch.zeros(3, dtype=torch.float64), azimuth)
    assert np.isclose(float(u), camera.axis_x) and np.isclose(float(v), camera.axis_y)


def test_the_other_direction_is_the_mirrored_orbit():
    there = OrbitCamera(10, 0.2, 0, 0, 1).project(torch.tensor([0.3, 0.1, 0.2]), -40)
    back = OrbitCamera(10, 0.2, 0, 0, -1).project(torch.tensor([0.3, 0.1, 0.2]), 40)
    assert all(torch.allclose(a, b) for a, b in zip(there, back, strict=True))


def test_sample_reads_pixel_centres():
    image = torch.rand(3, 8, 8)
    u, v = frame_grid(8)
    assert torch.allclose(sample(image, u, v), image, atol=1e-6)
    assert torch.allclose(sample(image, u, v, mode="bicubic"), image, atol=1e-5)
