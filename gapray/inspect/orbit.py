"""Geometry of an orbit: the point that all cameras look at, and the azimuth, elevation and distance of each.

The world has +Y up and an arbitrary horizontal orientation. Azimuths are gapray's: ``atan2(x, z)`` about the centre, counter-clockwise
seen from above, 0 = front, so that the side on a front viewer's right is seen from 90 degrees.
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
"""Half the range of elevations of the photos in one orbit."""
MAX_ELEVATION_DEG = 75.0
"""Above this elevation an azimuth is not meaningful."""
DISTANCE_TOLERANCE = 0.25
"""Distances that differ by no more than this fraction from the median are never outliers: nobody walks a perfect circle."""
MAX_MISS_RATIO = 0.35
"""Maximum ratio of the optical axes' median distance from the centre to the median camera distance (sine of the aiming error)."""
MIN_SPREAD = 0.01
"""Minimum of the smallest eigenvalue of the mean of 1 - d d' over the axes d: that of an arc of about 20 degrees."""
_SECTOR_DEG = 10.0


@dataclass(frozen=True)
class Orbit:
    """Camera positions of an export's N keyframes, in the export's order, in spherical coordinates about the product."""

    azimuth_deg: NDArray[np.float64]
    """[N], in [0, 360), counter-clockwise seen from above, 0 = `front`."""
    elevation_deg: NDArray[np.float64]
    """[N], -90 … 90, above the horizontal plane through the centre."""
    distance: NDArray[np.float64]
    """[N], from the centre [metres]."""
    centre: NDArray[np.float64]
    """World position of the centre, [3] [metres]."""
    good: NDArray[np.bool_]
    """[N], False for outliers."""
    front: str
    """Name of the keyframe at azimuth 0."""
    rejected: Mapping[str, str]
    """Name -> reason for the keyframes that are not `good`."""


def find_orbit(export: Export, front: str | None = None) -> Orbit:
    """Find the centre of an orbit, and azimuth, elevation and distance of each camera about it.

    The centre is where the optical axes meet: first the point with the smallest sum of distances from all axes, which tolerates
    photos that look elsewhere, then the least-squares point of the good ones. Good photos show the centre, from a usual distance
    and from the band of elevations (+-`ELEVATION_BAND_DEG`) that covers most of the circle; of equal bands the one nearest to the
    median. With loops at several heights this is the most complete loop.

    Args:
        export: Result of `read_export`.
        front: Name of the keyframe at azimuth 0; the first good one by default.

    Raises:
        InputError: `polycam.no_orbit` when the axes do not meet in one point in front of the cameras, or
            `polycam.unknown_front`.
    """
    keyframes = export.keyframes
    if len(keyframes) < MIN_VIEWS:
        raise InputError("polycam.no_orbit", f"{len(keyframes)} photos; an orbit needs at least {MIN_VIEWS}")
    poses = np.stack([keyframe.pose for keyframe in keyframes])
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
    if good.sum() < MIN_VIEWS or 2 * _count_aimed(reasons) < len(keyframes):
        raise _no_orbit(reasons)
    raw, elevation, distance = spherical(positions - centre)
    miss = _misses(positions[good], axes[good], centre)
    if np.median(miss) > MAX_MISS_RATIO * np.median(distance[good]):
        raise InputError("polycam.no_orbit", f"the cameras miss one point by {np.median(miss):.2f} m (median)")
    index = _front(keyframes, reasons, front)
    return Orbit(
        (raw - raw[index]) % 360.0 % 360.0,  # twice, because -1e-20 % 360 is 360
        elevation,
        distance,
        centre,
        good,
        keyframes[index].name,
        {keyframe.name: reason for keyframe, reason in zip(keyframes, reasons, strict=True) if reason},
    )


def meeting_point(
    positions: NDArray[np.float64], axes: NDArray[np.float64], *, robust: bool = True
) -> NDArray[np.float64]:
    """The point nearest to a bundle of lines.

    The sum of squared distances is least where ``sum(1 - d d')  c = sum((1 - d d') p)``; the sum of distances is minimised by
    solving that repeatedly with weights of 1 / distance (Weiszfeld's algorithm).

    Args:
        positions: [N, 3], a point p on each line.
        axes: [N, 3], unit direction d of each line.
        robust: Minimise the sum of distances instead of their squares.

    Returns:
        The point, float64 [3].

    Raises:
        InputError: `polycam.no_orbit` when the lines are nearly parallel.
    """
    offset = positions.mean(axis=0)
    local = positions - offset
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    if np.linalg.eigvalsh(across.mean(axis=0))[0] < MIN_SPREAD:
        raise InputError("polycam.no_orbit", "all photos look in the same direction")
    weights = np.ones(len(local))
    scale = max(float(np.linalg.norm(local, axis=1).mean()), 1e-6)
    point = np.zeros(3)
    for _ in range(50 if robust else 1):
        weighted = weights[:, None, None] * across
        # lstsq, because the weights may leave a nearly parallel bundle of lines.
        point = np.linalg.lstsq(weighted.sum(axis=0), np.einsum("nij,nj->i", weighted, local), rcond=None)[0]
        weights = 1.0 / np.maximum(_misses(local, axes, point), 1e-4 * scale)
    return np.asarray(point + offset, np.float64)


def spherical(
    offsets: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Spherical coordinates of world positions.

    Args:
        offsets: [N, 3], relative to the centre.

    Returns:
        Azimuth [N] in [0, 360) degrees from +z towards +x, elevation [N] in degrees, and distance [N] in the unit of `offsets`.
    """
    distance = np.linalg.norm(offsets, axis=1)
    azimuth = np.degrees(np.arctan2(offsets[:, 0], offsets[:, 2])) % 360.0
    elevation = np.degrees(np.arcsin(np.clip(offsets[:, 1] / np.maximum(distance, 1e-12), -1.0, 1.0)))
    return azimuth, elevation, distance


def project(keyframe: Keyframe, point: NDArray[np.float64]) -> tuple[float, float] | None:
    """Project a world point into a keyframe's picture.

    Args:
        keyframe: The camera.
        point: [3], in metres.

    Returns:
        Pixels from the left and the top; None for a point behind the camera.
    """
    x, y, z = keyframe.pose[:, :3].T @ (point - keyframe.pose[:, 3])
    if z > -1e-9:
        return None
    (fx, fy), (cx, cy) = keyframe.focal, keyframe.principal
    return float(cx - fx * x / z), float(cy + fy * y / z)


def upright_rotation(keyframe: Keyframe) -> tuple[int, float]:
    """The rotation that brings a picture upright: ARKit stores pictures in the sensor's landscape orientation.

    Returns:
        Counter-clockwise quarter turns (0 … 3, for `numpy.rot90`), and the remaining roll in (-45 … 45] degrees, positive if
        the picture would have to be rotated further counter-clockwise.
    """
    right, up = keyframe.pose[1, 0], keyframe.pose[1, 1]
    angle = float(np.degrees(np.arctan2(right, up)))
    turns = round(angle / 90.0)
    return turns % 4, angle - 90.0 * turns


_BEHIND, _OUTSIDE = "looks away from the product", "does not show the product"
_AWAY = (_BEHIND, _OUTSIDE)


def _count_aimed(reasons: Sequence[str]) -> int:
    """Number of photos that show the product."""
    return sum(reason not in _AWAY for reason in reasons)


def _no_orbit(reasons: Sequence[str]) -> InputError:
    good = sum(not reason for reason in reasons)
    return InputError(
        "polycam.no_orbit",
        f"of {len(reasons)} photos {_count_aimed(reasons)} look at one point, and {good} go round it",
    )


def _outliers(keyframes: Sequence[Keyframe], centre: NDArray[np.float64]) -> list[str]:
    """The reason why each keyframe is not part of the orbit; '' for those that are."""
    azimuth, elevation, distance = spherical(np.stack([keyframe.pose[:, 3] for keyframe in keyframes]) - centre)
    reasons = [_aim_problem(keyframe, centre) for keyframe in keyframes]
    aimed = np.array([not reason for reason in reasons])
    if not aimed.any():
        return reasons
    usual = float(np.median(distance[aimed]))
    deviation = 1.4826 * float(np.median(np.abs(distance[aimed] - usual)))  # of a normal distribution
    near = np.abs(distance - usual) <= max(DISTANCE_TOLERANCE * usual, 3 * deviation)
    flat = np.abs(elevation) <= MAX_ELEVATION_DEG
    usable = aimed & near & flat
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


def _aim_problem(keyframe: Keyframe, centre: NDArray[np.float64]) -> str:
    """`_BEHIND` or `_OUTSIDE` if the keyframe does not show the centre, else ''."""
    position = project(keyframe, centre)
    if position is None:
        return _BEHIND
    inside = all(0 <= pixel <= side for pixel, side in zip(position, keyframe.size, strict=True))
    return "" if inside else _OUTSIDE


def _band(azimuth: NDArray[np.float64], elevation: NDArray[np.float64]) -> float:
    """Median elevation of the band that covers most sectors of the circle; of equal bands the one nearest to the median."""
    median = float(np.median(elevation))
    steps = np.arange(np.floor(elevation.min() - median), np.ceil(elevation.max() - median) + 1)
    sectors = (azimuth // _SECTOR_DEG).astype(int)

    def inside(step: float) -> NDArray[np.bool_]:
        return np.asarray(np.abs(elevation - median - step) <= ELEVATION_BAND_DEG)

    def coverage(step: float) -> tuple[int, float]:
        return len(np.unique(sectors[inside(step)])), -abs(step)

    return float(np.median(elevation[inside(max(steps.tolist(), key=coverage))]))


def _misses(
    positions: NDArray[np.float64], axes: NDArray[np.float64], point: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distances of a point from lines, [N]."""
    return np.asarray(np.linalg.norm(np.cross(point - positions, axes), axis=1), np.float64)


def _front(keyframes: Sequence[Keyframe], reasons: Sequence[str], front: str | None) -> int:
    """Index of the keyframe at azimuth 0.

    Raises:
        InputError: `polycam.unknown_front` when `front` names no keyframe, or one that is not part of the orbit.
    """
    if front is None:
        return next(index for index, reason in enumerate(reasons) if not reason)
    stem = PurePosixPath(front).stem
    for index, (keyframe, reason) in enumerate(zip(keyframes, reasons, strict=True)):
        if keyframe.name == stem:
            if reason:
                raise InputError("polycam.unknown_front", f"{stem} cannot be the front: it {reason}")
            return index
    raise InputError("polycam.unknown_front", f"there is no photo {front!r} in the export")
