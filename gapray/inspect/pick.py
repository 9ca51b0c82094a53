"""The few photos of an orbit that gapray needs, and their folder as `gapray package` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import GAP_SLACK, MIN_VIEWS, NORMAL_GAP_DEG, turned
from gapray.capture.decode import decode_grey, decode_photo
from gapray.config import DecodeSettings
from gapray.errors import ConfigError, InputError
from gapray.gap.images import encode_jpeg, encode_png
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.orbit import Orbit, orbit_of, seen_at, upright
from gapray.inspect.polycam import Export, Keyframe, Reader
from gapray.inspect.sharpness import halvings, sharpness

TOLERANCE_DEG = 20.0
"""A wanted angle without a photo this near is a gap."""
MAX_DETOUR_DEG = 6.0
"""A better photo may lie at most so much farther from the wanted angle than the nearest."""
BLUR_DEG = 3.0
"""What half the sharpness of the sharpest neighbour costs, in degrees of azimuth."""
UNCORRECTED_DEG = 3.0
"""What it costs not to be undistorted, in degrees of azimuth."""
MAX_LOOKS = 9
"""Photos that are decoded for each wanted angle, if the nearest of them can be read."""
BORDER_PX = 15
"""Black border of undistorted photos; the default of nerfstudio's ``ns-process-data polycam --crop-border-pixels``."""
MAX_DEPTH_MM = 5000
"""The reach of the phone's LiDAR; "a total guess" beyond (polyform, README.md)."""
LOW_CONFIDENCE = 64
"""Confidence is 0, 127 or 255; below this it is low, "quite unreliable" (polyform, README.md)."""
FULL_SIDE = 4096
"""Longer side at most of the photos that are written."""
SIDES = ("front", "right front", "right", "right back", "back", "left back", "left", "left front")
"""What is seen from 0, 45 … 315 degrees, in the words of who stands before the product."""

_Pixels = TypeVar("_Pixels", bound=np.generic)


@dataclass(frozen=True)
class Picked:
    """One chosen photo."""

    keyframe: Keyframe
    nominal_deg: float
    """The angle it was chosen for, in [0, 360)."""
    azimuth_deg: float
    """The angle it was taken from, in [0, 360)."""
    elevation_deg: float
    distance: float
    """Metres from the centre."""
    sharpness: float
    """Variance of the 3 x 3 Laplacian of the grey photo about the centre [grey levels squared]."""
    quarter_turns: int
    """Counter-clockwise turns that bring the photo upright."""
    roll_deg: float
    """What is then left, -45 … 45; nothing levels it."""
    left_out: tuple[str, ...] = field(default=())
    """Photos near this angle that could not be read, and why."""


def pick_views(
    export: Export,
    views: int = 8,
    *,
    tolerance_deg: float = TOLERANCE_DEG,
    front: str | None = None,
    settings: DecodeSettings = DecodeSettings(),
) -> list[Picked]:
    """Choose one photo for each of `views` even steps from the front.

    The cheapest is taken: its distance from the wanted angle, plus `BLUR_DEG` for each halving of the sharpness against
    the sharpest candidate of that angle, plus `UNCORRECTED_DEG` for a distorted photo. Sharpness is compared only between
    photos of one angle, because it depends on what is seen, and as a ratio, so that nothing but blur moves the choice.

    Args:
        export: Of `read_export`.
        views: 4 … 180.
        tolerance_deg: Farthest that a photo may lie from its angle, above 0 … 45; never more than half a step.
        front: Name of the keyframe at azimuth 0; the first good one by default.
        settings: Limits on the photos, and the size at which sharpness is measured.

    Returns:
        `views` photos, each another one, in order of their angles.

    Raises:
        ConfigError: `config.invalid`.
        InputError: `polycam.no_orbit`, `polycam.unknown_front`, `polycam.gap` with the side that was not photographed, an
            `image.*` code or `polycam.size_mismatch` when all photos of an angle are unusable, or what `Export.opened` raises.
    """
    if not MIN_VIEWS <= views <= 180 or not 0 < tolerance_deg <= 45:
        raise ConfigError(
            "config.invalid", f"{views} views within {tolerance_deg:g}° cannot be picked (4 … 180, 0 … 45°)"
        )
    orbit = orbit_of(export, front)
    wanted = candidates(orbit, views, tolerance_deg)
    with export.opened() as read:
        looked = [_look(export, orbit, 360 * step / views, near, read, settings) for step, near in enumerate(wanted)]
    chosen = [min(of_one, key=lambda item: item[0])[1] for of_one in looked]
    if _too_wide(chosen, views):
        # Sharpness has widened a step that was wide already.
        chosen = [min((one for _, one in of_one), key=_off) for of_one in looked]
        if wide := _too_wide(chosen, views):
            raise _gap(wide)
    return chosen


def candidates(orbit: Orbit, views: int, tolerance_deg: float = TOLERANCE_DEG) -> list[list[int]]:
    """Which photos are worth a look for each of `views` even steps, by azimuth alone.

    Args:
        orbit: Of `orbit_of`.
        views: Steps of one turn.
        tolerance_deg: Farthest that a photo may lie from its angle; half a step is the limit.

    Returns:
        For each step the indices of the good keyframes in reach, the nearest first, at least one. No index stands twice.

    Raises:
        InputError: `polycam.gap`.
    """
    good = np.flatnonzero(orbit.good)
    azimuths = np.sort(orbit.azimuth_deg[good])
    found: list[list[int]] = []
    gaps: list[tuple[float, float]] = []
    used: set[int] = set()
    for step in range(views):
        nominal = 360.0 * step / views
        off = np.abs(turned(orbit.azimuth_deg[good], nominal))
        order = np.argsort(off, kind="stable")
        reach = min(tolerance_deg, 180.0 / views)
        near = [int(good[index]) for index in order if off[index] <= reach and int(good[index]) not in used]
        used.update(near)
        found.append(near)
        if not near:
            after = int(np.searchsorted(azimuths, nominal)) % len(azimuths)
            gap = (float(azimuths[after - 1]), float(azimuths[after]))
            gaps += [gap] if gap not in gaps else []
    if gaps:
        raise _gap(gaps)
    return found


def sides_between(start_deg: float, end_deg: float) -> str:
    """The sides of a product between two azimuths, counter-clockwise: "the right back side", "the right and back sides"."""
    width = (end_deg - start_deg) % 360.0 or 360.0
    inside = [SIDES[step] for step in _eighths(start_deg) if 0 < (45.0 * step - start_deg) % 360.0 < width]
    if not inside:
        inside = [SIDES[round((start_deg + width / 2) / 45.0) % 8]]
    if len(inside) == 1:
        return f"the {inside[0]} side"
    return f"the {', '.join(inside[:-1])} and {inside[-1]} sides"


def write_views(
    export: Export, picked: Sequence[Picked], out_folder: str | Path, settings: DecodeSettings = DecodeSettings()
) -> Path:
    """Write the chosen photos as the folder of one product.

    ``<name>_<nominal angle>.jpg`` upright and without the black border of undistorted photos; ``capture.csv`` with the true
    azimuth of each (columns file, azimuth; then keyframe, elevation, distance_m, which nothing reads); and where the export
    has depth ``depth/<name>_<angle>.png``, 16-bit millimetres, turned and cropped like the photo to the nearest of its own,
    larger pixels, 0 where confidence is low or beyond `MAX_DEPTH_MM`. The export is only read. The folder appears whole
    or not at all.

    Args:
        export: Where the photos were picked from.
        picked: Of `pick_views`.
        out_folder: A new or empty folder, whose name is the product's.
        settings: Limits on the photos, and the quality of the JPEG.

    Returns:
        The folder.

    Raises:
        InputError: `capture.out_not_empty`, `capture.write_failed`, `capture.invalid_product_id`, `polycam.invalid_depth`,
            `polycam.size_mismatch`, an `image.*` code or what `Export.opened` raises.
    """
    out = Path(out_folder).absolute()
    with new_folder(out) as partial, export.opened() as read:
        rows = [_write(one, partial, out.name, read, settings) for one in picked]
        write_table(partial, rows, "keyframe", "elevation", "distance_m")
    return out


def _look(
    export: Export, orbit: Orbit, nominal: float, near: Sequence[int], read: Reader, settings: DecodeSettings
) -> list[tuple[float, Picked]]:
    """Candidates of one angle with their costs, in degrees: those about the nearest that can be read."""
    sharp_of: dict[int, float] = {}
    failed: list[tuple[str, InputError]] = []
    off = {index: abs(turned(float(orbit.azimuth_deg[index]), nominal)) for index in near}
    rest = list(near)
    while rest and not sharp_of:
        reach = off[rest[0]] + MAX_DETOUR_DEG
        for index in _thinned([index for index in rest if off[index] <= reach]):
            try:
                sharp_of[index] = _sharpness(export.keyframes[index], orbit.centre, read, settings)
            except InputError as error:
                if error.code.startswith("capture."):
                    raise
                failed.append((export.keyframes[index].name, error))
        rest = [index for index in rest if off[index] > reach]
    if not sharp_of:
        name, first = failed[0]
        raise InputError(first.code, f"{name}, the photo nearest to {nominal:g}°: {first.message}")
    best = max(sharp_of.values())
    looked = []
    for index, sharp in sharp_of.items():
        keyframe = export.keyframes[index]
        turns, roll = upright(keyframe)
        one = Picked(
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
        looked.append((_off(one) + blur + UNCORRECTED_DEG * (not keyframe.corrected), one))
    return looked


def _thinned(near: Sequence[int]) -> list[int]:
    """At most `MAX_LOOKS` of them, evenly, the first among them."""
    steps = np.linspace(0, len(near) - 1, min(len(near), MAX_LOOKS)).round().astype(int)
    return [near[step] for step in steps]


def _sharpness(keyframe: Keyframe, centre: NDArray[np.float64], read: Reader, settings: DecodeSettings) -> float:
    """Sharpness of the square about the projected centre whose side is half of the photo's shorter one."""
    rgb, scale = _photo(keyframe, read, settings)
    seen = seen_at(keyframe, centre)
    height, width = rgb.shape[:2]
    half = min(height, width) // 4
    column, row = (int(at * scale) for at in seen) if seen is not None else (width // 2, height // 2)
    left, top = min(max(column - half, 0), width - 2 * half), min(max(row - half, 0), height - 2 * half)
    square = np.ascontiguousarray(rgb[top : top + 2 * half, left : left + 2 * half])
    return sharpness(np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), np.uint8))


def _photo(keyframe: Keyframe, read: Reader, settings: DecodeSettings) -> tuple[NDArray[np.uint8], float]:
    """uint8 [H, W, 3], and its pixels a pixel of the camera file."""
    rgb = decode_photo(read(keyframe.image, settings.max_bytes), settings)
    (width, height), (rows, columns) = keyframe.size, rgb.shape[:2]
    scale = columns / width
    if abs(rows - height * scale) > 1.5:
        raise InputError(
            "polycam.size_mismatch",
            f"{keyframe.image.name} has {columns} x {rows} pixels, its camera was {width} x {height}",
        )
    return rgb, scale


def _write(one: Picked, folder: Path, product: str, read: Reader, settings: DecodeSettings) -> tuple[str, ...]:
    """Photo and depth of one view; its row of the table."""
    keyframe, stem = one.keyframe, f"{product}_{one.nominal_deg:03.0f}"
    rgb, scale = _photo(keyframe, read, settings.model_copy(update={"reference_side": FULL_SIDE}))
    border = BORDER_PX if keyframe.corrected else 0
    photo = np.rot90(_cropped(rgb, round(border * scale)), one.quarter_turns)
    (folder / f"{stem}.jpg").write_bytes(encode_jpeg(np.ascontiguousarray(photo), settings.reference_quality))
    depth = _depth(keyframe, read, settings)
    if depth is not None:
        shrunk = round(border * depth.shape[1] / keyframe.size[0])
        (folder / "depth").mkdir(exist_ok=True)
        turned = np.ascontiguousarray(np.rot90(_cropped(depth, shrunk), one.quarter_turns))
        (folder / "depth" / f"{stem}.png").write_bytes(encode_png(turned))
    return (
        f"{stem}.jpg",
        f"{one.azimuth_deg % 360:.3f}",
        keyframe.name,
        f"{one.elevation_deg:.3f}",
        f"{one.distance:.4f}",
    )


def _cropped(image: NDArray[_Pixels], border: int) -> NDArray[_Pixels]:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def _depth(keyframe: Keyframe, read: Reader, settings: DecodeSettings) -> NDArray[np.uint16] | None:
    """uint16 [h, w], millimetres, 0 where it is not to be trusted; None when the export has none."""
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
            raise InputError("polycam.invalid_depth", f"confidence {name} is no 8-bit map of the size of the depth")
        trusted &= confidence >= LOW_CONFIDENCE
    return np.where(trusted, depth, 0).astype(np.uint16)


def _too_wide(chosen: Sequence[Picked], views: int) -> list[tuple[float, float]]:
    """Steps between neighbouring photos in which `refuse_gaps` would miss a view."""
    ordered = sorted(one.azimuth_deg for one in chosen)
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
    """0 … 7 in the order in which a counter-clockwise walk from `start_deg` meets them."""
    first = int(start_deg // 45.0) + 1
    return [(first + step) % 8 for step in range(8)]


def _off(one: Picked) -> float:
    return abs(turned(one.azimuth_deg, one.nominal_deg))
