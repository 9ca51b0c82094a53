"""Batched geometry against the camera of `gapray.geometry`."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.geometry.camera import OrbitCamera, frame_grid
from gapray.orbit.synthesis.inputs import NEAREST, Frames, nearest_views
from gapray.orbit.synthesis.sampling import filled_in, located, read


def frames(camera: OrbitCamera, azimuth: float, photos: list[float], size: int = 32) -> Frames:
    turns = np.stack([camera.axes(photo) @ camera.axes(azimuth).T for photo in photos])
    plane = torch.zeros(1, 1, size, size)
    return Frames(
        morph=plane.expand(1, 3, -1, -1),
        visibility=plane,
        flow=plane.expand(1, 3, -1, -1),
        flow_alpha=plane,
        alpha=plane,
        view_z=plane,
        views=torch.arange(len(photos))[None],
        angles_deg=torch.zeros(1, len(photos)),
        turns=torch.tensor(turns, dtype=torch.float32)[None],
        camera=torch.tensor([[camera.inverse_distance, camera.axis_x, camera.axis_y]]),
    )


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-10, 50),
    st.floats(0, 0.4),
    st.floats(-0.1, 0.1),
    st.floats(0, 360),
    st.floats(0, 360),
    st.sampled_from([1, -1]),
)
def test_located_is_unproject_then_project(elevation, inverse_distance, axis, azimuth, other, direction):
    camera = OrbitCamera(elevation, inverse_distance, axis, -axis, direction)
    photos = [other, other + 40, azimuth, azimuth - 90]
    view_z = torch.linspace(-0.5, 0.5, 3)[None, :, None, None].expand(1, 3, 32, 32)
    where, toward = located(frames(camera, azimuth, photos), view_z)
    u, v = frame_grid(32)
    for view, photo in enumerate(photos):
        for depth in range(3):
            points = camera.unproject(u, v, view_z[0, depth], azimuth)
            expected = camera.project(points, photo)
            found = (where[0, view, depth, ..., 0], where[0, view, depth, ..., 1], toward[0, view, depth])
            for a, b in zip(found, expected, strict=True):
                assert torch.allclose(a, b, atol=1e-4)


def test_sampling_at_the_grid_gives_the_image_back():
    image = torch.rand(2, NEAREST, 3, 16, 16)
    grid = torch.stack(frame_grid(16), -1).expand(2, NEAREST, 16, 16, 2)
    for mode in ("bilinear", "bicubic"):
        assert torch.allclose(read(image, grid, mode=mode), image, atol=1e-5)


def test_filling_keeps_what_is_known_and_stays_in_its_range():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 32, 32, generator=generator)
    known = (torch.rand(2, 1, 32, 32, generator=generator) < 0.2).float()
    found = filled_in(torch.where(known > 0, image, -9.0), known)
    assert torch.equal(torch.where(known > 0, found, 0), torch.where(known > 0, image, 0))
    assert float(found.min()) >= 0 and float(found.max()) <= 1


def test_a_hole_takes_the_colour_around_it():
    image = torch.full((1, 1, 32, 32), 0.7)
    known = torch.ones(1, 1, 32, 32)
    known[..., 8:20, 8:20] = 0
    assert torch.allclose(filled_in(image * known, known), image, atol=1e-5)


@given(st.lists(st.floats(0, 359), min_size=1, max_size=12), st.floats(0, 359))
def test_nearest_views_are_nearest_first(captured, azimuth):
    found = nearest_views(captured, azimuth)
    away = [abs((captured[view] - azimuth + 180) % 360 - 180) for view in range(len(captured))]
    assert len(found) == NEAREST
    assert [away[view] for view in found] == sorted(away[view] for view in found)
    assert max(away[view] for view in found) <= sorted(away)[min(NEAREST, len(away)) - 1] + 1e-9


def test_a_view_left_out_is_not_among_the_nearest():
    assert 0 not in nearest_views([0, 90, 180, 270], 5, without=0)
