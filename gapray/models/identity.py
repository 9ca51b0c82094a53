"""Identity models: masked views in, 512 appearance features out."""

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
"""Side of the square that is looked at, over the longer side of the mask's box."""
BACKGROUND = 255
"""What stands in for the backdrop: white, as in catalogue photos."""


class IdentityModel(Protocol):
    """Describes how a product looks."""

    def predict(self, rgba: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Appearance features.

        Args:
            rgba: uint8 [h, w, 4] each: photo and mask.

        Returns:
            float32 [N, 512], finite, each row of length 1.
        """
        ...


def mask_square(mask: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Centre x, centre y and side in pixels of the square round a mask, with its margin."""
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
    """512 bins of colour and gradient of the masked view: for `classic`, where no CLIP is at hand.

    Bins 0 … 255: histogram of CIE Lab colour (4 x 8 x 8 over L in 0 … 100 and a, b in -80 … 80). Bins 256 … 511: histogram
    of gradient orientation (16 signed directions, weighted by magnitude) in each of 4 x 4 cells of the square round the
    product, after HOG (Dalal and Triggs 2005). Square roots are taken and each half is brought to length sqrt(1/2), so
    that a dot product is half a Bhattacharyya coefficient from each.
    """

    SIDE = 128
    _LAB_BINS = (4, 8, 8)
    _CELLS, _DIRECTIONS = 4, 16

    def predict(self, rgba: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `IdentityModel.predict`."""
        return np.stack([self._describe(view) for view in rgba]) if rgba else np.zeros((0, FEATURES), np.float32)

    def _describe(self, view: NDArray[np.uint8]) -> NDArray[np.float32]:
        x, y, side = mask_square(view[..., 3])
        # Colours are weighted by the mask before they are mixed, so that no backdrop bleeds in.
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
    """CLIP image features of the masked, squared view (Radford et al. 2021) through open_clip.

    Args:
        weights: A local checkpoint; safetensors, or a pickle read with ``weights_only``.
        device: ``cpu`` or ``cuda``.
        batch: Views in one forward pass.
        architecture: open_clip's name.

    OpenAI's weights were trained with QuickGELU. From a local file open_clip cannot know that, and without
    ``force_quick_gelu`` it gives other vectors and no warning.
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
        """See `IdentityModel.predict`."""
        features = np.zeros((len(rgba), FEATURES), np.float32)
        for chosen in equal_shapes(rgba, self._batch):
            features[chosen] = self._forward([rgba[i] for i in chosen])
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
            # So fine that no pixel of a view is stepped over, then means: grid_sample alone would alias.
            fine = max(2, math.ceil(max(side for _, _, side in squares) / self._side))
            grid = functional.affine_grid(theta, [len(views), 4, *(fine * self._side,) * 2], align_corners=False)
            view = stacked.permute(0, 3, 1, 2).float() / 255
            alpha = view[:, 3:]
            # Colours are weighted by the mask before they are mixed, so that no backdrop bleeds in.
            premultiplied = torch.cat([view[:, :3] * alpha, alpha], 1)
            square = functional.avg_pool2d(functional.grid_sample(premultiplied, grid, align_corners=False), fine)
            rgb = square[:, :3] + BACKGROUND / 255 * (1 - square[:, 3:])
            features = self.model.encode_image(((rgb - self._mean) / self._std).to(self._dtype)).float()
            result: NDArray[np.float32] = functional.normalize(features, dim=-1).cpu().numpy()
        return result


class NullIdentity:
    """A constant vector: measures what everything but the network costs."""

    def predict(self, rgba: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `IdentityModel.predict`."""
        return np.full((len(rgba), FEATURES), FEATURES**-0.5, np.float32)
