"""The network on a real scene of a drawn solid, on the CPU."""

import dataclasses

import pytest
import torch

from gapray.geometry.camera import OrbitCamera
from gapray.geometry.carve import NOTHING
from gapray.models.cards import card_named
from gapray.models.store import locate
from gapray.orbit.morph import render
from gapray.orbit.reconstruct import build_scene
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.synthesis.draw import CARD, WEIGHTS, draw, load_network, save_network, shipped_network
from gapray.orbit.synthesis.inputs import NEAREST, frames_of, photos_of
from gapray.orbit.synthesis.network import SHARPNESS, Synthesis
from gapray.orbit.without_shape import by_flow
from tests.geometry import scenes

MAX_BYTES = 12e6
SETTINGS = OrbitSettings(size=64, voxels=32, framing="photo", engine="synthesis", refine_camera=False)


@pytest.fixture
def scene(letter_scene):
    return letter_scene


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Synthesis().eval()


def test_frames_have_the_scene_s_size_and_range(scene, network):
    [frame, other] = draw(network, scene, [10.0, 200.0])
    assert frame.colour.shape == (3, 64, 64) and not torch.equal(frame.colour, other.colour)
    assert frame.alpha.shape == frame.view_z.shape == frame.visibility.shape == (64, 64)
    assert float(frame.colour.min()) >= 0 and float(frame.colour.max()) <= 1
    assert float(frame.alpha.min()) >= 0 and float(frame.alpha.max()) <= 1
    shown = frame.alpha > 0.5 / 255
    assert (frame.view_z[~shown] == NOTHING).all() and (frame.view_z[shown].abs() < 1.5).all()


def test_an_untrained_network_s_outline_is_the_hull_s(scene, network):
    [frame] = draw(network, scene, [22.5])
    morph = render(scene, 22.5, flow=True)
    sure = (morph.alpha - 0.5).abs() > 0.4
    assert torch.equal(frame.alpha[sure] > 0.5, morph.alpha[sure] > 0.5)


def test_an_untrained_network_prefers_the_morph(scene, network):
    frames = frames_of(scene, [22.5])
    with torch.no_grad():
        weights = network(frames, photos_of(scene).chosen(frames.views)).weights
    assert torch.allclose(weights.sum(1), torch.ones(1, 64, 64), atol=1e-5)
    assert (weights.argmax(1) == NEAREST).all() and SHARPNESS > 1


def test_colour_and_outline_can_be_the_flow_s(scene):
    """The last layer's biases select the candidate: here the photos moved by optical flow, within their own outline."""
    network = Synthesis().eval()
    with torch.no_grad():
        network.head.bias[4 * (NEAREST + 1) : 4 * (NEAREST + 2)] = 9.0
        network.head.bias[4 * (NEAREST + 4) : 4 * (NEAREST + 5)] = 9.0
    [frame] = draw(network, scene, [22.5])
    flow = by_flow(scene, 22.5)
    inside = flow.alpha > 0.9
    assert torch.allclose(frame.alpha, flow.alpha, atol=5e-3)
    assert torch.allclose(frame.colour[:, inside], flow.colour[:, inside], atol=5e-3)


def test_the_same_frame_alone_or_among_others_is_the_same(scene, network):
    [alone] = draw(network, scene, [100.0])
    among = draw(network, scene, [20.0, 100.0, 300.0])[1]
    assert torch.allclose(alone.colour, among.colour, atol=1e-4)


def test_a_view_left_out_is_not_read(scene, network):
    spoilt = dataclasses.replace(scene, colour=scene.colour.clone(), photos=scene.photos.clone())
    spoilt.colour[2] = 0
    spoilt.photos[2] = 0
    [before], [after] = (draw(network, changed, [85.0], without=2) for changed in (scene, spoilt))
    assert torch.equal(before.colour, after.colour)
    assert not torch.equal(draw(network, scene, [85.0])[0].colour, draw(network, spoilt, [85.0])[0].colour)


def test_weights_are_small_and_survive_a_round_trip(tmp_path, scene, network):
    file = tmp_path / "synthesis.safetensors"
    save_network(dict(network.named_parameters()), file)
    assert file.stat().st_size < MAX_BYTES
    [before], [after] = (draw(loaded, scene, [33.0]) for loaded in (network, load_network(file)))
    assert torch.allclose(before.colour, after.colour, atol=2e-2)


def test_every_weight_gets_a_gradient(scene, network):
    learner = Synthesis()
    torch.nn.init.normal_(learner.head.weight, std=0.01)
    torch.nn.init.normal_(learner.refine[-1].weight, std=0.01)
    torch.nn.init.normal_(learner.search.step.weight, std=0.01)
    frames = frames_of(scene, [22.5])
    drawn = learner(frames, photos_of(scene).chosen(frames.views))
    (drawn.colour.sum() + drawn.alpha.sum() + sum(surface.sum() for surface in drawn.surfaces)).backward()
    unused = [name for name, value in learner.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert not unused


def test_the_shipped_weights_draw_a_scene(scene):
    assert WEIGHTS.stat().st_size < MAX_BYTES
    network = load_network()
    truth, _, painted = scenes.look(scenes.letter, OrbitCamera(18, 0.2, 0.0, 0.0), 22.5, size=64)
    [frame] = draw(network, scene, [22.5])
    drawn = frame.alpha.numpy() > 0.5
    assert (drawn & (truth > 0)).sum() / (drawn | (truth > 0)).sum() > 0.9
    wanted = torch.tensor(painted).permute(2, 0, 1) / 255
    composited = frame.colour * frame.alpha + 1 - frame.alpha
    assert float((composited - wanted).abs().mean()) < 0.05


def test_the_shipped_weights_match_their_card():
    card = card_named(CARD)
    assert locate(card, rehash=True).revision and card.licence == "Apache-2.0"
    first, second = shipped_network("cpu"), load_network()
    assert shipped_network("cpu") is first
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(("size", "side"), [(72, 128), (96, 64)])
def test_frames_of_any_size_are_drawn(network, monkeypatch, size, side):
    monkeypatch.setattr("gapray.orbit.synthesis.draw.SIDE", side)
    masks, _, photos = scenes.shoot(scenes.letter, OrbitCamera(18, 0.2, 0.0, 0.0), size=size)
    settings = SETTINGS.model_copy(update={"size": size})
    found, _ = build_scene(list(photos), list(masks), scenes.EIGHT, settings)
    [frame] = draw(network, found, [22.5])
    assert frame.colour.shape == (3, size, size) and frame.alpha.shape == (size, size)


def test_an_enlarged_plan_draws_nearly_the_same_frame(monkeypatch):
    """A plan made at half the frame's size draws much the same frame."""
    masks, _, photos = scenes.shoot(scenes.letter, OrbitCamera(18, 0.2, 0.0, 0.0), size=192)
    settings = SETTINGS.model_copy(update={"size": 192, "voxels": 64})
    found, _ = build_scene(list(photos), list(masks), scenes.EIGHT, settings)
    network = load_network()
    drawn = []
    for side in (192, 96):
        monkeypatch.setattr("gapray.orbit.synthesis.draw.SIDE", side)
        drawn += draw(network, found, [22.5])
    whole, planned = (frame.colour * frame.alpha + 1 - frame.alpha for frame in drawn)
    assert float((whole - planned).abs().mean()) < 0.015
    assert float((drawn[0].alpha - drawn[1].alpha).abs().mean()) < 0.015
    assert not torch.equal(whole, planned)
