"""Each variant lacks what its name says, and nothing else."""

import itertools
from dataclasses import replace

import pytest
import torch

from gapray.orbit.synthesis.inputs import NEAREST, Frames, Photos
from gapray.orbit.synthesis.network import Synthesis
from training.ablate import IDEAS, WithoutFlow, WithoutMorph, streams, without_moving, without_searching
from training.examples import Recipe, examples
from training.store import Store

TINY = Recipe(size=64, skins=1, targets=2, voxels=32, lattice=32)


@pytest.fixture(scope="module")
def batch():
    store = Store(1, TINY, "cpu")
    for example in examples(0, TINY):
        store.add(example)
    return store.at(torch.tensor([0, 1]))


def trained(network):
    """The network with weights that do something everywhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return network


def test_each_recipe_has_the_same_seeds():
    other = replace(TINY, faults=False)
    jobs = {recipe: list(itertools.islice(stream, 3)) for recipe, stream in streams([TINY, other, TINY]).items()}
    assert jobs == {recipe: [(0, recipe), (1, recipe), (2, recipe)] for recipe in (TINY, other)}


@pytest.mark.parametrize("name", [name for name, variant in IDEAS["data"].items() if variant.recipe])
def test_products_of_the_same_seed_lack_what_the_recipe_says(name):
    [whole], [other] = (examples(1, recipe) for recipe in (TINY, replace(TINY, **dict(IDEAS["data"][name].recipe))))
    assert (whole.photos != other.photos).any()
    assert whole.facts["elevation_deg"] == other.facts["elevation_deg"] and whole.kind == other.kind


@pytest.mark.parametrize(("network", "place"), [(WithoutMorph, NEAREST), (WithoutFlow, NEAREST + 1)])
def test_a_left_out_candidate_gets_no_weight(batch, network, place):
    drawn = trained(network())(batch.frames, batch.photos)
    assert float(drawn.weights[:, place].detach().max()) == 0
    assert float(trained(Synthesis())(batch.frames, batch.photos).weights[:, place].detach().max()) > 0


def test_without_moving_photos_are_read_at_the_hull(batch):
    still, moved = (trained(network)(batch.frames, batch.photos) for network in (without_moving(), Synthesis()))
    hull = Synthesis()(batch.frames, batch.photos)
    assert torch.allclose(still.where, hull.where, atol=1e-6)
    assert not torch.allclose(moved.where, hull.where, atol=1e-3)


def test_without_a_search_other_photos_move_nothing(batch):
    def surfaces(network: Synthesis, frames: Frames, photos: Photos) -> torch.Tensor:
        return network(frames, photos).surfaces[-1]

    others = replace(batch.photos, colour=batch.photos.colour.flip(-1))
    blind, whole = trained(without_searching()), trained(Synthesis())
    assert torch.equal(surfaces(blind, batch.frames, batch.photos), surfaces(blind, batch.frames, others))
    assert not torch.equal(surfaces(whole, batch.frames, batch.photos), surfaces(whole, batch.frames, others))
