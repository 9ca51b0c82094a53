"""The steps of packaging, each a pure function of plain data.

``decode_view`` -> ``work_image`` (after `silhouette`) -> models -> ``depth_to_16bit`` -> ``finish_view``. The catalogue's
bytes are made here once, so that a package built in one process and one built on a cluster are equal to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.capture_set import CaptureSet, Photo
from gapray.capture.decode import decode_photo
from gapray.capture.storage import read_bytes
from gapray.config import DecodeSettings, canonical_hash
from gapray.errors import InputError
from gapray.gap.identity import identity_embedding
from gapray.gap.images import decode_rgb, encode_jpeg
from gapray.gap.package import DEPTH_MAX, GapView, Quality
from gapray.resample import resized

RANGE_PIXELS = 200_000
"""About so many pixels of a set are looked at to find its range of depth."""
DEPTH_TAILS_PERCENT = 0.1
"""This share of the product's pixels at each end is clipped: a few wild pixels must not squeeze the rest."""


@dataclass(frozen=True)
class DecodedView:
    """A photo after safe decode."""

    photo: Photo
    sha256: str
    """Hash of the photo's bytes."""
    reference: bytes
    """JPEG as the catalogue keeps it."""
    pixels: NDArray[np.uint8]
    """[H, W, 3], what `reference` was made from."""


class Canny(Protocol):
    """Anything that draws edges."""

    def predict(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] -> uint8 [H, W]."""
        ...


def decode_view(photo: Photo, settings: DecodeSettings) -> DecodedView:
    """Read, check and decode one photo.

    Raises:
        InputError: An `image.*` code; the message begins with the photo's name.
    """
    data = read_bytes(photo.uri, settings.max_bytes)
    try:
        pixels = decode_photo(data, settings, of_product=True)
    except InputError as error:
        raise InputError(error.code, f"{photo.name}: {error.message}") from error
    reference = encode_jpeg(pixels, settings.reference_quality)
    return DecodedView(photo, hashlib.sha256(data).hexdigest(), reference, pixels)


def content_key(views: Sequence[tuple[float, str]], settings_hash: str) -> str:
    """The key of a package: what it is made of and how, whatever the files are called and whoever made it when.

    Args:
        views: (azimuth in degrees, sha256 of the photo's bytes) a view.
        settings_hash: `PackagingSettings.digest`.
    """
    return canonical_hash({"views": sorted([azimuth, digest] for azimuth, digest in views), "settings": settings_hash})


def refuse_repeats(capture: CaptureSet, digests: Sequence[str]) -> None:
    """Refuse a set in which two angles show the very same file.

    Raises:
        InputError: `capture.duplicate_azimuth`.
    """
    first: dict[str, str] = {}
    for photo, digest in zip(capture.photos, digests, strict=True):
        if digest in first:
            raise InputError("capture.duplicate_azimuth", f"{first[digest]} and {photo.name} are the same file")
        first[digest] = photo.name


def work_image(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """What networks see of a view: photo and mask, shrunk to `side` at most, sides multiples of 14.

    14 is the patch of Depth-Anything's encoder (DINOv2). A smaller photo keeps its size but for that rounding.

    Args:
        pixels: uint8 [H, W, 3].
        mask: uint8 [H, W].
        side: Longer side at most, a multiple of 14.

    Returns:
        uint8 [h, w, 4], contiguous.
    """
    height, width = mask.shape
    scale = min(1.0, side / max(height, width))
    size = (max(14, round(height * scale / 14) * 14), max(14, round(width * scale / 14) * 14))
    work = np.empty((*size, 4), np.uint8)
    work[..., :3], work[..., 3] = resized(pixels, size, growth="linear"), resized(mask, size, growth="linear")
    return work


def depth_range(nearness: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.uint8]]) -> tuple[float, float]:
    """The one scale and shift of a capture set.

    Args:
        nearness: float32 [h, w] a view, any unit, larger is nearer.
        masks: uint8 [h, w] a view, at the same sizes.

    Returns:
        (scale, shift): nearness = scale * t + shift with t in 0 … 1 inside the masks. The scale is never 0.
    """
    # A tail of a thousandth is known as well from every n-th pixel, in a tenth of the time.
    n = max(1, sum(mask.size for mask in masks) // RANGE_PIXELS)
    values = np.concatenate(
        [near.ravel()[::n][mask.ravel()[::n] >= 128] for near, mask in zip(nearness, masks, strict=True)]
    )
    if not values.size:
        values = np.concatenate([near[mask >= 128] for near, mask in zip(nearness, masks, strict=True)])
    if not values.size:
        return 1.0, 0.0
    low, high = np.percentile(values, [DEPTH_TAILS_PERCENT, 100 - DEPTH_TAILS_PERCENT])
    return float(max(high - low, 1e-6)), float(low)


def depth_to_16bit(
    nearness: NDArray[np.float32], mask: NDArray[np.uint8], scale: float, shift: float
) -> NDArray[np.uint16]:
    """Stored depth of one view, at the mask's size.

    Args:
        nearness: float32 [h, w], of the work image.
        mask: uint8 [H, W], of the view.
        scale: From `depth_range`.
        shift: From `depth_range`.

    Returns:
        uint16 [H, W], 0 outside the mask, 1 … 65535 inside.
    """
    full = resized(nearness, mask.shape, growth="linear")
    level = np.clip((full - shift) / scale, 0, 1) * (DEPTH_MAX - 1) + 1
    return np.where(mask >= 128, np.rint(level), 0).astype(np.uint16)


def finish_view(
    *,
    name: str,
    azimuth_deg: float,
    uri: str,
    sha256: str,
    reference: bytes,
    mask: NDArray[np.uint8],
    depth: NDArray[np.uint16],
    features: NDArray[np.float32],
    canny: Canny,
) -> GapView:
    """Put one view together: edges, identity and quality figures from what the catalogue will hold.

    Args:
        name: File name of the photo.
        azimuth_deg: Degrees in [0, 360).
        uri: Where the photo lies.
        sha256: Of its bytes.
        reference: JPEG; edges and quality are measured on its decoded pixels.
        mask: uint8 [H, W].
        depth: uint16 [H, W].
        features: float32 [512].
        canny: The edge detector.
    """
    pixels = decode_rgb(reference)
    return GapView(
        name=name,
        azimuth_deg=azimuth_deg,
        uri=uri,
        sha256=sha256,
        reference=pixels,
        mask=mask,
        depth=depth,
        canny=canny.predict(pixels),
        identity=identity_embedding(features, depth, mask),
        quality=quality(pixels, mask),
    )


def quality(pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Quality:
    """Sharpness and clipping of the product's pixels.

    Args:
        pixels: uint8 [H, W, 3].
        mask: uint8 [H, W].
    """
    inside = mask >= 128
    count = max(int(inside.sum()), 1)
    laplacian = cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[inside]
    red, green, blue = cv2.split(pixels)
    brightest, darkest = cv2.max(cv2.max(red, green), blue)[inside], cv2.min(cv2.min(red, green), blue)[inside]
    return Quality(
        sharpness=float(laplacian.var()) if laplacian.size else 0.0,
        clipped_dark=float((brightest <= 2).sum() / count),
        clipped_bright=float((darkest >= 253).sum() / count),
    )
