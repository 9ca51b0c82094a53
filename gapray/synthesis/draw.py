"""Frames of a scene, drawn by the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapray.geometry.carve import NOTHING
from gapray.orbit.morph import MorphFrame, render
from gapray.orbit.scene import Scene
from gapray.synthesis.inputs import frames_of, photos_of
from gapray.synthesis.network import Synthesis

WEIGHTS = Path(__file__).parent / "weights.safetensors"
"""Ours, trained on our own renders alone (docs/synthesis.md); Apache-2.0."""
AT_ONCE = 4
"""Frames in one pass on a CPU."""
AT_ONCE_CUDA = 24
"""…and on a GPU."""


@dataclass(frozen=True)
class SynthesizedFrame:
    """One frame, S x S pixels."""

    azimuth_deg: float
    colour: Tensor
    """[3, S, S], 0 … 1."""
    alpha: Tensor
    """[S, S], 0 … 1."""
    nearness: Tensor
    """[S, S], the surface [half frames], `NOTHING` beside the product: what ControlNet's depth is made from."""
    morph: MorphFrame
    """The view morph of the same frame."""


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
    network: Synthesis, scene: Scene, azimuths_deg: Sequence[float], *, without: int | None = None
) -> list[SynthesizedFrame]:
    """Draw frames.

    Args:
        network: On the scene's device.
        scene: From `gapray.orbit.reconstruct.build_scene`; its size divisible by 32.
        azimuths_deg: Any angles.
        without: Leave this view out.
    """
    photos = photos_of(scene)
    at_once = AT_ONCE_CUDA if scene.colour.is_cuda else AT_ONCE
    found: list[SynthesizedFrame] = []
    for begin in range(0, len(azimuths_deg), at_once):
        part = azimuths_deg[begin : begin + at_once]
        morphs = [render(scene, azimuth, without=without, flow=True) for azimuth in part]
        frames = frames_of(scene, part, morphs, without=without)
        drawn = network(frames, photos.chosen(frames.views))
        nearness = torch.where(drawn.alpha > 0.5 / 255, drawn.nearness, NOTHING)
        found += [
            SynthesizedFrame(azimuth, drawn.colour[index], drawn.alpha[index, 0], nearness[index, 0], morphs[index])
            for index, azimuth in enumerate(part)
        ]
    return found
