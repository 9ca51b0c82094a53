"""Codecs for a package's own images: JPEG for the reference, PNG for mask, depth and canny.

They only handle images that gapray itself wrote; untrusted photos go through `gapray.capture.decode`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]
"""zlib level 3: for the samples' 16-bit depth 1.1 times the size of level 6 in a third of the time."""


def encode_jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Encode uint8 [H, W, 3] sRGB as a JPEG with full chroma resolution."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), flags)
    assert done
    return data.tobytes()


def encode_png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode uint8 or uint16 grey [H, W], or uint8 RGB(A) [H, W, 3|4], as a PNG of the same bit depth."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(".png", image, _PNG)
    assert done
    return data.tobytes()


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG to uint8 RGB [H, W, 3].

    Raises:
        ValueError: The bytes are not an image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("not an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def decode_grey8(data: bytes) -> NDArray[np.uint8]:
    """Decode an 8-bit grey PNG to uint8 [H, W].

    Raises:
        ValueError: The bytes are not an 8-bit grey image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError("not an 8-bit grey image")
    return np.asarray(image, np.uint8)


def decode_grey16(data: bytes) -> NDArray[np.uint16]:
    """Decode a 16-bit grey PNG to uint16 [H, W].

    Raises:
        ValueError: The bytes are not a 16-bit grey image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype != np.uint16:
        raise ValueError("not a 16-bit grey image")
    return np.asarray(image, np.uint16)
