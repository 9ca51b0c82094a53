"""Depth models, which estimate relative depth for the views of capture sets."""

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
    """The masked views of one capture set, as input of networks."""

    rgba: Sequence[NDArray[np.uint8]]
    """Photo and mask of each view, uint8 [h, w, 4]; both sides are multiples of 14."""
    azimuths_deg: Sequence[float]
    """Azimuth of each view."""


class DepthModel(Protocol):
    """A model that estimates relative depth."""

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """Estimate the relative depth of each pixel.

        Args:
            sets: Complete capture sets; a network may mix their views in its batches.

        Returns:
            For each set one float32 [h, w] array per view; finite, in the model's own unit, larger = nearer.
        """
        ...


class HullDepth:
    """Depth of the visual hull (`gapray.geometry.hull`), without weights or GPU.

    Args:
        elevation_deg: Elevation of the camera.
    """

    def __init__(self, elevation_deg: float) -> None:
        self._elevation_deg = elevation_deg

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """Depth of the hull's front in each view, float32 [h, w], as `DepthModel.predict` returns it."""
        return [
            hull_view_z([view[..., 3] >= 128 for view in views.rgba], views.azimuths_deg, self._elevation_deg)
            for views in sets
        ]


class DepthAnything:
    """Depth-Anything-V2 through transformers, in half precision on a GPU.

    Its output is affine-invariant inverse depth (Yang et al. 2024, "Depth Anything V2", section 4).

    Args:
        config: The model's `config.json`.
        weights: The model's `model.safetensors`.
        device: ``cpu`` or ``cuda``.
        batch: Maximum number of views per forward pass.
    """

    def __init__(self, config: Path, weights: Path, *, device: str, batch: int) -> None:
        import torch
        from transformers import AutoModelForDepthEstimation

        self._torch = torch
        self._dtype = torch.float16 if device == "cuda" else torch.float32
        self._device, self._batch = device, batch
        with tempfile.TemporaryDirectory() as folder:
            # transformers renames the keys of older checkpoints only when it reads a folder, and the two files of a mirror may be
            # in different ones.
            (Path(folder) / "config.json").symlink_to(config.absolute())
            (Path(folder) / "model.safetensors").symlink_to(weights.absolute())
            model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True)
        self._model = model.to(device, self._dtype).eval()
        # As transformers' DPTImageProcessor for this model: x / 255, then ImageNet's mean and standard deviation.
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(shape)
        self._std = torch.tensor([0.229, 0.224, 0.225], device=device).view(shape)

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """Affine-invariant inverse depth of each view, float32 [h, w], as `DepthModel.predict` returns it."""
        flat = [view for views in sets for view in views.rgba]
        inverse_depth: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(flat)
        for batch in equal_shapes(flat, self._batch):
            for index, depth_map in zip(batch, self._forward([flat[i] for i in batch]), strict=True):
                inverse_depth[index] = depth_map
        remaining = iter(inverse_depth)
        return [[next(remaining) for _ in views.rgba] for views in sets]

    def _forward(self, views: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        torch = self._torch
        stacked = torch.from_numpy(np.stack(views))
        with torch.inference_mode():
            rgb = stacked.to(self._device, non_blocking=True)[..., :3].permute(0, 3, 1, 2).float() / 255
            out = self._model(pixel_values=((rgb - self._mean) / self._std).to(self._dtype)).predicted_depth
            result: NDArray[np.float32] = out.float().cpu().numpy()
        return result


class NullDepth:
    """A flat depth map, for measuring the cost of everything but the network."""

    def predict(self, sets: Sequence[MaskedSet]) -> list[list[NDArray[np.float32]]]:
        """Zeros for each view, float32 [h, w]."""
        return [[np.zeros(view.shape[:2], np.float32) for view in views.rgba] for views in sets]
