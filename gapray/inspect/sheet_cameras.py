"""Camera poses of photos that show the printed sheet. The sheet and its world are defined in `gapray.inspect.sheet`."""

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
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import read_bytes
from gapray.errors import InputError
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.sheet import DICTIONARY, markers

FOCALS = np.geomspace(0.5, 6.0, 13)
"""Candidate focal lengths as multiples of the photo's longer side, from a phone's wide angle to a telephoto lens."""
FULL_SIDE = 4096
"""Maximum longer side of photos in which markers are detected [pixels]; large, because distant markers are small."""
SAME_DEG = 3.0
"""Two photos whose azimuths differ by less show the same view."""
MIN_MARKERS = 2
MAX_ERROR = 0.004
"""Maximum root mean square error of the corners, as a fraction of the photo's longer side; above it the sheet is not flat."""


@dataclass(frozen=True)
class SheetPose:
    """Camera pose of a photo relative to the sheet, by the markers in it."""

    azimuth_deg: float
    """In [0, 360)."""
    elevation_deg: float
    """In (0, 90)."""
    distance_mm: float
    """Distance from the centre of the ring."""
    focal_px: float
    markers: int
    """Number of markers seen."""
    error_px: float
    """Root mean square reprojection error of the corners."""


def locate_cameras(photos: Sequence[NDArray[np.uint8]]) -> list[SheetPose | None]:
    """Find the camera pose of each photo.

    All photos of one size share the focal length that fits their corners best.

    Args:
        photos: uint8 [H, W, 3] or grey [H, W], upright.

    Returns:
        The pose of each photo; None where fewer than `MIN_MARKERS` markers are seen or the fit is poor.
    """
    detections = {
        index: corners for index, photo in enumerate(photos) if (corners := _detect_corners(photo)) is not None
    }
    groups: dict[int, list[int]] = {}
    for index in detections:
        groups.setdefault(max(photos[index].shape[:2]), []).append(index)
    result: list[SheetPose | None] = [None] * len(photos)
    for size, group in groups.items():
        focal = _focal([(detections[index], photos[index].shape) for index in group], size)
        for index in group:
            rotation, shift, error = _pose(detections[index], photos[index].shape, focal)
            x, y, z = -rotation.T @ shift
            distance = math.sqrt(x * x + y * y + z * z)
            if error > MAX_ERROR * size or not 0 < y < distance:
                continue
            azimuth, elevation = math.degrees(math.atan2(x, z)) % 360.0, math.degrees(math.asin(y / distance))
            result[index] = SheetPose(azimuth, elevation, distance, focal, len(detections[index][0]) // 4, error)
    return result


def place_photos(
    folder: str | Path, out_folder: str | Path, settings: DecodeSettings = DecodeSettings()
) -> dict[str, SheetPose | None]:
    """Copy the photos of a folder that show the sheet into a product's folder, with their azimuths.

    The photos are copied byte by byte; ``capture.csv`` has the columns file, azimuth, elevation, distance_mm.

    Args:
        folder: Local folder with photos of one product, in any order and with any names.
        out_folder: A new or empty folder; its name is the product's id.
        settings: Limits on the photos.

    Returns:
        Name -> camera pose; None for photos that do not show the sheet, which are not copied.

    Raises:
        InputError: `sheet.not_seen` when fewer than `MIN_VIEWS` photos show it, `capture.duplicate_azimuth` for two photos
            within `SAME_DEG`, `capture.not_found`, `capture.out_not_empty`, `capture.write_failed`,
            `capture.invalid_product_id`, or an `image.*` code.
    """
    source = Path(folder)
    if not source.is_dir():
        raise InputError("capture.not_found", f"there is no folder {folder}")
    files = sorted(filter(is_photo_file, source.iterdir()))
    full = settings.model_copy(update={"reference_side": FULL_SIDE})
    data = {file.name: read_bytes(str(file), settings.max_bytes) for file in files}
    poses = dict(zip(data, locate_cameras([decode_photo(photo, full) for photo in data.values()]), strict=True))
    placed = sorted(
        ((pose.azimuth_deg, name, pose) for name, pose in poses.items() if pose is not None), key=lambda row: row[0]
    )
    if len(placed) < MIN_VIEWS:
        raise InputError("sheet.not_seen", f"{len(placed)} of {len(files)} photos in {folder} see the sheet's markers")
    for (azimuth, name, _), (after, other, _) in zip(placed, [*placed[1:], placed[0]], strict=True):
        if min((after - azimuth) % 360.0, (azimuth - after) % 360.0) < SAME_DEG:
            raise InputError("capture.duplicate_azimuth", f"{name} and {other} were taken from {azimuth:.0f}°")
    with new_folder(out_folder) as partial:
        for _, name, _ in placed:
            (partial / name).write_bytes(data[name])
        rows = [
            (name, f"{azimuth:.3f}", f"{pose.elevation_deg:.3f}", f"{pose.distance_mm:.1f}")
            for azimuth, name, pose in placed
        ]
        write_table(partial, rows, "elevation", "distance_mm")
    return poses


_Corners = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Corners of the markers in the world, [n, 3] [mm], and in the photo, [n, 2] [pixels]."""


def _detect_corners(photo: NDArray[np.uint8]) -> _Corners | None:
    """Corners of the sheet's markers in a photo; None where fewer than `MIN_MARKERS` are seen, or one of them twice."""
    grey = photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    parameters.minMarkerPerimeterRate = 0.01  # markers lie flat on the table, and appear small
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(DICTIONARY), parameters)
    corners, ids, _ = detector.detectMarkers(grey)
    if ids is None:
        return None
    known = markers()
    pairs = [(int(marker), seen[0]) for marker, seen in zip(ids.ravel(), corners, strict=True) if int(marker) in known]
    if len({marker for marker, _ in pairs}) < MIN_MARKERS or len({marker for marker, _ in pairs}) != len(pairs):
        return None
    flat = np.concatenate([known[marker] for marker, _ in pairs])
    world = np.stack([flat[:, 0], np.zeros(len(flat)), flat[:, 1]], 1)
    return world, np.concatenate([seen for _, seen in pairs]).astype(np.float64)


def _focal(detections: Sequence[tuple[_Corners, tuple[int, ...]]], size: int) -> float:
    """The focal length [pixels] with the least squared error of the corners of all photos of one size."""
    multiples = FOCALS
    for _ in range(3):
        totals = [
            sum(_pose(corners, shape, multiple * size)[2] ** 2 for corners, shape in detections)
            for multiple in multiples
        ]
        best = int(np.argmin(totals))
        multiples = np.geomspace(multiples[max(0, best - 1)], multiples[min(len(multiples) - 1, best + 1)], 9)
    return float(multiples[len(multiples) // 2]) * size


def _pose(
    corners: _Corners, shape: tuple[int, ...], focal: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Rotation [3, 3] and translation [3] [mm] from world to camera, and the root mean square error of the corners [pixels]."""
    world, seen = corners
    camera = np.array([[focal, 0, shape[1] / 2], [0, focal, shape[0] / 2], [0, 0, 1.0]])
    # OpenCV's planar solver expects the plane at z = 0: x stays, the paper's z becomes -y.
    plane = np.stack([world[:, 0], -world[:, 2], np.zeros(len(world))], 1)
    to_plane = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    _, rotations, translations, _ = cv2.solvePnPGeneric(plane, seen, camera, None, flags=cv2.SOLVEPNP_IPPE)
    candidates = []
    for initial_rotation, initial_translation in zip(rotations, translations, strict=True):
        vector, translation = cv2.solvePnPRefineLM(plane, seen, camera, None, initial_rotation, initial_translation)
        projected, _ = cv2.projectPoints(plane, vector, translation, camera, None)
        error = float(np.sqrt(np.mean(np.sum((projected[:, 0] - seen) ** 2, axis=1))))
        rotation = np.asarray(cv2.Rodrigues(vector)[0], np.float64) @ to_plane
        above = (-rotation.T @ translation.ravel())[1] > 0  # the sheet cannot be seen from below
        candidates.append((not above, error, rotation, translation.ravel().astype(np.float64)))
    _, error, rotation, translation = min(candidates, key=lambda candidate: candidate[:2])
    return rotation, translation, error
