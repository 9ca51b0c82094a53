"""Refinement of a network's soft mask to the product's silhouette."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError
from gapray.gap.package import mask_share
from gapray.gap.settings import MaskSettings

BORDER_FRACTION = 0.04
"""Width of the image border that is assumed to be backdrop, as a fraction of the shorter side."""
KEY_FLOOR = 6.0
"""Smallest distance from the backdrop's colour that is distinguishable from noise and shadow [CIE Lab]."""
KEY_SPREAD = 5.0
"""Distance threshold in robust standard deviations of the backdrop's own residual."""
KEY_RESIDUAL = 1.5
"""Largest median residual of a plain backdrop; others are not keyed [CIE Lab]."""
AGREEMENT = 0.9
"""Minimum intersection over union of the key and the network's mask for the key to be used."""
KEY_REACH_PX = 2
"""Maximum shift of the network's edge by the key [pixels at the network's resolution of 320]."""


def silhouette(photo: NDArray[np.uint8], soft: NDArray[np.uint8], settings: MaskSettings) -> NDArray[np.uint8]:
    """Return the product's mask in one photo.

    Args:
        photo: uint8 [H, W, 3], sRGB.
        soft: The network's mask, uint8 [H, W].
        settings: Clean-up, backdrop key and accepted fractions of the image.

    Returns:
        uint8 [H, W], 0 … 255, with soft edges.

    Raises:
        InputError: `mask.too_small` or `mask.too_large`.
    """
    mask = soft
    if settings.backdrop_key:
        mask = apply_backdrop_key(photo, mask)
    if settings.cleanup:
        mask = clean_up(mask, settings.max_hole_share)
    fraction = mask_share(mask)
    if fraction < settings.min_share:
        raise InputError("mask.too_small", f"the product covers {fraction:.2%} of the photo")
    if fraction > settings.max_share:
        raise InputError("mask.too_large", f"the product covers {fraction:.2%} of the photo")
    return mask


def clean_up(mask: NDArray[np.uint8], max_hole_share: float) -> NDArray[np.uint8]:
    """Keep the largest connected component, make its interior opaque, and fill small holes.

    Larger holes are kept, because they belong to the product, such as the opening of a handle.

    Args:
        mask: uint8 [H, W].
        max_hole_share: Maximum area of a hole that is filled, as a fraction of the component's area.

    Returns:
        uint8 [H, W].
    """
    inside = (mask >= 128).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    if count <= 1:
        return mask
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    body = (labels == largest).astype(np.uint8)
    area = int(stats[largest, cv2.CC_STAT_AREA])
    count, holes, stats, _ = cv2.connectedComponentsWithStats(1 - body, connectivity=4)
    small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] <= max_hole_share * area)
    filled = np.isin(holes, small[small > 0]) & (body == 0)
    near = cv2.dilate(body | filled.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
    result = np.where(near, mask, 0)
    # Remove other components even if their soft edges touch the body.
    result = np.where((inside > 0) & (body == 0), 0, result)
    # A product is opaque: only its edge may be soft, not areas inside where the network was uncertain.
    solid = cv2.erode(body | filled.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return np.where(filled | solid, 255, result).astype(np.uint8)


def apply_backdrop_key(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Refine the edges of a mask by colour keying against a plain backdrop.

    The backdrop is modelled by a quadratic surface in each Lab channel, fitted to the border of the photo, so that a smooth
    studio gradient counts as plain.

    Args:
        photo: uint8 [H, W, 3], sRGB.
        mask: uint8 [H, W].

    Returns:
        uint8 [H, W]; the mask unchanged if the backdrop is not plain or key and mask disagree.
    """
    lab = cv2.cvtColor(photo.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    height, width = mask.shape
    frame = np.ones((height, width), bool)
    edge = max(2, round(BORDER_FRACTION * min(height, width)))
    frame[edge:-edge, edge:-edge] = False
    reach = max(1, round(KEY_REACH_PX * max(height, width) / 320))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    frame &= cv2.dilate(mask, kernel, iterations=2) < 32
    if frame.sum() < 64:
        return mask
    basis = _quadratic(height, width)
    border_basis = basis[frame]
    step = max(1, len(border_basis) // 4000)
    surface, *_ = np.linalg.lstsq(border_basis[::step], lab[frame][::step], rcond=None)
    distance = np.linalg.norm(lab - basis @ surface, axis=-1)
    residual = float(np.median(distance[frame]))
    if residual > KEY_RESIDUAL:
        return mask
    threshold = max(KEY_FLOOR, KEY_SPREAD * 1.4826 * residual)
    wide, narrow = cv2.dilate(mask, kernel) >= 128, cv2.erode(mask, kernel) >= 128
    # The product's distance from the backdrop near each edge pixel; the edge is where the distance is half of it.
    window = (4 * reach + 1, 4 * reach + 1)
    weight = cv2.blur(narrow.astype(np.float32), window)
    product = cv2.blur(np.where(narrow, distance, 0).astype(np.float32), window) / np.maximum(weight, 1e-6)
    usable = (weight > 1e-3) & (product > 3 * threshold)
    band = wide & ~narrow
    if (usable & band).sum() < AGREEMENT * band.sum():
        return mask
    alpha = np.clip((distance - residual) / np.maximum(product - residual, 1e-6), 0, 1)
    soft = np.where(usable, alpha * 255, mask)
    result = np.where(narrow, 255, np.where(wide, soft, 0)).astype(np.uint8)
    network, key = mask >= 128, result >= 128
    union = (network | key).sum()
    agreed = bool(union) and (network & key).sum() / union >= AGREEMENT
    return result if agreed else mask


def _quadratic(height: int, width: int) -> NDArray[np.float32]:
    """Return 1, x, y, x^2, xy, y^2 at every pixel, with x and y in -1 … 1; float32 [H, W, 6]."""
    y, x = np.meshgrid(
        np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32), indexing="ij"
    )
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
