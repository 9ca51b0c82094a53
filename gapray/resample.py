"""Pictures at another size, for the whole project: exact area averages where they shrink, cubic (or linear) where they grow.

OpenCV averages areas in `resize` alone, and there only when both sides shrink: `warpAffine` takes `INTER_AREA` for bilinear
and drops pixels. Photos at their first decode are shrunk by Pillow instead, which does it while it decodes (`capture.decode`).
"""

from __future__ import annotations

from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_Pixel = TypeVar("_Pixel", np.uint8, np.uint16, np.float32)

Growth = Literal["cubic", "linear"]
"""``cubic`` keeps photos sharp; ``linear`` stays between its neighbours, for depths and other quantities."""
_OPENCV = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR}
_KEYS_A = -0.75
"""Parameter of the cubic kernel (Keys 1981, "Cubic convolution interpolation", equation 4), as in OpenCV."""


def resized(image: NDArray[_Pixel], size: tuple[int, int], *, growth: Growth = "cubic") -> NDArray[_Pixel]:
    """The whole picture at another size; a side that shrinks is averaged, also when the other grows.

    Args:
        image: [H, W] or [H, W, C].
        size: Height and width of the result [pixels].
        growth: How sides grow.

    Returns:
        Of the same dtype, rounded and clipped to it.
    """
    smaller = min(size[0], image.shape[0]), min(size[1], image.shape[1])
    if smaller != image.shape[:2]:
        image = np.asarray(cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA), image.dtype)
    if smaller != size:
        image = np.asarray(cv2.resize(image, size[::-1], interpolation=_OPENCV[growth]), image.dtype)
    return image


def at_most(image: NDArray[_Pixel], longer_side: int) -> NDArray[_Pixel]:
    """The picture with its aspect kept, its longer side shrunk to `longer_side` [pixels]; a smaller picture as it is."""
    share = longer_side / max(image.shape[:2])
    if share >= 1:
        return image
    return resized(image, (max(1, round(image.shape[0] * share)), max(1, round(image.shape[1] * share))))


def nearest(image: NDArray[_Pixel], size: tuple[int, int]) -> NDArray[_Pixel]:
    """The whole picture at another size by its nearest pixels, for values that must not be mixed; as `resized` otherwise."""
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST), image.dtype)


def cropped(
    image: NDArray[_Pixel],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    *,
    outside: float | None = 0,
    growth: Growth = "cubic",
) -> NDArray[_Pixel]:
    """A rectangle of a picture at some size; its edges may cut through pixels and lie beyond the picture.

    Args:
        image: [H, W] or [H, W, C].
        box: Left, right, upper and lower edge [pixels of `image`, whose outer edges are 0 and its sides].
        size: Height and width of the result [pixels].
        outside: Value beyond the picture's edges; None repeats its rim.
        growth: How sides grow.

    Returns:
        Of the same dtype, rounded and clipped to it.
    """
    left, right, upper, lower = box
    height, width = image.shape[:2]
    rows = _weights(upper, lower, size[0], height, growth, rim=outside is None)
    columns = _weights(left, right, size[1], width, growth, rim=outside is None)
    # What is outside becomes 0, so that weights which lie there are simply left out.
    around = np.float32(0 if outside is None else outside)
    tall = rows @ (image.reshape(height, -1).astype(np.float32) - around)
    tall = np.ascontiguousarray(tall.reshape(size[0], width, -1).swapaxes(0, 1))
    wide = (columns @ tall.reshape(width, -1)).reshape(size[1], size[0], -1)
    result = wide.swapaxes(0, 1) + around
    if image.dtype.kind == "u":
        result = np.rint(result).clip(0, 256**image.dtype.itemsize - 1)
    return np.ascontiguousarray(result.reshape(*size, *image.shape[2:]), image.dtype)


def _weights(begin: float, end: float, count: int, length: int, growth: Growth, *, rim: bool) -> csr_array:
    """How much each pixel of a line of `length` gives to each of `count` even parts of it, float32 [count, length]."""
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
    some = (weights != 0) & (rim | ((taps >= 0) & (taps < length)))
    part, tap = np.nonzero(some)
    places = part, taps[part, tap].clip(0, length - 1)
    return csr_array((weights[part, tap].astype(np.float32), places), shape=(count, length))


def _linear(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return (1 - distance).clip(0)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    a, d = _KEYS_A, distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
