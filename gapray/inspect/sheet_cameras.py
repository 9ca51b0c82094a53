"""Photos with the printed sheet in them -> from where each was taken. The sheet and its world: `gapray.inspect.sheet`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import MIN_VIEWS
from gapray.capture.decode import decode_photo
from gapray.capture.kinds import is_photo_file
from gapray.capture.storage import read_bytes
from gapray.config import DecodeSettings
from gapray.errors import InputError
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.sheet import DICTIONARY, markers

FOCALS = np.geomspace(0.5, 6.0, 13)
"""Focal lengths that are tried, in longer sides of the photo: from a wide phone to a long lens."""
FULL_SIDE = 4096
"""Markers are looked for in photos of at most this size: far away they are small."""
SAME_DEG = 3.0
"""Two photos that lie nearer to each other show the same view."""
LEAST_MARKERS = 2
MAX_ERROR = 0.004
"""Largest root mean square error of the corners, as a share of the photo's longer side: more is no flat sheet."""


@dataclass(frozen=True)
class Seen:
    """From where a photo was taken, by the markers in it."""

    azimuth_deg: float
    """[0, 360)."""
    elevation_deg: float
    distance_mm: float
    """From the middle of the ring."""
    focal_px: float
    markers: int
    error_px: float
    """Root mean square distance of the corners from where they should be."""


def cameras(photos: Sequence[NDArray[np.uint8]]) -> list[Seen | None]:
    """From where each photo was taken; None where fewer than `LEAST_MARKERS` markers are seen.

    One focal length serves all photos of one size: it is the one that explains their corners best.

    Args:
        photos: uint8 [H, W, 3] or grey [H, W], upright.
    """
    sights = {index: sight for index, one in enumerate(photos) if (sight := _sight(one)) is not None}
    groups: dict[int, list[int]] = {}
    for index in sights:
        groups.setdefault(max(photos[index].shape[:2]), []).append(index)
    result: list[Seen | None] = [None] * len(photos)
    for size, group in groups.items():
        focal = _focal([(sights[index], photos[index].shape) for index in group], size)
        for index in group:
            rotation, shift, error = _pose(sights[index], photos[index].shape, focal)
            x, y, z = -rotation.T @ shift
            distance = math.sqrt(x * x + y * y + z * z)
            if error > MAX_ERROR * size or not 0 < y < distance:
                continue
            azimuth, elevation = math.degrees(math.atan2(x, z)) % 360.0, math.degrees(math.asin(y / distance))
            result[index] = Seen(azimuth, elevation, distance, focal, len(sights[index][0]) // 4, error)
    return result


def place(
    folder: str | Path, out_folder: str | Path, settings: DecodeSettings = DecodeSettings()
) -> dict[str, Seen | None]:
    """Copy the photos of a folder that see the sheet into a product's folder, with their azimuths.

    The copies are the photos, byte by byte; ``capture.csv`` has the columns file, azimuth, elevation, distance_mm.

    Args:
        folder: Local, with photos of one product in any order and of any names.
        out_folder: A new or empty folder, whose name is the product's.
        settings: Limits on the photos.

    Returns:
        Name -> from where it was taken; None for photos that do not see the sheet, which are not copied.

    Raises:
        InputError: `sheet.not_seen` when fewer than `MIN_VIEWS` photos see it, `capture.duplicate_azimuth` for two photos
            within `SAME_DEG`, `capture.not_found`, `capture.out_not_empty`, `capture.write_failed`,
            `capture.invalid_product_id`, or an `image.*` code.
    """
    source = Path(folder)
    if not source.is_dir():
        raise InputError("capture.not_found", f"there is no folder {folder}")
    files = sorted(filter(is_photo_file, source.iterdir()))
    full = settings.model_copy(update={"reference_side": FULL_SIDE})
    data = {one.name: read_bytes(str(one), settings.max_bytes) for one in files}
    seen = dict(zip(data, cameras([decode_photo(one, full) for one in data.values()]), strict=True))
    placed = sorted(
        ((one.azimuth_deg, name, one) for name, one in seen.items() if one is not None), key=lambda row: row[0]
    )
    if len(placed) < MIN_VIEWS:
        raise InputError("sheet.not_seen", f"{len(placed)} of {len(files)} photos in {folder} see the sheet's markers")
    for (azimuth, name, _), (after, other, _) in zip(placed, [*placed[1:], placed[0]], strict=True):
        if min((after - azimuth) % 360.0, (azimuth - after) % 360.0) < SAME_DEG:
            raise InputError("capture.duplicate_azimuth", f"{name} and {other} were taken from {azimuth:.0f}°")
    with new_folder(out_folder) as partial:
        for _, name, _ in placed:
            (partial / name).write_bytes(data[name])
        rows = [(name, f"{at:.3f}", f"{one.elevation_deg:.3f}", f"{one.distance_mm:.1f}") for at, name, one in placed]
        write_table(partial, rows, "elevation", "distance_mm")
    return seen


_Sight = tuple[NDArray[np.float64], NDArray[np.float64]]


def _sight(photo: NDArray[np.uint8]) -> _Sight | None:
    """World corners [n, 3] and where they are seen [n, 2]."""
    grey = photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    parameters.minMarkerPerimeterRate = 0.01  # flat on the table they are small
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(DICTIONARY), parameters)
    corners, ids, _ = detector.detectMarkers(grey)
    if ids is None:
        return None
    known = markers()
    pairs = [(int(one), seen[0]) for one, seen in zip(ids.ravel(), corners, strict=True) if int(one) in known]
    if len({one for one, _ in pairs}) < LEAST_MARKERS or len({one for one, _ in pairs}) != len(pairs):
        return None
    flat = np.concatenate([known[one] for one, _ in pairs])
    world = np.stack([flat[:, 0], np.zeros(len(flat)), flat[:, 1]], 1)
    return world, np.concatenate([seen for _, seen in pairs]).astype(np.float64)


def _focal(sights: Sequence[tuple[_Sight, tuple[int, ...]]], size: int) -> float:
    """The focal length [pixels] that leaves the corners of all photos of one size the least error."""
    shares = FOCALS
    for _ in range(3):
        totals = [sum(_pose(sight, shape, share * size)[2] ** 2 for sight, shape in sights) for share in shares]
        best = int(np.argmin(totals))
        shares = np.geomspace(shares[max(0, best - 1)], shares[min(len(shares) - 1, best + 1)], 9)
    return float(shares[len(shares) // 2]) * size


def _pose(
    sight: _Sight, shape: tuple[int, ...], focal: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Rotation [3, 3] and translation [3] of world to camera, and the error of the corners [pixels]."""
    world, seen = sight
    camera = np.array([[focal, 0, shape[1] / 2], [0, focal, shape[0] / 2], [0, 0, 1.0]])
    # OpenCV's planar solver wants the plane at z = 0: x stays, the paper's z becomes its -y.
    plane = np.stack([world[:, 0], -world[:, 2], np.zeros(len(world))], 1)
    to_plane = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    _, turns, shifts, _ = cv2.solvePnPGeneric(plane, seen, camera, None, flags=cv2.SOLVEPNP_IPPE)
    found = []
    for turn, shift in zip(turns, shifts, strict=True):
        better, moved = cv2.solvePnPRefineLM(plane, seen, camera, None, turn, shift)
        shown, _ = cv2.projectPoints(plane, better, moved, camera, None)
        error = float(np.sqrt(np.mean(np.sum((shown[:, 0] - seen) ** 2, axis=1))))
        rotation = np.asarray(cv2.Rodrigues(better)[0], np.float64) @ to_plane
        above = (-rotation.T @ moved.ravel())[1] > 0  # nobody looks through the paper
        found.append((not above, error, rotation, moved.ravel().astype(np.float64)))
    _, error, rotation, shift = min(found, key=lambda one: one[:2])
    return rotation, shift, error
