"""Poses -> an orbit: the point that all cameras look at, and from where each does. Pure geometry.

World: +Y up, any horizontal zero. Azimuths here are `gapray`'s: ``atan2(x, z)`` about the centre grows counter-clockwise seen
from above, and 0 is the front, so that the product's right side (for who stands in front of it) is seen from 90 degrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import MIN_VIEWS
from gapray.errors import InputError
from gapray.inspect.polycam import Export, Keyframe

ELEVATION_BAND_DEG = 10.0
"""Photos of one turn lie at most this far above or below it."""
TOO_STEEP_DEG = 75.0
"""Above this an azimuth says little."""
DISTANCE_SHARE = 0.25
"""Distances that differ by this share from the median are never outliers; nobody walks a perfect circle."""
MAX_MISS_SHARE = 0.35
"""Median miss of the optical axes over the median distance (the sine of how badly the camera is aimed)."""
MIN_SPREAD = 0.01
"""Smallest eigenvalue of the mean of 1 - d d' over the axes d: that of an arc of about 20 degrees."""
_SECTOR_DEG = 10.0


@dataclass(frozen=True)
class Orbit:
    """From where each keyframe of an export looks at the product; N keyframes in the export's order."""

    azimuth_deg: NDArray[np.float64]
    """[N], in [0, 360), counter-clockwise seen from above, 0 = `front`."""
    elevation_deg: NDArray[np.float64]
    """[N], -90 … 90 above the horizon of the centre."""
    distance: NDArray[np.float64]
    """[N], metres from the centre."""
    centre: NDArray[np.float64]
    """[3], world, metres."""
    good: NDArray[np.bool_]
    """[N], False for outliers."""
    front: str
    """Name of the keyframe at azimuth 0."""
    rejected: Mapping[str, str]
    """Name -> why, for the keyframes that are not `good`."""


def orbit_of(export: Export, front: str | None = None) -> Orbit:
    """Find the centre of an orbit, and azimuth, elevation and distance of each camera about it.

    The centre is where the optical axes meet: first with the smallest sum of distances from all axes, which bears photos that
    look elsewhere, then by least squares over the good ones. Good are photos that see the centre, from a usual distance, from
    the band of elevations (+-`ELEVATION_BAND_DEG`) from which most of the circle is seen; of equal bands the one nearest to the
    median. One loop gives its median; of loops at several heights the fullest is taken.

    Args:
        export: Of `read_export`.
        front: Name of the keyframe at azimuth 0; the first good one by default.

    Raises:
        InputError: `polycam.no_orbit` when the axes do not meet in one point before the cameras, or
            `polycam.unknown_front`.
    """
    keyframes = export.keyframes
    if len(keyframes) < MIN_VIEWS:
        raise InputError("polycam.no_orbit", f"{len(keyframes)} photos; an orbit needs at least {MIN_VIEWS}")
    poses = np.stack([one.pose for one in keyframes])
    positions, axes = poses[:, :, 3], -poses[:, :, 2] / np.linalg.norm(poses[:, :, 2], axis=1, keepdims=True)
    centre = meeting_point(positions, axes)
    reasons = _outliers(keyframes, centre)
    for _ in range(2):
        good = np.array([not reason for reason in reasons])
        if good.sum() < MIN_VIEWS:
            raise _no_orbit(reasons)
        centre = meeting_point(positions[good], axes[good], robust=False)
        reasons = _outliers(keyframes, centre)
    good = np.array([not reason for reason in reasons])
    if good.sum() < MIN_VIEWS or 2 * _looking(reasons) < len(keyframes):
        raise _no_orbit(reasons)
    raw, elevation, distance = spherical(positions - centre)
    miss = _misses(positions[good], axes[good], centre)
    if np.median(miss) > MAX_MISS_SHARE * np.median(distance[good]):
        raise InputError("polycam.no_orbit", f"the cameras miss one point by {np.median(miss):.2f} m (median)")
    index = _front(keyframes, reasons, front)
    return Orbit(
        (raw - raw[index]) % 360.0 % 360.0,  # twice, because -1e-20 % 360 is 360
        elevation,
        distance,
        centre,
        good,
        keyframes[index].name,
        {one.name: reason for one, reason in zip(keyframes, reasons, strict=True) if reason},
    )


def meeting_point(
    positions: NDArray[np.float64], axes: NDArray[np.float64], *, robust: bool = True
) -> NDArray[np.float64]:
    """The point nearest to a bundle of lines.

    The sum of squared distances is least where ``sum(1 - d d')  c = sum((1 - d d') p)``; the sum of distances by solving that
    again and again with weights of 1 / distance (Weiszfeld's iteration).

    Args:
        positions: [N, 3], a point p of each line.
        axes: [N, 3], its direction d, of length 1.
        robust: Least sum of distances instead of squares.

    Returns:
        float64 [3].

    Raises:
        InputError: `polycam.no_orbit` when the lines are nearly parallel.
    """
    offset = positions.mean(axis=0)
    local = positions - offset
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    if np.linalg.eigvalsh(across.mean(axis=0))[0] < MIN_SPREAD:
        raise InputError("polycam.no_orbit", "all photos look the same way")
    weights = np.ones(len(local))
    scale = max(float(np.linalg.norm(local, axis=1).mean()), 1e-6)
    point = np.zeros(3)
    for _ in range(50 if robust else 1):
        weighted = weights[:, None, None] * across
        # lstsq: weights may leave a bundle that all but one line of agree on, which is nearly parallel.
        point = np.linalg.lstsq(weighted.sum(axis=0), np.einsum("nij,nj->i", weighted, local), rcond=None)[0]
        weights = 1.0 / np.maximum(_misses(local, axes, point), 1e-4 * scale)
    return np.asarray(point + offset, np.float64)


def spherical(
    offsets: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """World offsets [N, 3] from the centre -> azimuth [N] in [0, 360) from +z over +x, elevation [N], distance [N]."""
    distance = np.linalg.norm(offsets, axis=1)
    azimuth = np.degrees(np.arctan2(offsets[:, 0], offsets[:, 2])) % 360.0
    elevation = np.degrees(np.arcsin(np.clip(offsets[:, 1] / np.maximum(distance, 1e-12), -1.0, 1.0)))
    return azimuth, elevation, distance


def seen_at(keyframe: Keyframe, point: NDArray[np.float64]) -> tuple[float, float] | None:
    """Where a world point [3] is seen: pixels from the left and the top, or None behind the camera."""
    x, y, z = keyframe.pose[:, :3].T @ (point - keyframe.pose[:, 3])
    if z > -1e-9:
        return None
    (fx, fy), (cx, cy) = keyframe.focal, keyframe.principal
    return float(cx - fx * x / z), float(cy + fy * y / z)


def upright(keyframe: Keyframe) -> tuple[int, float]:
    """How a picture must be turned for the world's up to be up: ARKit's pictures lie in the sensor's landscape.

    Returns:
        Counter-clockwise quarter turns (0 … 3, for `numpy.rot90`), and the roll that is then left, in degrees (-45 … 45],
        positive when the picture has still to be turned counter-clockwise.
    """
    right, up = keyframe.pose[1, 0], keyframe.pose[1, 1]
    angle = float(np.degrees(np.arctan2(right, up)))
    turns = round(angle / 90.0)
    return turns % 4, angle - 90.0 * turns


_BEHIND, _OUTSIDE = "looks away from the product", "has the product outside of its picture"
_AWAY = (_BEHIND, _OUTSIDE)


def _looking(reasons: Sequence[str]) -> int:
    return sum(reason not in _AWAY for reason in reasons)


def _no_orbit(reasons: Sequence[str]) -> InputError:
    round_it = sum(not reason for reason in reasons)
    return InputError(
        "polycam.no_orbit",
        f"of {len(reasons)} photos {_looking(reasons)} look at one point, and {round_it} go round it",
    )


def _outliers(keyframes: Sequence[Keyframe], centre: NDArray[np.float64]) -> list[str]:
    """Why each keyframe is no part of the orbit; '' for those that are."""
    azimuth, elevation, distance = spherical(np.stack([one.pose[:, 3] for one in keyframes]) - centre)
    reasons = [_looks(one, centre) for one in keyframes]
    looking = np.array([not reason for reason in reasons])
    if not looking.any():
        return reasons
    usual = float(np.median(distance[looking]))
    deviation = 1.4826 * float(np.median(np.abs(distance[looking] - usual)))  # of a normal distribution
    near = np.abs(distance - usual) <= max(DISTANCE_SHARE * usual, 3 * deviation)
    flat = np.abs(elevation) <= TOO_STEEP_DEG
    usable = looking & near & flat
    band = _band(azimuth[usable], elevation[usable]) if usable.any() else 0.0
    for index, reason in enumerate(reasons):
        if reason:
            continue
        if not near[index]:
            reasons[index] = f"is {distance[index]:.2f} m away, the others {usual:.2f} m"
        elif not flat[index]:
            reasons[index] = f"looks from {elevation[index]:.0f}° above the horizon"
        elif abs(elevation[index] - band) > ELEVATION_BAND_DEG:
            reasons[index] = f"looks from {elevation[index]:.0f}° above the horizon, the orbit lies at {band:.0f}°"
    return reasons


def _looks(keyframe: Keyframe, centre: NDArray[np.float64]) -> str:
    seen = seen_at(keyframe, centre)
    if seen is None:
        return _BEHIND
    inside = all(0 <= at <= side for at, side in zip(seen, keyframe.size, strict=True))
    return "" if inside else _OUTSIDE


def _band(azimuth: NDArray[np.float64], elevation: NDArray[np.float64]) -> float:
    """The median elevation of the band that sees most sectors of the circle; of equal bands the nearest to the median's."""
    median = float(np.median(elevation))
    steps = np.arange(np.floor(elevation.min() - median), np.ceil(elevation.max() - median) + 1)
    sectors = (azimuth // _SECTOR_DEG).astype(int)

    def inside(step: float) -> NDArray[np.bool_]:
        return np.asarray(np.abs(elevation - median - step) <= ELEVATION_BAND_DEG)

    def worth(step: float) -> tuple[int, float]:
        return len(np.unique(sectors[inside(step)])), -abs(step)

    return float(np.median(elevation[inside(max(steps.tolist(), key=worth))]))


def _misses(
    positions: NDArray[np.float64], axes: NDArray[np.float64], point: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[N], distances of a point from lines."""
    return np.asarray(np.linalg.norm(np.cross(point - positions, axes), axis=1), np.float64)


def _front(keyframes: Sequence[Keyframe], reasons: Sequence[str], front: str | None) -> int:
    if front is None:
        return next(index for index, reason in enumerate(reasons) if not reason)
    stem = PurePosixPath(front).stem
    for index, (one, reason) in enumerate(zip(keyframes, reasons, strict=True)):
        if one.name == stem:
            if reason:
                raise InputError("polycam.unknown_front", f"{stem} cannot be the front: it {reason}")
            return index
    raise InputError("polycam.unknown_front", f"there is no photo {front!r} in the export")
