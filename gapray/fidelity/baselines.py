"""Baselines: images at any azimuth that simple methods make of the same photos, without knowing the product's shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference, nearest_angle
from gapray.fidelity.shown import NormalizedView
from gapray.orbit.interpolation import motion_between
from gapray.orbit.weights import neighbours

Image = NDArray[np.uint8]
Mix = Callable[[Image, Image, float], Image]
"""(first, second, fraction of the second) -> the image between them, uint8 [S, S, 3]."""


def nearest(given: Sequence[NormalizedView], azimuth_deg: float) -> NormalizedView:
    """Return the photo nearest in angle."""
    chosen = given[nearest_angle([view.azimuth_deg for view in given], azimuth_deg)]
    return NormalizedView(azimuth_deg, chosen.image, chosen.mask)


def cross_fade(given: Sequence[NormalizedView], azimuth_deg: float) -> NormalizedView:
    """Cross-fade the two nearest photos."""
    return _mixed(given, azimuth_deg, blend)


def flow_morph(given: Sequence[NormalizedView], azimuth_deg: float) -> NormalizedView:
    """Warp the two nearest photos along the optical flow between them, then cross-fade: ordinary frame interpolation."""
    return _mixed(given, azimuth_deg, blend_along_flow)


def front_view(given: Sequence[NormalizedView], azimuth_deg: float) -> NormalizedView:
    """Return the front photo at every angle: all that a weight-free engine can do with one image. A deliberately weak baseline."""
    front = nearest(given, 0.0)
    return NormalizedView(azimuth_deg, front.image, front.mask)


BASELINES: dict[str, Callable[[Sequence[NormalizedView], float], NormalizedView]] = {
    "nearest view": nearest,
    "cross-fade": cross_fade,
    "flow morph": flow_morph,
    "front view only": front_view,
}
"""Label -> function that draws a baseline from the given photos at an azimuth."""


def blend(first: Image, second: Image, fraction: float) -> Image:
    """Weighted mean of two images; `fraction` is the weight of the second, 0 … 1."""
    return np.rint(first * (1 - fraction) + second * fraction).astype(np.uint8)


def blend_along_flow(first: Image, second: Image, fraction: float) -> Image:
    """Both images warped along the optical flow to the time in between, then cross-faded."""
    motion = motion_between(first, second, fraction)
    return np.rint(motion.applied(first.astype(np.float32), second.astype(np.float32))).astype(np.uint8)


def _mixed(given: Sequence[NormalizedView], azimuth_deg: float, mix: Mix) -> NormalizedView:
    low, high, fraction = _around(given, azimuth_deg)
    first, second = given[low], given[high]
    first_mask, second_mask = (np.repeat(view.mask[..., None], 3, 2) for view in (first, second))
    mask = mix(first_mask, second_mask, fraction)[..., 0]
    return NormalizedView(azimuth_deg, mix(first.image, second.image, fraction), mask)


def _around(given: Sequence[NormalizedView], azimuth_deg: float) -> tuple[int, int, float]:
    return neighbours({index: angle_difference(view.azimuth_deg, azimuth_deg) for index, view in enumerate(given)})
