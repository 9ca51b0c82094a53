"""The state of a training run in a few small files: weights, their averages, a small optimiser, and the next seed.

Averaged weights are float16; the weights themselves are stored as bfloat16 differences from those, exact to a 256th of the
difference; Adam's moments are bfloat16. That is eight bytes for each weight, with rounding far below the noise of training.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

PART_BYTES = 15 * 2**20
"""Maximum size of one file."""


@dataclass
class Position:
    """Progress of a training run."""

    step: int = 0
    next_seed: int = 0
    """Seed of the next product; earlier ones have been used."""
    minutes: float = 0.0
    """Training time over all runs."""


def save_state(
    folder: Path, network: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer, position: Position
) -> None:
    """Write ``state-N.safetensors``, with N from 0."""
    tensors: dict[str, Tensor] = {}
    for name, value in network.named_parameters():
        mean = average[name].half()
        tensors[f"average.{name}"] = mean
        tensors[f"difference.{name}"] = (value.detach() - mean.float()).bfloat16()
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimiser.state[value]:
                tensors[f"{moment}.{name}"] = optimiser.state[value][moment].bfloat16()
    parts: list[dict[str, Tensor]] = [{}]
    room = PART_BYTES
    for name, tensor in tensors.items():
        if tensor.nbytes > room:
            parts.append({})
            room = PART_BYTES
        parts[-1][name] = tensor.cpu().contiguous()
        room -= tensor.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("state-*.safetensors"):
        stale.unlink()
    for index, part in enumerate(parts):
        save_file(part, folder / f"state-{index}.safetensors", {"position": json.dumps(asdict(position))})


def load_state(
    folder: Path, network: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> Position:
    """Read what `save_state` wrote, into the network, the averages and the optimiser.

    Raises:
        FileNotFoundError: There is no state.
        KeyError: It belongs to another network.
    """
    files = sorted(folder.glob("state-*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no state-*.safetensors in {folder}")
    tensors: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            position = Position(**json.loads(file.metadata()["position"]))
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    with torch.no_grad():
        for name, value in network.named_parameters():
            average[name].copy_(tensors[f"average.{name}"])
            value.copy_(tensors[f"average.{name}"].float() + tensors[f"difference.{name}"].float())
            if f"exp_avg.{name}" in tensors:
                optimiser.state[value] = {
                    "step": torch.tensor(float(position.step)),
                    "exp_avg": tensors[f"exp_avg.{name}"].to(value),
                    "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(value),
                }
    return position
