"""Examples on the training device: a ring buffer of products, from which batches are drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gapray.orbit.synthesis.inputs import NEAREST, Frames, Photos
from training.examples import MAX_VIEWS, Example, Recipe


@dataclass(frozen=True)
class Batch:
    """B frames, their photos, and what the frames should look like."""

    frames: Frames
    photos: Photos
    truth: Tensor
    """[B, 3, S, S], multiplied by its alpha."""
    alpha: Tensor
    """[B, 1, S, S]."""
    view_z: Tensor
    """[B, 1, S, S]: true view z [half frames], `NOTHING` beside the product."""


class Store:
    """A buffer of a fixed number of products, in which new ones replace the oldest.

    Args:
        capacity: Number of products.
        recipe: Recipe of the examples.
        device: Device of the buffer.
    """

    def __init__(self, capacity: int, recipe: Recipe, device: str) -> None:
        size, targets = recipe.size, recipe.targets
        self.capacity, self.targets, self.device, self.added = capacity, targets, device, 0
        self.names = [""] * capacity

        def room(*shape: int, kind: torch.dtype) -> Tensor:
            return torch.empty(capacity, *shape, dtype=kind, device=device)

        self._arrays = {
            "photos": room(MAX_VIEWS, 4, size, size, kind=torch.uint8),
            "fronts": room(MAX_VIEWS, size, size, kind=torch.float16),
            "frames": room(targets, 10, size, size, kind=torch.uint8),
            "view_z": room(targets, 2, size, size, kind=torch.float16),
            "truth": room(targets, 3, size, size, kind=torch.uint8),
            "views": room(targets, NEAREST, kind=torch.int64),
            "angles_deg": room(targets, NEAREST, kind=torch.float32),
            "turns": room(targets, NEAREST, 3, 3, kind=torch.float32),
            "camera": room(targets, 3, kind=torch.float32),
        }

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, example: Example) -> None:
        """Copy one product to the device."""
        place = self.added % self.capacity
        for name, array in self._arrays.items():
            array[place] = torch.from_numpy(getattr(example, name)).to(self.device, non_blocking=True)
        self.names[place] = f"{example.kind} {example.name}"
        self.added += 1

    def drawn(self, count: int, generator: torch.Generator) -> Batch:
        """Random frames as a batch."""
        return self.at(torch.randint(0, len(self) * self.targets, (count,), generator=generator))

    def at(self, indices: Tensor) -> Batch:
        """Frames by index [B], 0 … products x targets - 1."""
        indices = indices.to(self.device)
        product, target = indices // self.targets, indices % self.targets
        arrays = self._arrays
        views = arrays["views"][product, target]
        shown = arrays["photos"][product[:, None], views].float() / 255
        planes = arrays["frames"][product, target].float() / 255
        view_z = arrays["view_z"][product, target].float()
        frames = Frames(
            morph=planes[:, :3],
            visibility=planes[:, 3:4],
            flow=planes[:, 4:7],
            flow_alpha=planes[:, 7:8],
            alpha=planes[:, 8:9],
            view_z=view_z[:, :1],
            views=views,
            angles_deg=arrays["angles_deg"][product, target],
            turns=arrays["turns"][product, target],
            camera=arrays["camera"][product, target],
        )
        photos = Photos(shown[:, :, :3], shown[:, :, 3:], arrays["fronts"][product[:, None], views].float())
        truth = arrays["truth"][product, target].float() / 255
        return Batch(frames, photos, truth, planes[:, 9:], view_z[:, 1:])


def varied(batch: Batch, generator: torch.Generator) -> Batch:
    """The same frames with colour channels permuted, and half of the time mirrored."""
    device = batch.truth.device
    order = torch.randperm(3, generator=generator).to(device)
    frames, photos = batch.frames, batch.photos
    frames = replace(frames, morph=frames.morph[:, order], flow=frames.flow[:, order])
    photos = replace(photos, colour=photos.colour[:, :, order])
    batch = replace(batch, frames=frames, photos=photos, truth=batch.truth[:, order])
    return mirrored(batch) if bool(torch.rand((), generator=generator) < 0.5) else batch


def mirrored(batch: Batch) -> Batch:
    """Exchange left and right, in images and in geometry."""
    frames, photos = batch.frames, batch.photos
    sides = torch.tensor([-1.0, 1.0, 1.0], device=batch.truth.device)
    pictures = ("morph", "visibility", "flow", "flow_alpha", "alpha", "view_z")
    flipped = {name: getattr(frames, name).flip(-1) for name in pictures}
    frames = replace(
        frames,
        **flipped,
        angles_deg=-frames.angles_deg,
        turns=frames.turns * sides[:, None] * sides,
        camera=frames.camera * torch.tensor([1.0, -1.0, 1.0], device=batch.truth.device),
    )
    photos = Photos(photos.colour.flip(-1), photos.alpha.flip(-1), photos.fronts.flip(-1))
    return Batch(frames, photos, batch.truth.flip(-1), batch.alpha.flip(-1), batch.view_z.flip(-1))
