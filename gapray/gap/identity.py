"""The identity embedding: 517 floats that describe which product a view shows and how it fills the picture.

0 … 511: appearance features of the masked view, with unit norm. 512 … 516: mean, standard deviation, minimum and maximum of
the depth inside the mask (0 … 1 of the stored range), and the mask's fraction of the image (0 … 1). This is the order of the
prototype that gapray replaces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gapray.gap.package import depth_inside, mask_share

FEATURES = 512
GEOMETRIC = 5
IDENTITY_SIZE = FEATURES + GEOMETRIC


def identity_embedding(
    features: NDArray[np.float32], depth: NDArray[np.uint16], mask: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Combine appearance and geometry into the identity embedding of one view.

    Args:
        features: Appearance features, [512]; they are normalised here.
        depth: [H, W], as `GapView.depth`.
        mask: [H, W], as `GapView.mask`.

    Returns:
        float32 [517].

    Raises:
        ValueError: `features` is not [512] or not finite.
    """
    if features.shape != (FEATURES,) or not np.isfinite(features).all():
        raise ValueError(f"features must be {FEATURES} finite numbers, got shape {features.shape}")
    length = max(float(np.linalg.norm(features)), 1e-12)
    return np.concatenate([features / length, _geometric(depth, mask)]).astype(np.float32)


def with_geometry(
    identity: NDArray[np.float32], depth: NDArray[np.uint16], mask: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """An identity embedding, [517], with the same appearance and the geometry of another depth and mask."""
    return np.concatenate([identity[:FEATURES], _geometric(depth, mask)]).astype(np.float32)


def _geometric(depth: NDArray[np.uint16], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    inside = depth_inside(depth, mask)
    return np.asarray([inside.mean(), inside.std(), inside.min(), inside.max(), mask_share(mask)])


def identity_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine similarity of the appearance features of two embeddings, -1 … 1; 1 = same appearance, 0 if either is zero."""
    first, second = a[:FEATURES], b[:FEATURES]
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0
