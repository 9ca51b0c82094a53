"""What anybody could do with the same photos, drawn at any azimuth; none knows the product's shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import turned
from gapray.fidelity.shown import Shown
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
    """Both images moved to the time in between (Jiang et al. 2018, "Super SloMo", equation 4; flow by DIS), then faded."""
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    there, back = solver.calc(grey[0], grey[1], None), solver.calc(grey[1], grey[0], None)
    y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
    grid = np.stack([x, y], -1)
    to_first = grid - (1 - share) * share * there + share**2 * back
    to_second = grid + (1 - share) ** 2 * there - share * (1 - share) * back
    moved = [cv2.remap(image, at, None, cv2.INTER_LINEAR) for image, at in ((first, to_first), (second, to_second))]
    return faded(np.asarray(moved[0], np.uint8), np.asarray(moved[1], np.uint8), share)


def _mixed(given: Sequence[Shown], azimuth_deg: float, mix: Mix) -> Shown:
    low, high, share = _around(given, azimuth_deg)
    first, second = given[low], given[high]
    before, after = (np.repeat(one.mask[..., None], 3, 2) for one in (first, second))
    return Shown(azimuth_deg, mix(first.image, second.image, share), mix(before, after, share)[..., 0])


def _around(given: Sequence[Shown], azimuth_deg: float) -> tuple[int, int, float]:
    return neighbours({index: turned(one.azimuth_deg, azimuth_deg) for index, one in enumerate(given)})
