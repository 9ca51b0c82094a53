"""Picking the photos of a Polycam export at even angles, and writing them as a folder for `gapray package`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference
from gapray.capture.azimuths import GAP_SLACK, MIN_VIEWS, NORMAL_GAP_DEG
from gapray.capture.decode import decode_grey, decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import ConfigError, InputError
from gapray.gap.images import encode_jpeg, encode_png
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.orbit import Orbit, find_orbit, project, upright_rotation
from gapray.inspect.polycam import Export, Keyframe, Reader
from gapray.inspect.sharpness import halvings, sharpness

TOLERANCE_DEG = 20.0
"""Largest distance of a photo from its nominal angle; without one this near there is a gap."""
MAX_DETOUR_DEG = 6.0
"""A better photo may be at most this much farther from the nominal angle than the nearest one."""
BLUR_DEG = 3.0
"""Cost of each halving of sharpness relative to the sharpest candidate, in degrees of azimuth."""
UNCORRECTED_DEG = 3.0
"""Cost of a photo that is not undistorted, in degrees of azimuth."""
MAX_CANDIDATES = 9
"""Maximum number of photos decoded for each nominal angle, unless the nearest ones cannot be read."""
BORDER_PX = 15
"""Black border of undistorted photos; the default of nerfstudio's ``ns-process-data polycam --crop-border-pixels``."""
MAX_DEPTH_MM = 5000
"""Range of the phone's LiDAR; depth is "a total guess" beyond (polyform, README.md)."""
LOW_CONFIDENCE = 64
"""Confidence is 0, 127 or 255; below this threshold depth is "quite unreliable" (polyform, README.md)."""
FULL_SIDE = 4096
"""Maximum longer side of the written photos [pixels]."""
SIDES = ("front", "right front", "right", "right back", "back", "left back", "left", "left front")
"""Sides of the product at azimuths 0, 45, … 315 degrees, as seen by a viewer facing its front."""

_Pixels = TypeVar("_Pixels", bound=np.generic)


@dataclass(frozen=True)
class PickedPhoto:
    """A photo chosen for one angle."""

    keyframe: Keyframe
    nominal_deg: float
    """The angle it was chosen for, in [0, 360)."""
    azimuth_deg: float
    """The angle it was taken from, in [0, 360)."""
    elevation_deg: float
    distance: float
    """Distance of the camera from the centre [metres]."""
    sharpness: float
    """Variance of the 3 x 3 Laplacian of the grey photo around the centre [grey levels squared]."""
    quarter_turns: int
    """Counter-clockwise quarter turns that bring the photo upright."""
    roll_deg: float
    """Remaining roll in (-45, 45], which is not corrected."""
    left_out: tuple[str, ...] = field(default=())
    """Names of photos near this angle that could not be read, with the reason."""


def pick_views(
    export: Export,
    views: int = 8,
    *,
    tolerance_deg: float = TOLERANCE_DEG,
    front: str | None = None,
    settings: DecodeSettings = DecodeSettings(),
) -> list[PickedPhoto]:
    """Choose one photo for each of `views` even steps from the front.

    The photo with the lowest cost is chosen: its distance from the nominal angle, plus `BLUR_DEG` for each halving of sharpness
    relative to the sharpest candidate for that angle, plus `UNCORRECTED_DEG` for a distorted photo. Sharpness is compared only
    between photos of one angle, because it depends on the scene, and as a ratio, so that only blur affects the choice.

    Args:
        export: Result of `read_export`.
        views: Number of views, 4 … 180.
        tolerance_deg: Maximum distance of a photo from its nominal angle, in (0, 45]; never more than half a step.
        front: Name of the keyframe at azimuth 0; the first good one by default.
        settings: Limits on the photos, and the size at which sharpness is measured.

    Returns:
        `views` distinct photos, in order of their nominal angles.

    Raises:
        ConfigError: `config.invalid`.
        InputError: `polycam.no_orbit`, `polycam.unknown_front`, `polycam.gap` with the side that was not photographed, an
            `image.*` code or `polycam.size_mismatch` when all photos of an angle are unusable, or what `Export.opened` raises.
    """
    if not MIN_VIEWS <= views <= 180 or not 0 < tolerance_deg <= 45:
        raise ConfigError(
            "config.invalid", f"{views} views within {tolerance_deg:g}° cannot be picked (4 … 180, 0 … 45°)"
        )
    orbit = find_orbit(export, front)
    nearby = candidates(orbit, views, tolerance_deg)
    with export.opened() as read:
        rated = [_rated(export, orbit, 360 * step / views, near, read, settings) for step, near in enumerate(nearby)]
    chosen = [min(ratings, key=lambda rating: rating[0])[1] for ratings in rated]
    if _too_wide(chosen, views):
        # Preferring sharp photos has widened a step that was wide already.
        chosen = [min((photo for _, photo in ratings), key=_angle_error) for ratings in rated]
        if wide := _too_wide(chosen, views):
            raise _gap(wide)
    return chosen


def candidates(orbit: Orbit, views: int, tolerance_deg: float = TOLERANCE_DEG) -> list[list[int]]:
    """Candidate photos for each of `views` even steps, by azimuth alone.

    Args:
        orbit: Result of `find_orbit`.
        views: Number of steps in one turn.
        tolerance_deg: Maximum distance of a photo from its nominal angle; never more than half a step.

    Returns:
        For each step the indices of the good keyframes in reach, the nearest first, at least one. No index is repeated.

    Raises:
        InputError: `polycam.gap`.
    """
    good = np.flatnonzero(orbit.good)
    azimuths = np.sort(orbit.azimuth_deg[good])
    by_step: list[list[int]] = []
    gaps: list[tuple[float, float]] = []
    used: set[int] = set()
    for step in range(views):
        nominal = 360.0 * step / views
        off = np.abs(angle_difference(orbit.azimuth_deg[good], nominal))
        order = np.argsort(off, kind="stable")
        reach = min(tolerance_deg, 180.0 / views)
        near = [int(good[index]) for index in order if off[index] <= reach and int(good[index]) not in used]
        used.update(near)
        by_step.append(near)
        if not near:
            after = int(np.searchsorted(azimuths, nominal)) % len(azimuths)
            gap = (float(azimuths[after - 1]), float(azimuths[after]))
            gaps += [gap] if gap not in gaps else []
    if gaps:
        raise _gap(gaps)
    return by_step


def sides_between(start_deg: float, end_deg: float) -> str:
    """Names of the product's sides between two azimuths, counter-clockwise: "the right back side", "the right and back sides"."""
    width = (end_deg - start_deg) % 360.0 or 360.0
    inside = [SIDES[step] for step in _eighths(start_deg) if 0 < (45.0 * step - start_deg) % 360.0 < width]
    if not inside:
        inside = [SIDES[round((start_deg + width / 2) / 45.0) % 8]]
    if len(inside) == 1:
        return f"the {inside[0]} side"
    return f"the {', '.join(inside[:-1])} and {inside[-1]} sides"


def write_views(
    export: Export, picked: Sequence[PickedPhoto], out_folder: str | Path, settings: DecodeSettings = DecodeSettings()
) -> Path:
    """Write the chosen photos as the folder of one product.

    The folder holds ``<name>_<nominal angle>.jpg``, upright and without the black border of undistorted photos; ``capture.csv``
    with the true azimuth of each (columns file, azimuth; gapray does not read keyframe, elevation and distance_m); and, if the
    export has depth, ``depth/<name>_<angle>.png`` in 16-bit millimetres, rotated and cropped like the photo to its own, larger
    pixels, 0 where confidence is low or depth is beyond `MAX_DEPTH_MM`. The export is not changed. The folder is written
    atomically.

    Args:
        export: The export that the photos were picked from.
        picked: Result of `pick_views`.
        out_folder: A new or empty folder; its name is the product's id.
        settings: Limits on the photos, and the JPEG quality.

    Returns:
        The folder.

    Raises:
        InputError: `capture.out_not_empty`, `capture.write_failed`, `capture.invalid_product_id`, `polycam.invalid_depth`,
            `polycam.size_mismatch`, an `image.*` code or what `Export.opened` raises.
    """
    out = Path(out_folder).absolute()
    with new_folder(out) as partial, export.opened() as read:
        rows = [_write(photo, partial, out.name, read, settings) for photo in picked]
        write_table(partial, rows, "keyframe", "elevation", "distance_m")
    return out


def _rated(
    export: Export, orbit: Orbit, nominal: float, near: Sequence[int], read: Reader, settings: DecodeSettings
) -> list[tuple[float, PickedPhoto]]:
    """Candidates for one angle with their costs in degrees: those close to the nearest photo that can be read."""
    sharpnesses: dict[int, float] = {}
    failed: list[tuple[str, InputError]] = []
    off = {index: abs(angle_difference(float(orbit.azimuth_deg[index]), nominal)) for index in near}
    rest = list(near)
    while rest and not sharpnesses:
        reach = off[rest[0]] + MAX_DETOUR_DEG
        for index in _thinned([index for index in rest if off[index] <= reach]):
            try:
                sharpnesses[index] = _sharpness(export.keyframes[index], orbit.centre, read, settings)
            except InputError as error:
                if error.code.startswith("capture."):
                    raise
                failed.append((export.keyframes[index].name, error))
        rest = [index for index in rest if off[index] > reach]
    if not sharpnesses:
        name, first = failed[0]
        raise InputError(first.code, f"{name}, the photo nearest to {nominal:g}°: {first.message}")
    best = max(sharpnesses.values())
    rated = []
    for index, sharp in sharpnesses.items():
        keyframe = export.keyframes[index]
        turns, roll = upright_rotation(keyframe)
        photo = PickedPhoto(
            keyframe,
            nominal,
            float(orbit.azimuth_deg[index]),
            float(orbit.elevation_deg[index]),
            float(orbit.distance[index]),
            sharp,
            turns,
            roll,
            tuple(f"{name}: {problem}" for name, problem in failed),
        )
        blur = BLUR_DEG * halvings(sharp, best)
        rated.append((_angle_error(photo) + blur + UNCORRECTED_DEG * (not keyframe.corrected), photo))
    return rated


def _thinned(near: Sequence[int]) -> list[int]:
    """At most `MAX_CANDIDATES` of the indices, evenly spaced, including the first."""
    steps = np.linspace(0, len(near) - 1, min(len(near), MAX_CANDIDATES)).round().astype(int)
    return [near[step] for step in steps]


def _sharpness(keyframe: Keyframe, centre: NDArray[np.float64], read: Reader, settings: DecodeSettings) -> float:
    """Sharpness of the square around the projected centre, whose side is half the photo's shorter side."""
    rgb, scale = _photo(keyframe, read, settings)
    position = project(keyframe, centre)
    height, width = rgb.shape[:2]
    half = min(height, width) // 4
    column, row = (int(pixel * scale) for pixel in position) if position is not None else (width // 2, height // 2)
    left, top = min(max(column - half, 0), width - 2 * half), min(max(row - half, 0), height - 2 * half)
    square = np.ascontiguousarray(rgb[top : top + 2 * half, left : left + 2 * half])
    return sharpness(np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), np.uint8))


def _photo(keyframe: Keyframe, read: Reader, settings: DecodeSettings) -> tuple[NDArray[np.uint8], float]:
    """A keyframe's photo, uint8 [H, W, 3], and its size relative to the size in the camera file."""
    rgb = decode_photo(read(keyframe.image, settings.max_bytes), settings)
    (width, height), (rows, columns) = keyframe.size, rgb.shape[:2]
    scale = columns / width
    if abs(rows - height * scale) > 1.5:
        raise InputError(
            "polycam.size_mismatch",
            f"{keyframe.image.name} has {columns} x {rows} pixels, its camera is for {width} x {height}",
        )
    return rgb, scale


def _write(picked: PickedPhoto, folder: Path, product: str, read: Reader, settings: DecodeSettings) -> tuple[str, ...]:
    """Write photo and depth of one view, and return its row of the table."""
    keyframe, stem = picked.keyframe, f"{product}_{picked.nominal_deg:03.0f}"
    rgb, scale = _photo(keyframe, read, settings.model_copy(update={"reference_side": FULL_SIDE}))
    border = BORDER_PX if keyframe.corrected else 0
    photo = np.rot90(_cropped(rgb, round(border * scale)), picked.quarter_turns)
    (folder / f"{stem}.jpg").write_bytes(encode_jpeg(np.ascontiguousarray(photo), settings.reference_quality))
    depth = _depth(keyframe, read, settings)
    if depth is not None:
        depth_border = round(border * depth.shape[1] / keyframe.size[0])
        (folder / "depth").mkdir(exist_ok=True)
        rotated = np.ascontiguousarray(np.rot90(_cropped(depth, depth_border), picked.quarter_turns))
        (folder / "depth" / f"{stem}.png").write_bytes(encode_png(rotated))
    return (
        f"{stem}.jpg",
        f"{picked.azimuth_deg % 360:.3f}",
        keyframe.name,
        f"{picked.elevation_deg:.3f}",
        f"{picked.distance:.4f}",
    )


def _cropped(image: NDArray[_Pixels], border: int) -> NDArray[_Pixels]:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def _depth(keyframe: Keyframe, read: Reader, settings: DecodeSettings) -> NDArray[np.uint16] | None:
    """A keyframe's depth, uint16 [h, w], in millimetres, 0 where it is unreliable; None when the export has none."""
    if keyframe.depth is None:
        return None
    name, (width, height) = keyframe.depth.name, keyframe.size
    small = settings.model_copy(update={"min_side": 16})
    try:
        depth = decode_grey(read(keyframe.depth, settings.max_bytes), small)
        confidence = None
        if keyframe.confidence is not None:
            confidence = decode_grey(read(keyframe.confidence, settings.max_bytes), small)
    except InputError as error:
        if not error.code.startswith("image."):
            raise
        raise InputError("polycam.invalid_depth", f"depth or confidence {name}: {error.message}") from error
    rows, columns = depth.shape
    if depth.dtype != np.uint16:
        raise InputError("polycam.invalid_depth", f"depth {name} has 8 bits, not 16")
    if columns > width or abs(rows - columns * height / width) > 1.0:
        raise InputError(
            "polycam.invalid_depth", f"depth {name} has {columns} x {rows} pixels, its photo {width} x {height}"
        )
    trusted = (depth > 0) & (depth <= MAX_DEPTH_MM)
    if confidence is not None:
        if confidence.shape != depth.shape or confidence.dtype != np.uint8:
            raise InputError("polycam.invalid_depth", f"confidence {name} is not an 8-bit map of the depth's size")
        trusted &= confidence >= LOW_CONFIDENCE
    return np.where(trusted, depth, 0).astype(np.uint16)


def _too_wide(chosen: Sequence[PickedPhoto], views: int) -> list[tuple[float, float]]:
    """Gaps between neighbouring photos that `refuse_gaps` would refuse, as azimuths of both photos."""
    ordered = sorted(photo.azimuth_deg for photo in chosen)
    pairs = list(zip(ordered, [*ordered[1:], ordered[0]], strict=True))
    steps = [(after - before) % 360.0 for before, after in pairs]
    usual = max(NORMAL_GAP_DEG, sorted(steps)[len(steps) // 2])
    return [pair for pair, step in zip(pairs, steps, strict=True) if step > GAP_SLACK * usual]


def _gap(gaps: Sequence[tuple[float, float]]) -> InputError:
    where = "; ".join(
        f"between {start:.0f}° and {end:.0f}°: {sides_between(start, end)}" for start, end in sorted(gaps)
    )
    return InputError("polycam.gap", f"no photo {where}")


def _eighths(start_deg: float) -> list[int]:
    """Indices 0 … 7 of `SIDES` in the order in which a counter-clockwise walk from `start_deg` passes them."""
    first = int(start_deg // 45.0) + 1
    return [(first + step) % 8 for step in range(8)]


def _angle_error(photo: PickedPhoto) -> float:
    return abs(angle_difference(photo.azimuth_deg, photo.nominal_deg))
