"""The steps of packaging, each a pure function of plain data.

``decode_view`` -> ``work_image`` (after `silhouette`) -> models -> ``depth_to_16bit`` -> ``finish_view``. Packages built in one
process and on a cluster use the same functions, so that their contents are the same.
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
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import read_bytes
from gapray.errors import InputError
from gapray.gap.identity import identity_embedding
from gapray.gap.images import decode_rgb, encode_jpeg
from gapray.gap.package import DEPTH_MAX, GapView, Quality
from gapray.resample import resized
from gapray.settings import canonical_hash

RANGE_PIXELS = 200_000
"""Approximate number of pixels of a set that are sampled for its range of depth."""
DEPTH_TAILS_PERCENT = 0.1
"""Percentage of the product's pixels that is clipped at each end of the range, because outliers would compress the rest."""


@dataclass(frozen=True)
class DecodedView:
    """A checked and decoded photo."""

    photo: Photo
    sha256: str
    """SHA-256 of the photo's bytes."""
    reference: bytes
    """JPEG, as stored in the catalogue."""
    pixels: NDArray[np.uint8]
    """uint8 [H, W, 3], sRGB, from which `reference` was encoded."""


class Canny(Protocol):
    """An edge detector."""

    def predict(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the edges, uint8 [H, W], of a photo, uint8 [H, W, 3]."""
        ...


def decode_view(photo: Photo, settings: DecodeSettings) -> DecodedView:
    """Read, check and decode one photo.

    Raises:
        InputError: `image.*`: the photo cannot be used; the message starts with its name.
    """
    data = read_bytes(photo.uri, settings.max_bytes)
    try:
        pixels = decode_photo(data, settings, of_product=True)
    except InputError as error:
        raise InputError(error.code, f"{photo.name}: {error.message}") from error
    reference = encode_jpeg(pixels, settings.reference_quality)
    return DecodedView(photo, hashlib.sha256(data).hexdigest(), reference, pixels)


def content_key(views: Sequence[tuple[float, str]], settings_hash: str) -> str:
    """Return the key of a package: a hash of its content and settings, independent of file names, time and machine.

    Args:
        views: Azimuth [degrees] and SHA-256 of the photo's bytes, for each view.
        settings_hash: `PackagingSettings.digest`.

    Returns:
        64 hex digits.
    """
    return canonical_hash({"views": sorted([azimuth, digest] for azimuth, digest in views), "settings": settings_hash})


def refuse_repeats(capture: CaptureSet, digests: Sequence[str]) -> None:
    """Reject a capture set in which two angles have identical files.

    Args:
        capture: The capture set.
        digests: SHA-256 of each photo's bytes.

    Raises:
        InputError: `capture.duplicate_azimuth`.
    """
    first: dict[str, str] = {}
    for photo, digest in zip(capture.photos, digests, strict=True):
        if digest in first:
            raise InputError("capture.duplicate_azimuth", f"{first[digest]} and {photo.name} are the same file")
        first[digest] = photo.name


def work_image(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return the networks' input for a view: photo and mask, shrunk, with sides that are multiples of 14.

    14 is the patch size of Depth-Anything's encoder (DINOv2). A smaller photo keeps its size, except for that rounding.

    Args:
        pixels: uint8 [H, W, 3].
        mask: uint8 [H, W].
        side: Maximum longer side [pixels], a multiple of 14.

    Returns:
        uint8 [h, w, 4], photo and mask, contiguous.
    """
    height, width = mask.shape
    scale = min(1.0, side / max(height, width))
    size = (max(14, round(height * scale / 14) * 14), max(14, round(width * scale / 14) * 14))
    work = np.empty((*size, 4), np.uint8)
    work[..., :3], work[..., 3] = resized(pixels, size, growth="linear"), resized(mask, size, growth="linear")
    return work


def depth_range(nearness: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.uint8]]) -> tuple[float, float]:
    """Return the common scale and shift of a capture set's depth.

    Args:
        nearness: Output of the depth model for each view, float32 [h, w], in any unit, larger = nearer.
        masks: Mask of each view at the same size, uint8 [h, w].

    Returns:
        (scale, shift), such that nearness = scale * t + shift with t in 0 … 1 inside the masks. The scale is positive.
    """
    # Every n-th pixel gives the percentiles as accurately, in a tenth of the time.
    n = max(1, sum(mask.size for mask in masks) // RANGE_PIXELS)
    values = np.concatenate(
        [view.ravel()[::n][mask.ravel()[::n] >= 128] for view, mask in zip(nearness, masks, strict=True)]
    )
    if not values.size:
        values = np.concatenate([view[mask >= 128] for view, mask in zip(nearness, masks, strict=True)])
    if not values.size:
        return 1.0, 0.0
    low, high = np.percentile(values, [DEPTH_TAILS_PERCENT, 100 - DEPTH_TAILS_PERCENT])
    return float(max(high - low, 1e-6)), float(low)


def depth_to_16bit(
    nearness: NDArray[np.float32], mask: NDArray[np.uint8], scale: float, shift: float
) -> NDArray[np.uint16]:
    """Convert the depth model's output for one view to the stored depth, at the mask's size.

    Args:
        nearness: Output of the depth model, float32 [h, w], at the work image's size.
        mask: Mask of the view, uint8 [H, W].
        scale: From `depth_range`.
        shift: From `depth_range`.

    Returns:
        uint16 [H, W]: 0 outside the mask, 1 = farthest … 65535 = nearest inside.
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
    """Build a view, with edges, identity and quality computed from the data as stored in the catalogue.

    Args:
        name: File name of the photo.
        azimuth_deg: Azimuth in [0, 360) [degrees].
        uri: Location of the photo.
        sha256: SHA-256 of its bytes.
        reference: JPEG; edges and quality are computed from its decoded pixels.
        mask: uint8 [H, W].
        depth: uint16 [H, W], from `depth_to_16bit`.
        features: Appearance features, float32 [512].
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
    """Measure sharpness and clipping of the product's pixels.

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
