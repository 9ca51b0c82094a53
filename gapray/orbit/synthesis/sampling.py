"""Locate a frame's surface in the photos and sample them there: batched over frames of different products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gapray.geometry.camera import frame_grid
from gapray.orbit.synthesis.inputs import Frames

SMALLEST = 4
"""Side at which `filled_in` stops halving [pixels]."""


def located(frames: Frames, view_z: Tensor) -> tuple[Tensor, Tensor]:
    """Locate in each photo what a frame shows at a given view z.

    Args:
        frames: B frames with K photos each.
        view_z: [B, D, s, s]: view z of D surfaces, at any resolution.

    Returns:
        u and v in the photos, [B, K, D, s, s, 2], and the points' view z in the photos, [B, K, D, s, s].
    """
    u, v = frame_grid(view_z.shape[-1], view_z.device)
    inverse_distance, axis_x, axis_y = (value[:, None, None, None] for value in frames.camera.unbind(1))
    shrink = 1 - inverse_distance * view_z
    x, y = (u - axis_x) * shrink, (axis_y - v) * shrink
    rows = frames.turns[..., None, None, None]  # [B, K, 3, 3, 1, 1, 1]
    there_x, there_y, toward = (
        rows[:, :, row, 0] * x[:, None] + rows[:, :, row, 1] * y[:, None] + rows[:, :, row, 2] * view_z[:, None]
        for row in range(3)
    )
    scale = 1 / (1 - inverse_distance[:, None] * toward)
    where = torch.stack([axis_x[:, None] + there_x * scale, axis_y[:, None] - there_y * scale], -1)
    return where, toward


def read(images: Tensor, where: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Sample each photo; beyond its edge the nearest pixel is repeated.

    Args:
        images: [B, K, C, S, S].
        where: [B, K, …, s, s, 2]: u and v.
        mode: ``bilinear``, or ``bicubic`` for colours that should stay sharp.

    Returns:
        [B, K, C, …, s, s].
    """
    flat = where.reshape(images.shape[0] * images.shape[1], -1, where.shape[-2], 2)
    sampled = functional.grid_sample(
        images.flatten(0, 1), flat.to(images.dtype), mode=mode, align_corners=False, padding_mode="border"
    )
    return sampled.reshape(*images.shape[:3], *where.shape[2:-1])


def filled_in(image: Tensor, known: Tensor) -> Tensor:
    """Fill [B, C, S, S] where `known` [B, 1, S, S] is 0 with ever coarser averages (Gortler et al. 1996, 3.4)."""
    side = image.shape[-1]
    if side <= SMALLEST or side % 2:
        mean = (image * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return torch.lerp(mean.expand_as(image), image, known.clamp(max=1))
    weight = functional.avg_pool2d(known, 2)
    coarse = functional.avg_pool2d(image * known, 2) / weight.clamp(min=1e-6)
    below = filled_in(coarse, (4 * weight).clamp(max=1))
    smooth = functional.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.lerp(smooth, image, known.clamp(max=1))
