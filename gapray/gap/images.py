"""Image codecs of the package's own files: JPEG for the reference, PNG for mask, depth and canny.

These read and write only what gapray itself made; photos from outside go through `gapray.capture.decode`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]
"""zlib level 3: on the samples' 16-bit depth 1.1x the size of level 6 in a third of its time."""


def encode_jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """uint8 [H, W, 3] sRGB -> JPEG with full chroma resolution."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), flags)
    assert done
    return data.tobytes()


def encode_png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """uint8 or uint16 [H, W], or uint8 RGB(A) [H, W, 3|4] -> PNG of the same depth."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(".png", image, _PNG)
    assert done
    return data.tobytes()


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """JPEG or PNG -> uint8 [H, W, 3].

    Raises:
        ValueError: The bytes are no image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("not an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def decode_grey8(data: bytes) -> NDArray[np.uint8]:
    """8-bit grey PNG -> uint8 [H, W].

    Raises:
        ValueError: The bytes are no 8-bit grey image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError("not an 8-bit grey image")
    return np.asarray(image, np.uint8)


def decode_grey16(data: bytes) -> NDArray[np.uint16]:
    """16-bit grey PNG -> uint16 [H, W].

    Raises:
        ValueError: The bytes are no 16-bit grey image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype != np.uint16:
        raise ValueError("not a 16-bit grey image")
    return np.asarray(image, np.uint16)
