"""The renderer against solids whose silhouettes and surfaces are known in closed form."""

import math

import numpy as np
import pytest
import torch

from gapray.geometry.camera import OrbitCamera, frame_grid
from gapray.geometry.carve import NOTHING
from training.products import SAMPLES, Finish, Product, block, loft, profile, turn_about
from training.render import Lattice, Solids, Studio, shoot

STUDIO = Studio((0.3, 0.8, 0.5), 0.6, 0.0, ((0.0, 0.5, 0.3, 0.3),), (0.9, 0.9, 0.9), True)
CAMERA = OrbitCamera(20.0, 0.2, 0.02, -0.03)
SIZE = 64
RADIUS = 0.5


def ball() -> Product:
    t = np.linspace(-1, 1, SAMPLES)
    body = loft((0, 0, 0), RADIUS, profile(RADIUS * np.sqrt(np.maximum(1 - t**2, 1e-6))), Finish((0.8, 0.2, 0.1)))
    return Product("ball", (body,), bounds=np.full(3, RADIUS + 0.02))


def case(half=(0.5, 0.3, 0.2)) -> Product:
    return Product("case", (block((0, 0, 0), half, Finish((0.2, 0.6, 0.8)), 0.0),), bounds=np.array(half) + 0.02)


def rays(camera, azimuth, size):
    u, v = frame_grid(size)
    begin, end = (camera.unproject(u, v, torch.full_like(u, near), azimuth) for near in (2.0, -2.0))
    return begin, torch.nn.functional.normalize(end - begin, dim=-1)


def analytic_box(half, camera, azimuth, size):
    """Hit or not, and view_z, of an axis-aligned box by the slab test."""
    begin, heading = rays(camera, azimuth, size)
    sides = torch.tensor(half)
    first, second = (-sides - begin) / heading, (sides - begin) / heading
    enter, leave = torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)
    points = begin + heading * enter[..., None]
    return enter < leave, camera.project(points, azimuth)[2]


def analytic_ball(camera, azimuth, size):
    begin, heading = rays(camera, azimuth, size)
    middle = -(begin * heading).sum(-1)
    nearest = (begin + heading * middle[..., None]).norm(dim=-1)
    along = middle - (RADIUS**2 - nearest**2).clamp(min=0).sqrt()
    return nearest < RADIUS, camera.project(begin + heading * along[..., None], azimuth)[2]


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 200.0])
def test_a_box_is_where_the_slab_test_says(azimuth):
    half = (0.5, 0.3, 0.2)
    shots = shoot(case(half), CAMERA, [azimuth], STUDIO, SIZE, lattice=64)
    hit, view_z = analytic_box(half, CAMERA, azimuth, SIZE * 8)
    coverage = torch.nn.functional.avg_pool2d(hit.float()[None, None], 8)[0, 0]
    assert (shots.alpha[0] - coverage).abs().max() <= 0.5 and (shots.alpha[0] - coverage).abs().mean() < 0.006
    assert float(shots.alpha[0].sum()) == pytest.approx(float(coverage.sum()), rel=0.01)
    whole = coverage == 1
    middle = view_z.view(SIZE, 8, SIZE, 8).mean((1, 3))
    assert (shots.view_z[0] - middle)[whole].abs().quantile(0.95) < 0.01


def test_a_ball_is_where_its_equation_says():
    shots = shoot(ball(), CAMERA, [77.0], STUDIO, SIZE, lattice=64)
    hit, view_z = analytic_ball(CAMERA, 77.0, SIZE * 8)
    coverage = torch.nn.functional.avg_pool2d(hit.float()[None, None], 8)[0, 0]
    assert (shots.alpha[0] - coverage).abs().mean() < 0.006
    well = torch.nn.functional.max_pool2d(1 - coverage[None], 9, 1, 4)[0] == 0
    middle = view_z.view(SIZE, 8, SIZE, 8).mean((1, 3))
    assert (shots.view_z[0] - middle)[well].abs().max() < 0.02


def test_outlines_are_antialiased_and_the_background_is_empty():
    shots = shoot(ball(), CAMERA, [0.0], STUDIO, SIZE, lattice=64)
    alpha = shots.alpha[0]
    assert 0.25 in alpha and 0.5 in alpha and 1.0 in alpha
    assert (shots.colour[0][:, alpha == 0] == 0).all() and (shots.view_z[0][alpha == 0] == NOTHING).all()
    assert (shots.colour[0] <= alpha + 1e-6).all()


def test_a_solid_of_revolution_looks_the_same_from_every_angle():
    shots = shoot(ball(), OrbitCamera(10, 0.1, 0, 0), [0.0, 123.0], STUDIO, SIZE, lattice=64)
    assert (shots.alpha[0] - shots.alpha[1]).abs().mean() < 0.004
    # The lights are fixed to the camera, so the shading is too.
    assert (shots.colour[0] - shots.colour[1]).abs().mean() < 0.01


def test_cut_solids_are_hollow():
    cup = loft((0, 0, 0), 0.4, profile(0.4), Finish((0.9, 0.1, 0.1)))
    inside = loft((0, 0.1, 0), 0.4, profile(0.35), Finish((0.1, 0.1, 0.9)), cut=True)
    shots = shoot(
        Product("cup", (cup, inside), bounds=np.full(3, 0.5)),
        OrbitCamera(40, 0.0, 0, 0),
        [0.0],
        STUDIO,
        SIZE,
        lattice=64,
    )
    red, _, blue = shots.colour[0]
    assert ((red > 2 * blue) & (shots.alpha[0] == 1)).sum() > 100 and (
        (blue > 2 * red) & (shots.alpha[0] == 1)
    ).sum() > 100


def test_distances_never_step_through_a_surface():
    """A marching step of the returned distance never crosses a surface: between random points, it is no overestimate."""
    rng = np.random.default_rng(0)
    tapered = loft(
        (0.05, 0, 0), 0.5, profile(np.linspace(0.4, 0.05, SAMPLES)), Finish((1, 1, 1)), rotation=turn_about(0, 0.4)
    )
    solids = Solids(Product("cone", (tapered,), bounds=np.full(3, 0.8)), "cpu")
    points = torch.tensor(rng.uniform(-0.8, 0.8, (4000, 3)), dtype=torch.float32)
    other = torch.tensor(rng.uniform(-0.8, 0.8, (4000, 3)), dtype=torch.float32)
    here, there = solids.distance(points), solids.distance(other)
    crossing = (here > 0) & (there < 0)
    apart = (points - other).norm(dim=1)[crossing]
    assert crossing.sum() > 50 and (0.8 * here[crossing] <= apart + 1e-4).all()


def test_a_lattice_agrees_with_the_solids():
    solids = Solids(case(), "cpu")
    points = (torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * solids.bounds
    assert (Lattice(solids, 96).at(points) - solids.distance(points)).abs().max() < 0.02


def test_a_print_keeps_its_colours_and_is_read_from_left_to_right():
    paper = np.zeros((40, 80, 3), np.uint8)
    paper[:, 30:40], paper[:, 40:50] = (
        (255, 0, 0),
        (0, 0, 255),
    )  # red left of blue, in the middle of the wrap: the front
    skin = Finish((0, 1, 0), print=0, gloss=0.0)
    can = Product("can", (loft((0, 0, 0), 0.4, profile(0.4), skin),), prints=(paper,), bounds=np.full(3, 0.42))
    shots = shoot(can, OrbitCamera(0, 0, 0, 0), [0.0], STUDIO, SIZE, lattice=64)
    red, _, blue = shots.colour[0][:, SIZE // 2]
    at = torch.arange(SIZE).float()
    assert (red * at).sum() / red.sum() < (blue * at).sum() / blue.sum()
    assert math.isclose(float((red * at).sum() / red.sum() + (blue * at).sum() / blue.sum()), SIZE - 1, abs_tol=4)
