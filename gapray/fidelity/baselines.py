"""What anybody could do with the same photos, drawn at any azimuth; none knows the product's shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import turned
from gapray.fidelity.shown import Shown
from gapray.orbit.interpolation import motion_between
from gapray.orbit.weights import neighbours

Image = NDArray[np.uint8]
Mix = Callable[[Image, Image, float], Image]
"""(first, second, share of the second) -> what lies between, uint8 [S, S, 3]."""


def nearest(given: Sequence[Shown], azimuth_deg: float) -> Shown:
    """The photo nearest in angle."""
    low, high, share = _around(given, azimuth_deg)
    chosen = given[low if share <= 0.5 else high]
    return Shown(azimuth_deg, chosen.image, chosen.mask)


def cross_fade(given: Sequence[Shown], azimuth_deg: float) -> Shown:
    """The two nearest photos, one fading into the other."""
    return _mixed(given, azimuth_deg, faded)


def flow_morph(given: Sequence[Shown], azimuth_deg: float) -> Shown:
    """The two nearest photos moved along the optical flow between them, then faded: ordinary frame interpolation."""
    return _mixed(given, azimuth_deg, flowed)


def front_view(given: Sequence[Shown], azimuth_deg: float) -> Shown:
    """The front photo at every angle: all that a weight-free engine can make of one image. A straw man, and named so."""
    front = min(given, key=lambda one: min(one.azimuth_deg % 360, -one.azimuth_deg % 360))
    return Shown(azimuth_deg, front.image, front.mask)


BASELINES: dict[str, Callable[[Sequence[Shown], float], Shown]] = {
    "nearest view": nearest,
    "cross-fade": cross_fade,
    "flow morph": flow_morph,
    "front view only": front_view,
}
"""Label -> drawer."""


def faded(first: Image, second: Image, share: float) -> Image:
    """Weighted mean."""
    return np.rint(first * (1 - share) + second * share).astype(np.uint8)


def flowed(first: Image, second: Image, share: float) -> Image:
    """Both images moved along the optical flow to the time in between, then faded."""
    motion = motion_between(first, second, share)
    return np.rint(motion.applied(first.astype(np.float32), second.astype(np.float32))).astype(np.uint8)


def _mixed(given: Sequence[Shown], azimuth_deg: float, mix: Mix) -> Shown:
    low, high, share = _around(given, azimuth_deg)
    first, second = given[low], given[high]
    before, after = (np.repeat(one.mask[..., None], 3, 2) for one in (first, second))
    return Shown(azimuth_deg, mix(first.image, second.image, share), mix(before, after, share)[..., 0])


def _around(given: Sequence[Shown], azimuth_deg: float) -> tuple[int, int, float]:
    return neighbours({index: turned(one.azimuth_deg, azimuth_deg) for index, one in enumerate(given)})
