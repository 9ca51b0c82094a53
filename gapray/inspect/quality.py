"""PhotoQuality measurements of photos, measured and relative to their set. Verdicts are left to `gapray.inspect.check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.geometry.frame import mask_box
from gapray.resample import resized

PRODUCT_PX = 512
"""Maximum longer side of the product when photos are measured [pixels]: what a 512-pixel video shows of it."""
REBLUR_PX = 2.0
"""Sigma of the Gaussian blur with which blur is measured [pixels]."""
CLIPPED, CRUSHED = 252, 4
"""A pixel is burnt out if all its channels are at least `CLIPPED`, and black if all are at most `CRUSHED` [8-bit levels]."""
RING_FRACTION = 0.15
"""Width of the measured ring of background around the product, as a fraction of the product's longer side."""
READABLE = (16.0, 245.0)
"""Range in which a background indicates exposure and white balance [8-bit levels]."""
MIN_RING_PIXELS = 64
"""Minimum number of background pixels for a measurement."""


@dataclass(frozen=True)
class PhotoQuality:
    """Quality of one photo. Relative values compare it with the median of its set."""

    blur: float
    """0 = blurring again removes all detail, 1 = it changes nothing, because the photo is blurred already."""
    softer: float
    """Ratio of `blur` to the set's median: how sharp a photo can be depends on the product."""
    burnt: float
    """Fraction of the product's pixels that are burnt out, 0 … 1."""
    black: float
    """Fraction of the product's pixels that are black, 0 … 1."""
    brightness: float
    """Median luminance of the product in linear light, 0 … 1."""
    exposure_ev: float
    """Exposure of the background relative to the set's [stops]; 0 where neither can be measured, as on pure white."""
    white_balance: float
    """Largest relative change of the background's red or blue against green, compared with the set's; 0 = none."""
    cut: float
    """Fraction of the photo's border that is covered by the product, 0 … 1."""
    clutter: float
    """Fraction of the background around the product that is covered by edges, 0 … 1."""
    unsure: float
    """Soft pixels of the mask relative to a sharp outline, from 0; above 1 the network was undecided over wide areas."""


@dataclass(frozen=True)
class _Measurements:
    """Measurements of a single photo."""

    blur: float
    burnt: float
    black: float
    product: NDArray[np.float64]
    """Median colour of the product, [3], linear light, 0 … 1."""
    ring: NDArray[np.float64] | None
    """Median colour of the background around it, as `product`; None where there is too little background."""
    cut: float
    clutter: float
    unsure: float


def measure_quality(photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> list[PhotoQuality]:
    """Measure the quality of all photos of one product.

    Args:
        photos: uint8 [H, W, 3], sRGB, at least one.
        masks: uint8 [H, W] each, none empty, 128 and above = product.

    Returns:
        The quality of each photo, in order.
    """
    measured = [_measure(photo, mask) for photo, mask in zip(photos, masks, strict=True)]
    rings = [photo.ring for photo in measured if photo.ring is not None]
    # The sides of a product differ in colour; only the background stays the same.
    usual = np.median(np.stack(rings), 0) if len(rings) > len(measured) / 2 else None
    usual_blur = max(float(np.median([photo.blur for photo in measured])), 1e-3)
    return [
        PhotoQuality(
            blur=photo.blur,
            softer=photo.blur / usual_blur,
            burnt=photo.burnt,
            black=photo.black,
            brightness=float(photo.product @ _LUMINANCE),
            exposure_ev=_exposure_difference(photo.ring, usual),
            white_balance=_white_balance_difference(photo.ring, usual),
            cut=photo.cut,
            clutter=photo.clutter,
            unsure=photo.unsure,
        )
        for photo in measured
    ]


_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709


def _linear(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light, 0 … 1, of 8-bit sRGB levels (IEC 61966-2-1)."""
    x = np.asarray(colour, np.float64) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


_DARK, _LIGHT = (float(level) for level in _linear(np.array(READABLE)))


def _measure(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> _Measurements:
    left, right, upper, lower = mask_box(mask >= 128)
    longer = max(right - left, lower - upper)
    shrink = min(1.0, PRODUCT_PX / longer)
    if shrink < 1:
        size = (max(1, round(photo.shape[0] * shrink)), max(1, round(photo.shape[1] * shrink)))
        photo, mask = resized(photo, size), resized(mask, size)
        longer = round(longer * shrink)
    inside = mask >= 128
    reach = max(3, round(RING_FRACTION * longer))
    grown = cv2.dilate(inside.astype(np.uint8), _disc(max(2, reach // 6))) > 0
    ring = (cv2.dilate(inside.astype(np.uint8), _disc(reach)) > 0) & ~grown
    product = photo[inside]
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    outline = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).sum()
    soft = (mask > 25) & (mask < 230)
    return _Measurements(
        blur=blur(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), inside),
        burnt=float((product >= CLIPPED).all(1).mean()),
        black=float((product <= CRUSHED).all(1).mean()),
        product=_linear(np.median(product, 0)),
        ring=_median(photo[ring]),
        cut=float(border.mean()),
        clutter=_clutter(photo, ring),
        unsure=float(soft.sum() / (3 * max(1, int(outline)))),
    )


def blur(grey: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Blur of a picture, by how little it changes when it is blurred again.

    The ratio of gradient energies after and before a Gaussian blur of `REBLUR_PX`, after Crete et al. 2007 ("The blur
    effect: perception and estimation with a new no-reference perceptual blur metric"), with energies instead of sums.

    Args:
        grey: uint8 [H, W].
        where: bool [H, W], the pixels to measure.

    Returns:
        0 … 1; 1 for a picture without any detail.
    """
    before, after = (_gradients(image, where) for image in (grey, cv2.GaussianBlur(grey, (0, 0), REBLUR_PX)))
    noise = 2.0  # gradient energy of sensor and JPEG noise in a good photo, grey levels squared
    return float(np.clip(after / max(before - noise, after, 1e-6), 0, 1))


def _gradients(grey: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Mean gradient energy of the strongest tenth of the pixels; flat parts of a product carry no information."""
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=1) for order in ((1, 0), (0, 1)))
    energy = (across**2 + down**2)[where]
    return float(np.sort(energy)[-max(1, len(energy) // 10) :].mean())


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)


def _median(pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    return _linear(np.median(pixels, 0)) if len(pixels) >= MIN_RING_PIXELS else None


def _readable(colour: NDArray[np.float64]) -> bool:
    return bool(colour.min() > _DARK and colour.max() < _LIGHT)


def _exposure_difference(ring: NDArray[np.float64] | None, usual: NDArray[np.float64] | None) -> float:
    if ring is None or usual is None or not (_readable(ring) or _readable(usual)):
        return 0.0
    return float(np.log2((ring @ _LUMINANCE + 1e-4) / (usual @ _LUMINANCE + 1e-4)))


def _white_balance_difference(ring: NDArray[np.float64] | None, usual: NDArray[np.float64] | None) -> float:
    if ring is None or usual is None or not (_readable(ring) and _readable(usual)):
        return 0.0
    ratios = [ring[channel] / ring[1] / (usual[channel] / usual[1]) for channel in (0, 2)]
    return float(max(max(ratio, 1 / ratio) for ratio in ratios) - 1)


def _clutter(photo: NDArray[np.uint8], ring: NDArray[np.bool_]) -> float:
    if ring.sum() < 64:
        return 0.0
    edges = cv2.Canny(cv2.GaussianBlur(photo, (0, 0), 1.5), 40, 100) > 0
    return float(edges[ring].mean())
