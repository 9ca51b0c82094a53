"""A dissimilarity of two pictures of a product, without a network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SCALES = 3
"""Gradients are compared at this many scales: the pictures' size and halves of it."""
STABILITY = 0.0026
"""The constant of gradient magnitude similarity for values in 0 … 1 (Xue et al. 2014, "Gradient magnitude similarity deviation",
section II: 170 for 8 bits)."""
NOISE = 1e-4
"""Smaller differences are noise; this also keeps the geometric mean of equal colours and unequal gradients above 0."""
GRADIENT_WEIGHT = 2 / 3
"""Weight of gradients relative to colours in their geometric mean: outlines and print are noticed before shades."""


def dissimilarity(first: Tensor, second: Tensor) -> Tensor:
    """The weighted geometric mean of colour difference and gradient difference.

    Args:
        first: float32 [N, 3, S, S], 0 … 1.
        second: float32 [N, 3, S, S], 0 … 1.

    Returns:
        [N], 0 (equal) … 1.
    """
    colour = (first - second).abs().mean((1, 2, 3))
    gradient = torch.stack([_gradients_differ(*pair) for pair in _pyramid(first, second)]).mean(0)
    return (
        torch.exp((1 - GRADIENT_WEIGHT) * torch.log(colour + NOISE) + GRADIENT_WEIGHT * torch.log(gradient + NOISE))
        - NOISE
    )


def _pyramid(first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
    levels = [(first.mean(1, keepdim=True), second.mean(1, keepdim=True))]
    for _ in range(SCALES - 1):
        finer = levels[-1]
        levels.append((functional.avg_pool2d(finer[0], 2), functional.avg_pool2d(finer[1], 2)))
    return levels


def _gradients_differ(first: Tensor, second: Tensor) -> Tensor:
    """1 - mean gradient magnitude similarity of grey [N, 1, S, S], by Scharr's operator; [N]."""
    across = torch.tensor([[-3.0, 0, 3], [-10, 0, 10], [-3, 0, 3]], device=first.device) / 32
    kernels = torch.stack([across, across.T])[:, None]
    magnitude = [
        functional.conv2d(functional.pad(image, (1,) * 4, "replicate"), kernels).norm(dim=1)
        for image in (first, second)
    ]
    similar: Tensor = (2 * magnitude[0] * magnitude[1] + STABILITY) / (
        magnitude[0] ** 2 + magnitude[1] ** 2 + STABILITY
    )
    return 1 - similar.mean((1, 2))
