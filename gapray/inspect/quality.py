"""Is each photo good enough? Numbers that can be told from one photo and its mask, and from a set of them; no verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.geometry.frame import mask_box
from gapray.resample import resized

PRODUCT_PX = 512
"""Photos are judged with the product's longer side at this many pixels at most: what a video of 512 shows of them."""
REBLUR_PX = 2.0
"""Width of the blur that tells sharp from blurred [pixels]."""
CLIPPED, CRUSHED = 252, 4
"""A pixel is burnt out when all channels are at least, and black when all are at most, this [8-bit levels]."""
RING_SHARE = 0.15
"""Width of the ring of backdrop round the product that is looked at, in its longer side."""
READABLE = (16.0, 245.0)
"""Levels between which a backdrop tells of exposure and white balance [8-bit levels]."""
LEAST_RING = 64
"""Fewer pixels of backdrop tell nothing."""


@dataclass(frozen=True)
class Quality:
    """Quality of one photo. What needs the other photos of the set is relative to their median."""

    blur: float
    """0 = every detail is lost by blurring again, 1 = nothing is: the photo is blurred already."""
    softer: float
    """`blur` against the set's median, as a ratio: what is sharp depends on the product."""
    burnt: float
    """Share of the product's pixels that are burnt out, 0 … 1."""
    black: float
    """Share of the product's pixels without any light, 0 … 1."""
    brightness: float
    """Median luminance of the product, 0 … 1, linear light."""
    exposure_ev: float
    """Backdrop against the set's [stops]; 0 where neither can be read, as on pure white."""
    white_balance: float
    """Largest change of red or blue against green, backdrop against the set's [share]."""
    cut: float
    """Share of the photo's edge along which the product runs, 0 … 1."""
    clutter: float
    """Share of the backdrop round the product on which there is an edge, 0 … 1."""
    unsure: float
    """Share of the mask's outline that is not sharp: the network could not decide, 0 … 1 and more."""


@dataclass(frozen=True)
class _Alone:
    """What one photo tells by itself."""

    blur: float
    burnt: float
    black: float
    product: NDArray[np.float64]
    """Median colour, [3], linear light, 0 … 1."""
    ring: NDArray[np.float64] | None
    """The backdrop's round it; None where there is too little."""
    cut: float
    clutter: float
    unsure: float


def qualities(photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> list[Quality]:
    """Judge the photos of one product.

    Args:
        photos: uint8 [H, W, 3], sRGB, at least one.
        masks: uint8 [H, W] each, none empty, 128 and above = product.
    """
    alone = [_alone(photo, mask) for photo, mask in zip(photos, masks, strict=True)]
    rings = [one.ring for one in alone if one.ring is not None]
    # A product has sides of other colours; only the backdrop stays what it is.
    usual = np.median(np.stack(rings), 0) if len(rings) > len(alone) / 2 else None
    usual_blur = max(float(np.median([one.blur for one in alone])), 1e-3)
    return [
        Quality(
            blur=one.blur,
            softer=one.blur / usual_blur,
            burnt=one.burnt,
            black=one.black,
            brightness=float(one.product @ _LUMINANCE),
            exposure_ev=_stops(one.ring, usual),
            white_balance=_cast(one.ring, usual),
            cut=one.cut,
            clutter=one.clutter,
            unsure=one.unsure,
        )
        for one in alone
    ]


_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709


def _linear(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """8-bit sRGB -> linear light, 0 … 1 (IEC 61966-2-1)."""
    x = np.asarray(colour, np.float64) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


_DARK, _LIGHT = (float(one) for one in _linear(np.array(READABLE)))


def _alone(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> _Alone:
    left, right, upper, lower = mask_box(mask >= 128)
    longer = max(right - left, lower - upper)
    shrink = min(1.0, PRODUCT_PX / longer)
    if shrink < 1:
        size = (max(1, round(photo.shape[0] * shrink)), max(1, round(photo.shape[1] * shrink)))
        photo, mask = resized(photo, size), resized(mask, size)
        longer = round(longer * shrink)
    inside = mask >= 128
    reach = max(3, round(RING_SHARE * longer))
    grown = cv2.dilate(inside.astype(np.uint8), _disc(max(2, reach // 6))) > 0
    ring = (cv2.dilate(inside.astype(np.uint8), _disc(reach)) > 0) & ~grown
    product = photo[inside]
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    outline = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).sum()
    soft = (mask > 25) & (mask < 230)
    return _Alone(
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
    """How blurred a picture is: a blurred one changes little when it is blurred again.

    The ratio of its gradients' energy after and before a Gaussian of `REBLUR_PX`, the idea of Crete et al. 2007 ("The blur
    effect: perception and estimation with a new no-reference perceptual blur metric") with energies instead of sums.

    Args:
        grey: uint8 [H, W].
        where: bool [H, W], what is looked at.

    Returns:
        0 … 1; 1 for a picture without any detail.
    """
    before, after = (_gradients(one, where) for one in (grey, cv2.GaussianBlur(grey, (0, 0), REBLUR_PX)))
    noise = 2.0  # of a good photo's sensor and JPEG, grey levels squared: it is no detail
    return float(np.clip(after / max(before - noise, after, 1e-6), 0, 1))


def _gradients(grey: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *way, ksize=1) for way in ((1, 0), (0, 1)))
    energy = (across**2 + down**2)[where]
    # The strongest tenth: flat parts of a product tell nothing.
    return float(np.sort(energy)[-max(1, len(energy) // 10) :].mean())


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)


def _median(pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    return _linear(np.median(pixels, 0)) if len(pixels) >= LEAST_RING else None


def _readable(colour: NDArray[np.float64]) -> bool:
    return bool(colour.min() > _DARK and colour.max() < _LIGHT)


def _stops(ring: NDArray[np.float64] | None, usual: NDArray[np.float64] | None) -> float:
    if ring is None or usual is None or not (_readable(ring) or _readable(usual)):
        return 0.0
    return float(np.log2((ring @ _LUMINANCE + 1e-4) / (usual @ _LUMINANCE + 1e-4)))


def _cast(ring: NDArray[np.float64] | None, usual: NDArray[np.float64] | None) -> float:
    if ring is None or usual is None or not (_readable(ring) and _readable(usual)):
        return 0.0
    ratios = [ring[at] / ring[1] / (usual[at] / usual[1]) for at in (0, 2)]
    return float(max(max(ratio, 1 / ratio) for ratio in ratios) - 1)


def _clutter(photo: NDArray[np.uint8], ring: NDArray[np.bool_]) -> float:
    if ring.sum() < 64:
        return 0.0
    edges = cv2.Canny(cv2.GaussianBlur(photo, (0, 0), 1.5), 40, 100) > 0
    return float(edges[ring].mean())
