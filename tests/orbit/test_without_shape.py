"""Frames drawn without a shape, on a real scene of a drawn solid."""

import dataclasses

import pytest
import torch

from gapray.geometry.carve import NOTHING
from gapray.orbit.without_shape import by_flow, by_nearest, photo_frame


def test_at_a_photo_s_own_angle_flow_shows_the_photo(letter_scene):
    drawn, photo = by_flow(letter_scene, 90.0), photo_frame(letter_scene, 2)
    assert torch.equal(drawn.alpha, photo.alpha) and torch.equal(drawn.colour, photo.colour)


def test_between_photos_flow_lies_between_them(letter_scene):
    drawn = by_flow(letter_scene, 67.5)
    inside = drawn.alpha > 0.5
    covered = [float((letter_scene.alpha[view] > 0.5).float().sum()) for view in (1, 2)]
    assert 0.7 * min(covered) < float(inside.sum()) < 1.3 * max(covered)
    assert (drawn.view_z[drawn.alpha < 1e-4] == NOTHING).all() and (drawn.view_z[inside].abs() < 1.5).all()


def test_colours_extend_beyond_the_outline(letter_scene):
    """So that an outline that flow moves outwards does not show black."""
    drawn = by_flow(letter_scene, 67.5)
    beside = (drawn.alpha == 0) & (torch.nn.functional.max_pool2d(drawn.alpha[None], 5, 1, 2)[0] > 0.5)
    assert beside.any()
    assert float((drawn.colour[:, beside].mean(1) - drawn.colour[:, drawn.alpha > 0.9].mean(1)).abs().max()) < 0.25


@pytest.mark.parametrize("view", [1, 2])
def test_a_view_left_out_is_not_used(letter_scene, view):
    spoilt = dataclasses.replace(letter_scene, colour=letter_scene.colour.clone(), alpha=letter_scene.alpha.clone())
    spoilt.colour[view], spoilt.alpha[view] = 0, 0
    before, after = (by_flow(known, 67.5, without=view) for known in (letter_scene, spoilt))
    assert torch.equal(before.colour, after.colour) and torch.equal(before.alpha, after.alpha)
    assert not torch.equal(by_flow(letter_scene, 67.5).colour, by_flow(spoilt, 67.5).colour)


def test_nearest_is_the_nearer_photo(letter_scene):
    assert torch.equal(by_nearest(letter_scene, 100.0).colour, letter_scene.photos[2])
    assert torch.equal(by_nearest(letter_scene, 350.0).colour, letter_scene.photos[0])
    assert torch.equal(by_nearest(letter_scene, 337.5).colour, letter_scene.photos[0]), "of two equally near, the first"


def test_flow_that_points_beyond_the_edge_still_finds_a_colour(letter_scene):
    """Photos that move as a whole, up to the frame's edge."""
    noise = 0.3 + 0.4 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    photo = torch.nn.functional.interpolate(noise[..., ::8, ::8], 64, mode="bicubic").clamp(0, 1)
    photos = torch.cat([photo, photo.roll((6, 9), (2, 3))])
    alpha, near = torch.ones(2, 64, 64), torch.zeros(2, 64, 64)
    found = dataclasses.replace(
        letter_scene, azimuths_deg=(0.0, 45.0), photos=photos, colour=photos, alpha=alpha, view_z=near
    )
    drawn = by_flow(found, 20.0)
    assert torch.isfinite(drawn.colour).all() and float(drawn.alpha.min()) > 0.99
    assert float(drawn.colour.amin()) > 0.1  # no black from beyond the edge
