"""Draw frames of a scene with the network."""

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
from gapray.orbit.scene import OrbitFrame, OrbitScene
from gapray.orbit.synthesis.inputs import NEAREST, frames_of, photos_of
from gapray.orbit.synthesis.network import Synthesis, draw_plan

CARD = "gapray-synthesis"
"""Card of the weights that ship with gapray, trained on our own renders alone (docs/synthesis.md)."""
WEIGHTS = Path(__file__).parent / "weights.safetensors"
"""The file with those weights."""
SIDE = 256
"""Size at which the network decides, whatever the frames' size: the size at which it was trained [pixels]. At 128 it blurs
outlines."""
BATCH_CPU = 2
"""Frames in one pass on a CPU."""
BATCH_CUDA = 24
"""Frames in one pass on a GPU."""


@cache
def shipped_network(device: str) -> Synthesis:
    """Return the network with the weights of `CARD`, loaded once for each process and device.

    Raises:
        ModelError: `model.hash_mismatch` when the installed file is not the card's.
    """
    [path] = locate(card_named(CARD)).files.values()
    return load_network(path, device)


def load_network(path: Path = WEIGHTS, device: str = "cpu") -> Synthesis:
    """Load the network with weights from a safetensors file, for inference in float32.

    Args:
        path: Default: the weights that ship with gapray.
        device: ``cpu`` or ``cuda``.

    Raises:
        RuntimeError: The file does not fit this network.
    """
    network = Synthesis()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return network.to(device).eval().requires_grad_(False)


def save_network(state: dict[str, Tensor], path: Path) -> None:
    """Write weights to a safetensors file as float16."""
    save_file({name: tensor.detach().half().cpu().contiguous() for name, tensor in state.items()}, path)


@torch.no_grad()
def draw(
    network: Synthesis,
    scene: OrbitScene,
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
        without: Index of a view that must not be used.
        flow: Whether the view morph, one of the network's candidates, aligns its photos by optical flow.
    """
    photos = photos_of(scene)
    deciding = photos if scene.size == SIDE else photos.resized(SIDE)
    batch = BATCH_CUDA if scene.colour.is_cuda else BATCH_CPU
    drawn: list[OrbitFrame] = []
    for begin in range(0, len(azimuths_deg), batch):
        part = azimuths_deg[begin : begin + batch]
        frames = frames_of(scene, part, without=without, morph_by_flow=flow)
        chosen = photos.chosen(frames.views)
        if scene.size == SIDE:
            rendered = network(frames, chosen)
        else:
            rendered = draw_plan(frames, chosen, network.plan(frames.resized(SIDE), deciding.chosen(frames.views)))
        alpha = rendered.alpha[:, 0]
        view_z = torch.where(alpha > 0.5 / 255, rendered.view_z[:, 0], NOTHING)
        seen = torch.cat([rendered.seen, frames.visibility, frames.flow_alpha], 1)
        visibility = (seen * rendered.weights[:, : NEAREST + 2]).sum(1).clamp(0, 1)
        drawn += map(OrbitFrame, rendered.colour, alpha, view_z, visibility)
    return drawn
