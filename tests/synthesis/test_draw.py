"""The network on a real scene of a drawn solid, on the CPU."""

import dataclasses

import pytest
import torch

from gapray.config import OrbitSettings
from gapray.geometry.camera import OrbitCamera
from gapray.geometry.carve import NOTHING
from gapray.orbit.morph import render
from gapray.orbit.reconstruct import build_scene
from gapray.synthesis.draw import WEIGHTS, draw, load_network, save_network
from gapray.synthesis.inputs import NEAREST, frames_of, photos_of
from gapray.synthesis.network import SHARPNESS, Synthesis
from tests.geometry import scenes

MOST_BYTES = 12e6


@pytest.fixture(scope="module")
def scene():
    masks, _, photos = scenes.shoot(scenes.letter, OrbitCamera(18, 0.2, 0.0, 0.0), size=64)
    found, _ = build_scene(list(photos), list(masks), scenes.EIGHT, OrbitSettings(size=64, voxels=32, framing="photo"))
    return found


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Synthesis().eval()


def test_frames_have_the_scene_s_size_and_range(scene, network):
    [frame, other] = draw(network, scene, [10.0, 200.0])
    assert frame.azimuth_deg == 10.0 and other.azimuth_deg == 200.0
    assert frame.colour.shape == (3, 64, 64) and frame.alpha.shape == frame.nearness.shape == (64, 64)
    assert float(frame.colour.min()) >= 0 and float(frame.colour.max()) <= 1
    assert float(frame.alpha.min()) >= 0 and float(frame.alpha.max()) <= 1
    shown = frame.alpha > 0.5 / 255
    assert (frame.nearness[~shown] == NOTHING).all() and (frame.nearness[shown].abs() < 1.5).all()


def test_an_untrained_network_s_outline_is_the_hull_s(scene, network):
    [frame] = draw(network, scene, [22.5])
    sure = (frame.morph.alpha - 0.5).abs() > 0.4
    assert torch.equal(frame.alpha[sure] > 0.5, frame.morph.alpha[sure] > 0.5)


def test_an_untrained_network_prefers_the_morph(scene, network):
    morphs = [render(scene, 22.5, flow=True)]
    frames = frames_of(scene, [22.5], morphs)
    with torch.no_grad():
        weights = network(frames, photos_of(scene).chosen(frames.views)).weights
    assert torch.allclose(weights.sum(1), torch.ones(1, 64, 64), atol=1e-5)
    assert (weights.argmax(1) == NEAREST).all() and SHARPNESS > 1


def test_the_same_frame_alone_or_among_others_is_the_same(scene, network):
    [alone] = draw(network, scene, [100.0])
    among = draw(network, scene, [20.0, 100.0, 300.0])[1]
    assert torch.allclose(alone.colour, among.colour, atol=1e-4)


def test_a_view_left_out_is_not_read(scene, network):
    spoilt = dataclasses.replace(scene, colour=scene.colour.clone(), photos=scene.photos.clone())
    spoilt.colour[2] = 0
    spoilt.photos[2] = 0
    [before], [after] = (draw(network, one, [85.0], without=2) for one in (scene, spoilt))
    assert torch.equal(before.colour, after.colour)
    assert not torch.equal(draw(network, scene, [85.0])[0].colour, draw(network, spoilt, [85.0])[0].colour)


def test_weights_are_small_and_come_back(tmp_path, scene, network):
    file = tmp_path / "synthesis.safetensors"
    save_network(dict(network.named_parameters()), file)
    assert file.stat().st_size < MOST_BYTES
    [before], [after] = (draw(one, scene, [33.0]) for one in (network, load_network(file)))
    assert torch.allclose(before.colour, after.colour, atol=2e-2)


def test_every_weight_is_learned(scene, network):
    learner = Synthesis()
    torch.nn.init.normal_(learner.head.weight, std=0.01)
    torch.nn.init.normal_(learner.search.step.weight, std=0.01)
    frames = frames_of(scene, [22.5], [render(scene, 22.5, flow=True)])
    drawn = learner(frames, photos_of(scene).chosen(frames.views))
    (drawn.colour.sum() + drawn.alpha.sum() + sum(one.sum() for one in drawn.surfaces)).backward()
    still = [name for name, value in learner.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert not still


def test_the_weights_that_come_with_gapray_draw_a_scene(scene):
    assert WEIGHTS.stat().st_size < MOST_BYTES
    network = load_network()
    truth, _, painted = scenes.look(scenes.letter, OrbitCamera(18, 0.2, 0.0, 0.0), 22.5, size=64)
    [frame] = draw(network, scene, [22.5])
    drawn = frame.alpha.numpy() > 0.5
    assert (drawn & (truth > 0)).sum() / (drawn | (truth > 0)).sum() > 0.9
    wanted = torch.tensor(painted).permute(2, 0, 1) / 255
    laid = frame.colour * frame.alpha + 1 - frame.alpha
    assert float((laid - wanted).abs().mean()) < 0.05
