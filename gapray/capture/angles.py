"""Angles: differences, and which of several is the nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@overload
def angle_difference(to_deg: float, from_deg: float) -> float: ...
@overload
def angle_difference(to_deg: NDArray[np.float64], from_deg: NDArray[np.float64] | float) -> NDArray[np.float64]: ...
def angle_difference(
    to_deg: float | NDArray[np.float64], from_deg: float | NDArray[np.float64]
) -> float | NDArray[np.float64]:
    """Signed difference between two azimuths, in [-180, 180) degrees, counter-clockwise positive."""
    return (to_deg - from_deg + 180.0) % 360.0 - 180.0


def rank_by_angle(azimuths_deg: Sequence[float], azimuth_deg: float) -> list[int]:
    """Rank azimuths by their distance from one azimuth. Of two that are equally near, the one that comes first stays first.

    The only rule by which a nearest photo or frame is chosen; views are sorted by azimuth, so the smaller azimuth wins.

    Returns:
        Indices into `azimuths_deg`, nearest first.
    """
    return sorted(range(len(azimuths_deg)), key=lambda index: abs(angle_difference(azimuths_deg[index], azimuth_deg)))


def nearest_angle(azimuths_deg: Sequence[float], azimuth_deg: float) -> int:
    """Index of the azimuth nearest to `azimuth_deg`; see `rank_by_angle`.

    Raises:
        IndexError: There is none.
    """
    return rank_by_angle(azimuths_deg, azimuth_deg)[0]
