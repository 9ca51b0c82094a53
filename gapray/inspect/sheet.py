"""The paper under the product: marks, a scale bar and ArUco markers; and the camera of each photo that sees them.

World of the sheet: millimetres about the middle of the ring, +X right and +Z down on the paper as it is printed, +Y up. The
mark 0° lies at +Z, where the front of the product and the camera go first; azimuths grow counter-clockwise on the paper.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapray.capture.azimuths import MIN_VIEWS
from gapray.capture.decode import decode_photo
from gapray.capture.discover import PHOTO_ENDINGS
from gapray.capture.storage import read_bytes
from gapray.config import DecodeSettings
from gapray.errors import ConfigError, InputError
from gapray.inspect.folder import new_folder

PAGE_MM = {"a4": (210.0, 297.0), "letter": (215.9, 279.4)}
DPI = 600
DICTIONARY = cv2.aruco.DICT_4X4_50
CELLS = 6
"""Of a marker: 4 x 4 bits and its black border."""
RING_MM = 78.0
"""From the middle of the ring to the middles of the markers."""
LARGE_MM, SMALL_MM = 20.0, 14.0
"""Markers at 0, 45, … and half way between."""
STAND_MM = 60.0
"""Radius of the circle that the product stands in."""
BAR_MM = 100.0
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


def markers() -> dict[int, NDArray[np.float64]]:
    """Id -> corners [4, 2] in millimetres, x right and z down the paper, in the order that OpenCV detects them."""
    found = {}
    for index in range(16):
        angle, half = math.radians(22.5 * index), (SMALL_MM if index % 2 else LARGE_MM) / 2
        outward = np.array([math.sin(angle), math.cos(angle)])
        right = np.array([math.cos(angle), -math.sin(angle)])
        middle = RING_MM * outward
        # The marker's own up points to the middle, so that it stands upright for a camera before it.
        found[index] = np.stack(
            [middle + half * (a * right + b * outward) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        )
    return found


def write_sheet(path: str | Path, page: str = "a4") -> Path:
    """Draw the sheet to be printed at 100 %.

    Args:
        path: Ends in ``.pdf`` (one bit a dot, 600 dpi) or ``.svg``.
        page: A key of `PAGE_MM`.

    Raises:
        ConfigError: `config.invalid` for another ending or page.
    """
    target = Path(path)
    if page not in PAGE_MM or target.suffix.lower() not in (".pdf", ".svg"):
        raise ConfigError("config.invalid", f"a sheet is a .pdf or .svg of {' or '.join(PAGE_MM)}, not {path}, {page}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix.lower() == ".svg":
        target.write_text(_svg(page), encoding="utf-8")
    else:
        _raster(page).save(target, "PDF", resolution=DPI)
    return target


def cameras(photos: Sequence[NDArray[np.uint8]]) -> list[Seen | None]:
    """From where each photo was taken; None where fewer than `LEAST_MARKERS` markers are seen.

    One focal length serves all photos of one size: it is the one that explains their corners best.

    Args:
        photos: uint8 [H, W, 3] or grey [H, W], upright.
    """
    sights = [_sight(one) for one in photos]
    sizes = [max(one.shape[:2]) for one in photos]
    result: list[Seen | None] = [None] * len(photos)
    for size in set(sizes):
        group = [index for index, sight in enumerate(sights) if sight is not None and sizes[index] == size]
        if not group:
            continue

        def total(share: float, group: list[int] = group, size: int = size) -> float:
            return sum(_pose(sights[index], photos[index].shape, share * size)[2] ** 2 for index in group)

        shares = FOCALS
        for _ in range(3):
            best = int(np.argmin([total(float(share)) for share in shares]))
            shares = np.geomspace(shares[max(0, best - 1)], shares[min(len(shares) - 1, best + 1)], 9)
        focal = float(shares[len(shares) // 2]) * size
        for index in group:
            rotation, place, error = _pose(sights[index], photos[index].shape, focal)
            x, y, z = -rotation.T @ place
            distance = math.sqrt(x * x + y * y + z * z)
            if error > MAX_ERROR * size or not 0 < y < distance:
                continue
            azimuth, elevation = math.degrees(math.atan2(x, z)) % 360.0, math.degrees(math.asin(y / distance))
            count = len(sights[index][0]) // 4  # type: ignore[index]
            result[index] = Seen(azimuth, elevation, distance, focal, count, error)
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
    files = sorted(one for one in source.iterdir() if one.suffix.lower() in PHOTO_ENDINGS and one.is_file())
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
        with (partial / "capture.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [
                (name, f"{at:.3f}", f"{one.elevation_deg:.3f}", f"{one.distance_mm:.1f}") for at, name, one in placed
            ]
            csv.writer(file, lineterminator="\n").writerows([("file", "azimuth", "elevation", "distance_mm"), *rows])
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


def _pose(
    sight: _Sight | None, shape: tuple[int, ...], focal: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Rotation [3, 3] and translation [3] of world to camera, and the error of the corners [pixels]."""
    assert sight is not None
    world, seen = sight
    camera = np.array([[focal, 0, shape[1] / 2], [0, focal, shape[0] / 2], [0, 0, 1.0]])
    # OpenCV's planar solver wants the plane at z = 0: x stays, the paper's z becomes its -y.
    plane = np.stack([world[:, 0], -world[:, 2], np.zeros(len(world))], 1)
    to_plane = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    _, turns, places, errors = cv2.solvePnPGeneric(plane, seen, camera, None, flags=cv2.SOLVEPNP_IPPE)
    found = []
    for turn, place, _ in zip(turns, places, np.ravel(errors), strict=True):
        better, moved = cv2.solvePnPRefineLM(plane, seen, camera, None, turn, place)
        shown, _ = cv2.projectPoints(plane, better, moved, camera, None)
        error = float(np.sqrt(np.mean(np.sum((shown[:, 0] - seen) ** 2, axis=1))))
        rotation = np.asarray(cv2.Rodrigues(better)[0], np.float64) @ to_plane
        above = (-rotation.T @ moved.ravel())[1] > 0  # nobody looks through the paper
        found.append((not above, error, rotation, moved.ravel().astype(np.float64)))
    _, error, rotation, place = min(found, key=lambda one: one[:2])
    return rotation, place, error


@dataclass(frozen=True)
class _Shape:
    """In millimetres of the page."""

    kind: str
    """`line`, `circle`, `square` (filled; four corners) or `text`."""
    points: tuple[tuple[float, float], ...]
    size: float = 0.3
    """Width of a line, radius of a circle, height of a text."""
    text: str = ""


def _shapes(page: str) -> Iterator[_Shape]:
    width, height = PAGE_MM[page]
    middle = (width / 2, 4.0 + RING_MM + LARGE_MM / 2 + 8)

    def at(radius: float, degrees: float) -> tuple[float, float]:
        angle = math.radians(degrees)
        return middle[0] + radius * math.sin(angle), middle[1] + radius * math.cos(angle)

    yield _Shape("circle", (middle,), STAND_MM)
    for degrees in range(0, 360, 15):
        long = degrees % 45 == 0
        yield _Shape("line", (at(STAND_MM - (8 if long else 4), degrees), at(STAND_MM, degrees)), 0.8 if long else 0.3)
        if long:
            yield _Shape("text", (at(STAND_MM - 13, degrees),), 4.5, f"{degrees}°")
    yield _Shape("line", (at(0, 0), at(20, 0)), 0.3)
    yield _Shape("line", (at(32, 0), at(STAND_MM - 18, 0)), 0.3)
    yield _Shape("line", (at(6, 90), at(6, 270)), 0.3)
    yield _Shape("text", (at(26, 0),), 5, "FRONT")
    bits = {
        index: cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(DICTIONARY), index, CELLS)
        for index in range(16)
    }
    for index, corners in markers().items():
        origin, across, down = corners[0], (corners[1] - corners[0]) / CELLS, (corners[3] - corners[0]) / CELLS
        for row, column in zip(*np.nonzero(bits[index] == 0), strict=True):
            start = origin + column * across + row * down
            cell = (start, start + across, start + across + down, start + down)
            yield _Shape("square", tuple((middle[0] + x, middle[1] + z) for x, z in cell))
    left, foot = width / 2 - BAR_MM / 2, middle[1] + RING_MM + LARGE_MM / 2 + 14
    yield _Shape("line", ((left, foot), (left + BAR_MM, foot)), 0.6)
    for step in range(11):
        yield _Shape("line", ((left + 10 * step, foot), (left + 10 * step, foot - (4 if step % 5 == 0 else 2))), 0.4)
    yield _Shape("text", ((width / 2, foot + 6),), 4.5, "100 mm: measure it, print at 100 %")
    lines = (
        "1  Tape the sheet to the turntable, its middle over the table's.",
        "2  Stand the product inside the circle, its front towards FRONT.",
        "3  Photograph with the camera still; turn the table clockwise to 0°, 45°, 90° … 315°.",
        "4  Keep at least four markers in the picture: angles, camera and scale come from them.",
    )
    for number, line in enumerate(lines):
        yield _Shape("text", ((width / 2, min(foot + 18 + 8 * number, height - 8)),), 4.0, line)


def _svg(page: str) -> str:
    width, height = PAGE_MM[page]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}mm" height="{height}mm" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for shape in _shapes(page):
        (x, y), *rest = shape.points
        if shape.kind == "circle":
            parts.append(
                f'<circle cx="{x:g}" cy="{y:g}" r="{shape.size:g}" fill="none" stroke="#000" stroke-width=".4"/>'
            )
        elif shape.kind == "line":
            (to_x, to_y) = rest[0]
            parts.append(
                f'<path d="M{x:.4f} {y:.4f}L{to_x:.4f} {to_y:.4f}" stroke="#000" stroke-width="{shape.size:g}"/>'
            )
        elif shape.kind == "square":
            corners = " ".join(f"{a:.4f},{b:.4f}" for a, b in shape.points)
            # A hairline stroke closes the seams between cells.
            parts.append(f'<polygon points="{corners}" stroke="#000" stroke-width=".02"/>')
        else:
            parts.append(
                f'<text x="{x:.3f}" y="{y:.3f}" font-size="{shape.size:g}" font-family="sans-serif" text-anchor="middle" '
                f'dominant-baseline="central">{shape.text}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])


def _raster(page: str) -> Image.Image:
    scale = DPI / 25.4
    width, height = (round(length * scale) for length in PAGE_MM[page])
    image = Image.new("1", (width, height), 1)
    draw = ImageDraw.Draw(image)
    for shape in _shapes(page):
        points = [(x * scale, y * scale) for x, y in shape.points]
        if shape.kind == "circle":
            draw.circle(points[0], shape.size * scale, outline=0, width=round(0.4 * scale))
        elif shape.kind == "line":
            draw.line(points, fill=0, width=max(1, round(shape.size * scale)))
        elif shape.kind == "square":
            draw.polygon(points, fill=0)
        else:
            font = ImageFont.load_default(shape.size * scale)
            draw.text(points[0], shape.text, fill=0, font=font, anchor="mm")
    return image
