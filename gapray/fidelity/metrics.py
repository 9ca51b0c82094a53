"""Image metrics other than LPIPS. All take uint8 sRGB images and uint8 masks, 128 and above = product."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PSNR_CEILING_DB = 100.0
"""PSNR of identical images, for which the formula is infinite."""


def psnr(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all pixels [dB], higher is better; 10 log10(255^2 / mean squared error)."""
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return min(PSNR_CEILING_DB, float(10 * np.log10(255**2 / error))) if error else PSNR_CEILING_DB


def ssim(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Structural similarity, -1 … 1, 1 = identical, higher is better.

    Wang et al. 2004 (11 x 11 Gaussian window of deviation 1.5, no sample correction), by scikit-image, mean over channels.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            image, truth, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def silhouette_iou(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Intersection over union of two silhouettes, 0 … 1, higher is better; 1 when both are empty."""
    first, second = mask >= 128, truth >= 128
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0


def identity_cosine(features: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Cosine of the 512 appearance features of two identity embeddings, -1 … 1, higher is better."""
    a, b = (np.asarray(embedding[:512], np.float64) for embedding in (features, truth))
    return float(a @ b) / max(float(np.linalg.norm(a)) * float(np.linalg.norm(b)), 1e-12)
