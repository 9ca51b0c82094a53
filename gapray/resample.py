"""Image resampling for the whole project: exact area averaging when shrinking, cubic (or linear) interpolation when enlarging.

OpenCV averages areas only in `resize`, and only if both sides shrink: `warpAffine` treats `INTER_AREA` as bilinear and drops
pixels. Photos are first shrunk by Pillow while it decodes them (`capture.decode`).
"""

from __future__ import annotations

from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_Pixel = TypeVar("_Pixel", np.uint8, np.uint16, np.float32)

Growth = Literal["cubic", "linear"]
"""Interpolation for enlarging: ``cubic`` keeps photos sharp; ``linear`` never overshoots, for depth and other quantities."""
_OPENCV = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR}
_KEYS_A = -0.75
"""Parameter `a` of the cubic kernel (Keys 1981, "Cubic convolution interpolation", equation 4), as in OpenCV."""


def resized(image: NDArray[_Pixel], size: tuple[int, int], *, growth: Growth = "cubic") -> NDArray[_Pixel]:
    """Resize a whole image; a side that shrinks is area-averaged even if the other side grows.

    Args:
        image: [H, W] or [H, W, C].
        size: Height and width of the result [pixels].
        growth: Interpolation for sides that grow.

    Returns:
        An image of the same dtype; values are rounded and clipped to its range.
    """
    smaller = min(size[0], image.shape[0]), min(size[1], image.shape[1])
    if smaller != image.shape[:2]:
        image = np.asarray(cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA), image.dtype)
    if smaller != size:
        image = np.asarray(cv2.resize(image, size[::-1], interpolation=_OPENCV[growth]), image.dtype)
    return image


def at_most(image: NDArray[_Pixel], longer_side: int) -> NDArray[_Pixel]:
    """Shrink an image so that its longer side is `longer_side` [pixels], keeping its aspect; smaller images are returned as is."""
    scale = longer_side / max(image.shape[:2])
    if scale >= 1:
        return image
    return resized(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def nearest(image: NDArray[_Pixel], size: tuple[int, int]) -> NDArray[_Pixel]:
    """Resize a whole image by nearest-neighbour sampling, for labels and other values that must not be mixed.

    Args:
        image: [H, W] or [H, W, C].
        size: Height and width of the result [pixels].

    Returns:
        An image of the same dtype.
    """
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST), image.dtype)


def cropped(
    image: NDArray[_Pixel],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    *,
    outside: float | None = 0,
    growth: Growth = "cubic",
) -> NDArray[_Pixel]:
    """Crop a rectangle and resize it; its edges may be fractional and may lie outside the image.

    Args:
        image: [H, W] or [H, W, C].
        box: Left, right, top and bottom edge [pixels of `image`]; the image itself spans 0 … W and 0 … H.
        size: Height and width of the result [pixels].
        outside: Value of the area outside the image; None repeats the border pixels.
        growth: Interpolation for sides that grow.

    Returns:
        An image of the same dtype; values are rounded and clipped to its range.
    """
    left, right, upper, lower = box
    height, width = image.shape[:2]
    rows = _weights(upper, lower, size[0], height, growth, repeat_border=outside is None)
    columns = _weights(left, right, size[1], width, growth, repeat_border=outside is None)
    # With the outside value subtracted, the outside is 0 and its weights can be omitted.
    fill = np.float32(0 if outside is None else outside)
    vertical = rows @ (image.reshape(height, -1).astype(np.float32) - fill)
    vertical = np.ascontiguousarray(vertical.reshape(size[0], width, -1).swapaxes(0, 1))
    both = (columns @ vertical.reshape(width, -1)).reshape(size[1], size[0], -1)
    result = both.swapaxes(0, 1) + fill
    if image.dtype.kind == "u":
        result = np.rint(result).clip(0, 256**image.dtype.itemsize - 1)
    return np.ascontiguousarray(result.reshape(*size, *image.shape[2:]), image.dtype)


def _weights(begin: float, end: float, count: int, length: int, growth: Growth, *, repeat_border: bool) -> csr_array:
    """Return the weights of `length` source pixels in each of `count` equal intervals of begin … end, float32 [count, length]."""
    step = (end - begin) / count
    edges = begin + step * np.arange(count + 1)
    if step > 1:
        first = np.floor(edges[:-1]).astype(np.intp)
        taps = first[:, None] + np.arange(int(np.ceil(step)) + 1)
        covered = np.minimum(taps + 1, edges[1:, None]) - np.maximum(taps, edges[:-1, None])
        weights = covered.clip(0) / step
    else:
        centre = edges[:-1] + step / 2 - 0.5
        reach, kernel = (2, _cubic) if growth == "cubic" else (1, _linear)
        taps = np.floor(centre).astype(np.intp)[:, None] + np.arange(1 - reach, 1 + reach)
        weights = kernel(np.abs(taps - centre[:, None]))
    used = (weights != 0) & (repeat_border | ((taps >= 0) & (taps < length)))
    interval, tap = np.nonzero(used)
    indices = interval, taps[interval, tap].clip(0, length - 1)
    return csr_array((weights[interval, tap].astype(np.float32), indices), shape=(count, length))


def _linear(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return (1 - distance).clip(0)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    a, d = _KEYS_A, distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
