"""Masks, depth and other maps as files have them, and whether they differ from what was exported."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.decode import decode_alpha, decode_grey
from gapray.errors import InputError
from gapray.gap.folder.layout import FILE_LIMITS

MAX_DIFFERENCE = 16.0
"""Maximum mean difference of the product's pixels between a reference and its cut-out; above it they are different pictures."""
MAX_ROUNDING = 8
"""Maximum difference of an opaque pixel of an export's cut-out from its reference that saving it again can cause [levels]."""
_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)


def hash_of_pixels(reference: NDArray[np.uint8]) -> str:
    """sha256 of a picture's RGB pixels in row order, which does not depend on the (lossless) compression of the file."""
    return hashlib.sha256(np.ascontiguousarray(reference).tobytes()).hexdigest()


def depth_of_8_bits(depth: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Depth on the same scale in 8 bits: 0 = no product, 1 = farthest … 255 = nearest point of the whole set."""
    rounded = (depth.astype(np.uint32) + 128) // 257
    return np.where(depth > 0, np.maximum(rounded, 1), 0).astype(np.uint8)


def mask_levels(data: bytes) -> NDArray[np.uint8]:
    """Decode a mask, 0 … 255, also from zeros and ones, or from the transparency of a picture that is all of one colour."""
    image = decode_grey(data, FILE_LIMITS)
    if image.min() == image.max():
        with suppress(InputError):  # it has no transparency
            image = decode_alpha(data, FILE_LIMITS)
    return (image * 255).astype(np.uint8) if image.max() <= 1 else _of_8_bits(image)


def depth_within(depth: NDArray[np.uint16], inside: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Depth, [H, W], with 0 outside of the product's pixels `inside`, [H, W]."""
    return np.where(inside, depth, np.uint16(0))


def fitted_depth(depth: NDArray[np.uint16], inside: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Depth of the product's pixels `inside`, [H, W], 0 elsewhere; where there is none, that of the nearest pixel which has one."""
    known = inside & (depth > 0)
    if not known.any():
        known = depth > 0
    if not known.any():
        return inside.astype(np.uint16)
    if not (inside & ~known).any():
        return depth_within(depth, inside)
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(int(nearest.max()) + 1, np.uint16)
    values[nearest[known]] = depth[known]
    return depth_within(values[nearest], inside)


def levels_differ(image: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    """Whether two maps differ by more than rounding."""
    return image.shape != expected.shape or int(np.abs(image.astype(np.int16) - expected).max()) > 1


def grey_of_8_bits(data: bytes) -> NDArray[np.uint8]:
    """Decode a grey picture to 8 bits, [H, W].

    Raises:
        InputError: An `image.*` code.
    """
    return _of_8_bits(decode_grey(data, FILE_LIMITS))


def _of_8_bits(image: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    return image.astype(np.uint8) if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def of_same_size(image: NDArray[_Pixel], size: tuple[int, ...]) -> NDArray[_Pixel]:
    """Return the image if it has the size of its view's reference.

    Raises:
        ValueError: It has not.
    """
    if image.shape != size:
        raise ValueError(f"an image is {image.shape}, the reference {size}")
    return image
