"""From seed to weights at 64 px on the CPU: examples, store, losses, state, a whole run."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from gapray.geometry.carve import NOTHING
from gapray.orbit.synthesis.draw import load_network
from gapray.orbit.synthesis.network import Synthesis
from training.checkpoint import PART_BYTES, Position, load_state, save_state
from training.evaluate import as_text, means
from training.examples import MAX_VIEWS, Recipe, examples
from training.losses import WEIGHTS, Plain, losses, weighed
from training.pool import Pool
from training.sets import Photo, Subject, load_sets, pack
from training.store import Store, mirrored, varied
from training.train import main

TINY = Recipe(size=64, skins=2, targets=2, voxels=32, lattice=48)
SEED = 3
MAX_STATE_BYTES = 55 * 2**20


@pytest.fixture(scope="module")
def made():
    return examples(SEED, TINY)


@pytest.fixture
def store(made):
    found = Store(4, TINY, "cpu")
    for example in made:
        found.add(example)
    return found


def test_an_example_holds_photos_and_truth_that_belong_together(made):
    assert len(made) == TINY.skins
    for example in made:
        assert example.photos.shape == (MAX_VIEWS, 4, 64, 64) and example.frames.shape == (2, 10, 64, 64)
        hull, flow, truth = example.frames[:, 8] >= 128, example.frames[:, 7] >= 128, example.frames[:, 9] >= 128
        assert ((hull & truth).sum((1, 2)) / (hull | truth).sum((1, 2))).min() > 0.8
        assert ((flow & truth).sum((1, 2)) / (flow | truth).sum((1, 2))).min() > 0.6
        shown = example.view_z[:, 1] > NOTHING / 2
        assert (
            np.abs(example.view_z[:, 1] - example.view_z[:, 0])[shown & (example.view_z[:, 0] > NOTHING / 2)].mean()
            < 0.15
        )
        # At a steep outline, resampling overshoots in colour and in alpha by different amounts.
        assert (example.truth.astype(int) <= example.frames[:, 9:].astype(int) + 24).all()


def test_skins_share_a_shape_but_not_an_appearance(made):
    first, second = made
    assert np.array_equal(first.photos[:, 3], second.photos[:, 3]) and np.array_equal(first.fronts, second.fronts)
    assert np.abs(first.photos[:, :3].astype(int) - second.photos[:, :3]).mean() > 5


def test_the_same_seed_gives_the_same_examples(made):
    [again] = examples(SEED, dataclasses.replace(TINY, skins=1))
    for field in dataclasses.fields(again):
        a, b = getattr(made[0], field.name), getattr(again, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name


def test_a_store_returns_its_examples_and_evicts_the_oldest(made):
    store = Store(1, TINY, "cpu")
    store.add(made[0])
    store.add(made[1])
    assert len(store) == 1
    batch = store.at(torch.tensor([1]))
    assert torch.equal(batch.truth[0], torch.from_numpy(made[1].truth[1]) / 255)
    view = made[1].views[1, 2]
    assert torch.equal(batch.photos.colour[0, 2], torch.from_numpy(made[1].photos[view, :3]) / 255)


def test_a_mirrored_example_shows_the_mirrored_frame(store):
    """Everything that depends on geometry is mirrored too: the network must sample the mirrored scene."""
    network = Synthesis().eval()
    batch = store.at(torch.tensor([0]))
    with torch.no_grad():
        there, back = network(batch.frames, batch.photos), mirrored(mirrored(batch))
        other = network(mirrored(batch).frames, mirrored(batch).photos)
    assert torch.equal(back.truth, batch.truth) and torch.allclose(back.frames.turns, batch.frames.turns)
    # Convolutions of an untrained network are not symmetrical, but the places on the hull are; corrections are small at first.
    sides = torch.tensor([-1.0, 1.0])
    inside = batch.frames.alpha[:, 0] > 0.99
    apart = (there.where - other.where.flip(3) * sides).abs().amax(-1).amax(1)[inside]
    assert apart.max() < 1e-4


def test_augmentation_changes_the_colours_of_all_pictures_alike(store):
    batch = store.at(torch.tensor([0, 1]))
    found = varied(batch, torch.Generator().manual_seed(1))
    assert sorted(found.truth.mean((0, 2, 3)).tolist()) == pytest.approx(sorted(batch.truth.mean((0, 2, 3)).tolist()))


def test_losses_vanish_for_the_truth_and_punish_a_worse_one(store):
    batch = store.at(torch.tensor([0, 1]))
    with torch.no_grad():
        drawn = Synthesis()(batch.frames, batch.photos)
    colour = batch.truth / batch.alpha.clamp(min=1e-3)
    perfect = dataclasses.replace(drawn, colour=colour, alpha=batch.alpha)
    background = torch.ones(2, 3, 1, 1)
    best, other = (losses(frames, batch, background, Plain()) for frames in (perfect, drawn))
    assert set(best) == set(WEIGHTS)
    for name in ("colour", "edges", "perceptual", "coarse", "worse", "alpha"):
        assert float(best[name]) < 5e-3 and float(best[name]) <= float(other[name]), name


def test_a_few_steps_on_one_product_lower_the_loss(store):
    torch.manual_seed(0)
    network, batch = Synthesis(), store.at(torch.tensor([0, 1]))
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    background, found = torch.ones(2, 3, 1, 1), []
    for _ in range(24):
        parts = losses(network(batch.frames, batch.photos), batch, background, Plain())
        optimiser.zero_grad()
        weighed(parts).backward()
        optimiser.step()
        found.append(float(weighed(parts).detach()))
    assert min(found[-3:]) < 0.93 * found[0]


def test_the_state_is_small_and_training_resumes_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    network = Synthesis()
    average = {name: value.detach() + 1e-3 * torch.randn_like(value) for name, value in network.named_parameters()}
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    for value in network.parameters():
        value.grad = torch.randn_like(value)
    optimiser.step()
    save_state(tmp_path, network, average, optimiser, Position(7, 99, 1.5))
    files = list(tmp_path.glob("state-*.safetensors"))
    assert sum(file.stat().st_size for file in files) < MAX_STATE_BYTES
    assert all(file.stat().st_size < PART_BYTES + 2**20 for file in files)
    other = Synthesis()
    means_ = {name: torch.zeros_like(value) for name, value in other.named_parameters()}
    again = torch.optim.AdamW(other.parameters(), 1e-3)
    assert load_state(tmp_path, other, means_, again) == Position(7, 99, 1.5)
    for (name, a), b in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4) and torch.allclose(average[name], means_[name], atol=2e-3)
        assert torch.allclose(optimiser.state[a]["exp_avg"], again.state[b]["exp_avg"], rtol=1e-2, atol=1e-6)


def test_a_missing_state_is_an_error(tmp_path):
    network = Synthesis()
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path, network, {}, torch.optim.AdamW(network.parameters()))


def test_a_pool_of_processes_makes_what_one_process_makes(made):
    with Pool([(SEED, TINY)], 1) as pool:
        found = []
        while not pool.exhausted:
            found += pool.ready(patience=60)
    assert [example.name for example in found] == [example.name for example in made]
    assert np.array_equal(found[0].photos, made[0].photos) and np.array_equal(found[1].truth, made[1].truth)


def test_sets_survive_packing(tmp_path):
    rng = np.random.default_rng(0)
    photos = tuple(
        Photo(45.0 * k, np.full((40, 60, 3), 40 * k, np.uint8), (rng.random((40, 60)) > 0.5).astype(np.uint8) * 255)
        for k in range(4)
    )
    pack(iter([Subject("cup", "scans", photos[:3], photos[3:])]), tmp_path / "sets.zip")
    [found] = load_sets(tmp_path / "sets.zip")
    assert (found.name, found.group, len(found.given), len(found.hidden)) == ("cup", "scans", 3, 1)
    for a, b in zip((*found.given, *found.hidden), photos, strict=True):
        assert a.azimuth_deg == b.azimuth_deg and np.array_equal(a.mask, b.mask)
        assert np.abs(a.image.astype(int) - b.image).max() <= 3


def test_a_table_names_where_the_network_loses():
    table = {"morph": {"cup": [0.03, 30, 0.99]}, "network": {"cup": [0.05, 31, 0.98]}}
    assert means(table)["network"] == [0.05, 31, 0.98]
    assert "cup" in as_text({"scans": table}).splitlines()[-1]


@pytest.mark.timeout(900)
def test_a_run_trains_stops_reports_and_is_resumed(tmp_path):
    small = [
        "--size",
        "64",
        "--skins",
        "1",
        "--targets",
        "2",
        "--voxels",
        "32",
        "--workers",
        "0",
        "--first",
        "1",
        "--held-out",
        "1",
        "--batch",
        "2",
        "--capacity",
        "8",
    ]
    log = tmp_path / "runs.jsonl"
    main(["--out", str(tmp_path / "a"), "--steps", "2", "--log", str(log), "--note", "first", *small])
    main(["--out", str(tmp_path / "b"), "--resume", str(tmp_path / "a"), "--steps", "3", "--log", str(log), *small])
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["steps"], second["steps"], second["steps_now"]) == (2, 5, 3) and first["note"] == "first"
    assert second["minutes_in_all"] >= first["minutes_in_all"] and second["made"] > 0
    load_network(tmp_path / "b" / "synthesis.safetensors")
    assert (tmp_path / "b" / "sheet.jpg").stat().st_size > 0
