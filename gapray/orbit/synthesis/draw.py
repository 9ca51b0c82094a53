"""Frames of a scene, drawn by the network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapray.geometry.carve import NOTHING
from gapray.models.cards import card_named
from gapray.models.store import locate
from gapray.orbit.scene import OrbitFrame, Scene
from gapray.orbit.synthesis.inputs import NEAREST, frames_of, photos_of
from gapray.orbit.synthesis.network import Synthesis, drawn_at

CARD = "gapray-synthesis"
"""Card of the weights that come with gapray: ours, trained on our own renders alone (docs/synthesis.md)."""
WEIGHTS = Path(__file__).parent / "weights.safetensors"
"""Where they lie."""
SIDE = 256
"""The network decides at the size at which it was trained, whatever the frames' own [pixels]: at 128 it blurs outlines."""
AT_ONCE = 2
"""Frames in one pass on a CPU."""
AT_ONCE_CUDA = 24
"""…and on a GPU."""


@cache
def shipped_network(device: str) -> Synthesis:
    """The network with the weights of `CARD`, loaded once a process and device.

    Raises:
        ModelError: `model.hash_mismatch` when the installed file is not the card's.
    """
    [path] = locate(card_named(CARD)).files.values()
    return load_network(path, device)


def load_network(path: Path = WEIGHTS, device: str = "cpu") -> Synthesis:
    """The network with weights of a safetensors file, for inference in float32.

    Args:
        path: Default: the weights that come with gapray.
        device: ``cpu`` or ``cuda``.

    Raises:
        RuntimeError: The file is not this network's.
    """
    network = Synthesis()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return network.to(device).eval().requires_grad_(False)


def save_network(state: dict[str, Tensor], path: Path) -> None:
    """Write weights as float16."""
    save_file({name: tensor.detach().half().cpu().contiguous() for name, tensor in state.items()}, path)


@torch.no_grad()
def draw(
    network: Synthesis,
    scene: Scene,
    azimuths_deg: Sequence[float],
    *,
    without: int | None = None,
    flow: bool = True,
) -> list[OrbitFrame]:
    """Draw frames.

    Args:
        network: On the scene's device.
        scene: From `gapray.orbit.reconstruct.build_scene`.
        azimuths_deg: Any angles.
        without: Leave this view out.
        flow: Whether the view morph, which is one of the network's candidates, aligns its photos by optical flow.
    """
    photos = photos_of(scene)
    seen = photos if scene.size == SIDE else photos.resized(SIDE)
    at_once = AT_ONCE_CUDA if scene.colour.is_cuda else AT_ONCE
    found: list[OrbitFrame] = []
    for begin in range(0, len(azimuths_deg), at_once):
        part = azimuths_deg[begin : begin + at_once]
        frames = frames_of(scene, part, without=without, morph_by_flow=flow)
        chosen = photos.chosen(frames.views)
        if scene.size == SIDE:
            drawn = network(frames, chosen)
        else:
            drawn = drawn_at(frames, chosen, network.plan(frames.resized(SIDE), seen.chosen(frames.views)))
        alpha = drawn.alpha[:, 0]
        nearness = torch.where(alpha > 0.5 / 255, drawn.nearness[:, 0], NOTHING)
        saw = torch.cat([drawn.seen, frames.visibility, frames.flow_alpha], 1)
        visibility = (saw * drawn.weights[:, : NEAREST + 2]).sum(1).clamp(0, 1)
        found += map(OrbitFrame, drawn.colour, alpha, nearness, visibility)
    return found
