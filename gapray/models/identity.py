"""Identity models, which compute 512 appearance features of masked views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.gap.identity import FEATURES
from gapray.models.batches import equal_shapes
from gapray.resample import cropped

CROP_MARGIN = 1.1
"""Side of the square crop, relative to the longer side of the mask's bounding box."""
BACKGROUND = 255
"""Grey level that replaces the background: white, as in catalogue photos."""


class IdentityModel(Protocol):
    """A model that describes the appearance of a product."""

    def predict(self, rgba: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute appearance features.

        Args:
            rgba: Photo and mask of each of N views, uint8 [h, w, 4].

        Returns:
            float32 [N, 512], finite, each row with unit norm.
        """
        ...


def mask_square(mask: NDArray[np.uint8]) -> tuple[float, float, float]:
    """The square around a mask, with a margin (`CROP_MARGIN`).

    Args:
        mask: uint8 [h, w], 128 and above = product; if it is empty, the square contains the whole image.

    Returns:
        Centre x, centre y and side [pixels].
    """
    inside = mask >= 128
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    if not columns.size:
        return mask.shape[1] / 2, mask.shape[0] / 2, float(max(mask.shape))
    width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
    return (
        float(columns[0] + columns[-1] + 1) / 2,
        float(rows[0] + rows[-1] + 1) / 2,
        float(max(width, height)) * CROP_MARGIN,
    )


class ColourGradient:
    """512 bins of colour and gradient of the masked view, for the profile `classic`, which has no CLIP.

    Bins 0 … 255: histogram of CIE Lab colour (4 x 8 x 8 over L in 0 … 100 and a, b in -80 … 80). Bins 256 … 511: histogram
    of gradient orientation (16 signed directions, weighted by magnitude) in each of 4 x 4 cells of the square around the
    product, after HOG (Dalal and Triggs 2005). Each half consists of square roots with norm sqrt(1/2), so that each adds half
    its Bhattacharyya coefficient to a dot product.
    """

    SIDE = 128
    _LAB_BINS = (4, 8, 8)
    _CELLS, _DIRECTIONS = 4, 16

    def predict(self, rgba: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Appearance features of uint8 [h, w, 4] views, float32 [N, 512] with rows of unit norm."""
        return np.stack([self._describe(view) for view in rgba]) if rgba else np.zeros((0, FEATURES), np.float32)

    def _describe(self, view: NDArray[np.uint8]) -> NDArray[np.float32]:
        x, y, side = mask_square(view[..., 3])
        # Colours are premultiplied by the mask before resampling, so that no background bleeds in.
        premultiplied = np.asarray(view / np.float32(255), np.float32)
        premultiplied[..., :3] *= premultiplied[..., 3:]
        box = x - side / 2, x + side / 2, y - side / 2, y + side / 2
        square = cropped(premultiplied, box, (self.SIDE, self.SIDE), growth="linear")
        weight = square[..., 3]
        rgb = square[..., :3] + (1 - weight[..., None])
        lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
        colour, _ = np.histogramdd(
            lab.reshape(-1, 3), bins=self._LAB_BINS, range=[(0, 100.001), (-80, 80), (-80, 80)], weights=weight.ravel()
        )
        gx, gy = cv2.Sobel(lab[..., 0], cv2.CV_32F, 1, 0), cv2.Sobel(lab[..., 0], cv2.CV_32F, 0, 1)
        direction = (np.arctan2(gy, gx) / (2 * np.pi) % 1.0 * self._DIRECTIONS).astype(int) % self._DIRECTIONS
        cell = np.arange(self.SIDE) * self._CELLS // self.SIDE
        bins = (cell[:, None] * self._CELLS + cell[None, :]) * self._DIRECTIONS + direction
        gradient = np.bincount(
            bins.ravel(), weights=(np.hypot(gx, gy) * weight).ravel(), minlength=self._CELLS**2 * self._DIRECTIONS
        )
        halves = [np.sqrt(half.ravel() / max(half.sum(), 1e-12) / 2) for half in (colour, gradient)]
        features = np.concatenate(halves)
        length = np.linalg.norm(features)
        return (features / length if length else np.full(FEATURES, FEATURES**-0.5)).astype(np.float32)


class OpenClip:
    """CLIP image features (Radford et al. 2021) of a square crop of the masked view, through open_clip.

    OpenAI's weights were trained with QuickGELU. open_clip cannot detect that from a local file, and without
    ``force_quick_gelu`` it silently returns different vectors.

    Args:
        weights: A local checkpoint: safetensors, or a pickle, which is read with ``weights_only``.
        device: ``cpu`` or ``cuda``.
        batch: Maximum number of views per forward pass.
        architecture: open_clip's name of the architecture.
    """

    def __init__(self, weights: Path, *, device: str, batch: int, architecture: str = "ViT-B-32") -> None:
        import open_clip
        import torch

        self._torch = torch
        self._device, self._batch = device, batch
        self._dtype = torch.float16 if device == "cuda" else torch.float32
        self.model = open_clip.create_model(
            architecture,
            pretrained=str(weights),
            precision="fp16" if device == "cuda" else "fp32",
            device=device,
            force_quick_gelu=True,
        ).eval()
        visual = self.model.visual
        side = visual.image_size
        self._side = int(side[0] if isinstance(side, tuple) else side)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(visual.image_mean or open_clip.OPENAI_DATASET_MEAN, device=device).view(shape)
        self._std = torch.tensor(visual.image_std or open_clip.OPENAI_DATASET_STD, device=device).view(shape)

    def predict(self, rgba: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Appearance features of uint8 [h, w, 4] views, float32 [N, 512] with rows of unit norm."""
        features = np.zeros((len(rgba), FEATURES), np.float32)
        for batch in equal_shapes(rgba, self._batch):
            features[batch] = self._forward([rgba[i] for i in batch])
        return features

    def _forward(self, views: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        torch = self._torch
        functional = torch.nn.functional
        height, width = views[0].shape[:2]
        squares = [mask_square(view[..., 3]) for view in views]
        # Affine maps from the output squares (-1 … 1) to the views (-1 … 1), in grid_sample's convention.
        maps = [
            [[side / width, 0.0, 2 * x / width - 1], [0.0, side / height, 2 * y / height - 1]] for x, y, side in squares
        ]
        with torch.inference_mode():
            stacked = torch.from_numpy(np.stack(views)).to(self._device, non_blocking=True)
            theta = torch.tensor(maps, dtype=torch.float32, device=self._device)
            # A grid fine enough to sample every pixel, then averaged: grid_sample alone would alias.
            fine = max(2, math.ceil(max(side for _, _, side in squares) / self._side))
            grid = functional.affine_grid(theta, [len(views), 4, *(fine * self._side,) * 2], align_corners=False)
            view = stacked.permute(0, 3, 1, 2).float() / 255
            alpha = view[:, 3:]
            # Colours are premultiplied by the mask before resampling, so that no background bleeds in.
            premultiplied = torch.cat([view[:, :3] * alpha, alpha], 1)
            square = functional.avg_pool2d(functional.grid_sample(premultiplied, grid, align_corners=False), fine)
            rgb = square[:, :3] + BACKGROUND / 255 * (1 - square[:, 3:])
            features = self.model.encode_image(((rgb - self._mean) / self._std).to(self._dtype)).float()
            result: NDArray[np.float32] = functional.normalize(features, dim=-1).cpu().numpy()
        return result


class NullIdentity:
    """A constant vector, for measuring the cost of everything but the network."""

    def predict(self, rgba: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The same unit vector for each view, float32 [N, 512]."""
        return np.full((len(rgba), FEATURES), FEATURES**-0.5, np.float32)
