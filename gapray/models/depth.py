"""Depth models: capture sets with masks in, nearness out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gapray.geometry.hull import hull_view_z
from gapray.models.batches import equal_shapes


@dataclass(frozen=True)
class MaskedSet:
    """The views of one capture set as networks see them."""

    rgba: Sequence[NDArray[np.uint8]]
    """[h, w, 4] a view: the photo and its mask, both sides multiples of 14."""
    azimuths_deg: Sequence[float]


class DepthModel(Protocol):
    """Estimates how near each pixel is."""

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """Nearness of each pixel.

        Args:
            sets: Whole capture sets; a network may mix their views in its batches.

        Returns:
            A list a set, float32 [h, w] a view: larger is nearer, in the model's own unit, finite.
        """
        ...


class HullDepth:
    """Depth from the silhouettes (`gapray.geometry.hull`): no weights, no GPU.

    Args:
        elevation_deg: The camera's elevation, degrees.
    """

    def __init__(self, elevation_deg: float) -> None:
        self._elevation_deg = elevation_deg

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """See `DepthModel.predict`."""
        return [
            hull_view_z([view[..., 3] >= 128 for view in one.rgba], one.azimuths_deg, self._elevation_deg)
            for one in sets
        ]


class DepthAnything:
    """Depth-Anything-V2 through transformers, half precision on a GPU.

    Its output is affine-invariant inverse depth (Yang et al. 2024, "Depth Anything V2", section 4).

    Args:
        config: The model's `config.json`.
        weights: The model's `model.safetensors`.
        device: ``cpu`` or ``cuda``.
        batch: Views in one forward pass.
    """

    def __init__(self, config: Path, weights: Path, *, device: str, batch: int) -> None:
        import torch
        from transformers import AutoModelForDepthEstimation

        self._torch = torch
        self._dtype = torch.float16 if device == "cuda" else torch.float32
        self._device, self._batch = device, batch
        with tempfile.TemporaryDirectory() as folder:
            # transformers renames the keys of older checkpoints only when it reads a folder, and a mirror need not hold
            # the two files in one.
            (Path(folder) / "config.json").symlink_to(config.absolute())
            (Path(folder) / "model.safetensors").symlink_to(weights.absolute())
            model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True)
        self._model = model.to(device, self._dtype).eval()
        # transformers' DPTImageProcessor for this model: x / 255, then ImageNet's mean and deviation.
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(shape)
        self._std = torch.tensor([0.229, 0.224, 0.225], device=device).view(shape)

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """See `DepthModel.predict`."""
        flat = [view for one in sets for view in one.rgba]
        nearness: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(flat)
        for chosen in equal_shapes(flat, self._batch):
            for index, one_map in zip(chosen, self._forward([flat[i] for i in chosen]), strict=True):
                nearness[index] = one_map
        split = iter(nearness)
        return [[next(split) for _ in one.rgba] for one in sets]

    def _forward(self, views: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        torch = self._torch
        stacked = torch.from_numpy(np.stack(views))
        with torch.inference_mode():
            rgb = stacked.to(self._device, non_blocking=True)[..., :3].permute(0, 3, 1, 2).float() / 255
            out = self._model(pixel_values=((rgb - self._mean) / self._std).to(self._dtype)).predicted_depth
            result: NDArray[np.float32] = out.float().cpu().numpy()
        return result


class NullDepth:
    """A flat depth map: measures what everything but the network costs."""

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """See `DepthModel.predict`."""
        return [[np.zeros(view.shape[:2], np.float32) for view in one.rgba] for one in sets]
