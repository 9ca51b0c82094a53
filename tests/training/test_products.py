"""Shapes and prints: every kind can be made, stays in its box, and comes again from its seed."""

import numpy as np
import pytest
import torch

from training.prints import font_files, paint, picture, surface
from training.products import KINDS, product
from training.render import Solids


def made(seed, kind, skin=0):
    return product(np.random.default_rng(seed), np.random.default_rng(skin), print_px=40, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stays_in_its_box_and_is_solid(kind):
    for seed in range(4):
        thing = made(seed, kind)
        solids = Solids(thing, "cpu")
        half = solids.bounds
        assert 0.3 < float(half.max()) < 1.1
        generator = torch.Generator().manual_seed(0)
        inside = (torch.rand(4000, 3, generator=generator) * 2 - 1) * half
        assert (solids.distance(inside) < 0).float().mean() > 0.004
        shell = inside / (inside / half).abs().amax(1, keepdim=True)
        assert (solids.distance(shell) > 0).float().mean() > 0.985


@pytest.mark.parametrize("kind", ["bottle", "shoe", "basket"])
def test_a_seed_gives_the_same_shape_and_paint_does_not_change_it(kind):
    first, again, painted, other = made(1, kind), made(1, kind), made(1, kind, skin=5), made(2, kind)
    for a, b in zip(first.lofts, again.lofts, strict=True):
        assert np.array_equal(a.profile, b.profile) and a.finish == b.finish
    assert all(np.array_equal(a, b) for a, b in zip(first.prints, again.prints, strict=True))
    for a, b in zip(first.lofts, painted.lofts, strict=True):
        assert np.array_equal(a.profile, b.profile) and np.array_equal(a.centre, b.centre)
    assert [solid.finish.colour for solid in first.lofts] != [solid.finish.colour for solid in painted.lofts]
    assert not np.array_equal(first.bounds, other.bounds)


@pytest.mark.parametrize("kind", ["label", "pattern", "picture"])
def test_prints_have_the_requested_size_and_are_reproducible(kind):
    for width, height, panels in ((200, 80, 1), (320, 64, 4), (16, 16, 1)):
        first, again = (paint(np.random.default_rng(3), width, height, panels=panels, kind=kind) for _ in range(2))
        assert first.shape == (height, width, 3) and first.dtype == np.uint8 and np.array_equal(first, again)


def test_labels_are_not_plain_and_differ():
    labels = [paint(np.random.default_rng(seed), 200, 120, kind="label") for seed in range(12)]
    assert sum(label.std() > 10 for label in labels) >= 10
    assert len({label.tobytes() for label in labels}) == 12


def test_pictures_and_materials_have_detail():
    for maker in (picture, surface):
        assert np.mean([maker(np.random.default_rng(seed), 96, 64).std() for seed in range(10)]) > 8


def test_every_font_is_a_file():
    assert list(font_files()) == sorted(font_files(), key=lambda path: path.rsplit("/", 1)[-1])
