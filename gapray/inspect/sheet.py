"""The printed sheet that goes under the product: angle marks, a scale bar and ArUco markers.

World coordinates are millimetres from the centre of the ring, +X right and +Z down on the printed paper, +Y up. The mark 0° is at
+Z, where the product's front and the camera start; azimuths grow counter-clockwise on the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapray.errors import ConfigError
from gapray.outputs import atomic_write

PAGE_MM = {"a4": (210.0, 297.0), "letter": (215.9, 279.4)}
DPI = 600
DICTIONARY = cv2.aruco.DICT_4X4_50
CELLS = 6
"""Cells along a marker's side: 4 x 4 bits and its black border."""
RING_MM = 78.0
"""Distance of the markers' centres from the centre of the ring."""
LARGE_MM, SMALL_MM = 20.0, 14.0
"""Side of the markers at 0, 45, … degrees and of those halfway between."""
STAND_MM = 60.0
"""Radius of the circle in which the product stands."""
BAR_MM = 100.0
"""Length of the scale bar."""


def markers() -> dict[int, NDArray[np.float64]]:
    """The markers of the sheet.

    Returns:
        Id -> corners [4, 2] in millimetres, x to the right and z down the paper, in OpenCV's order.
    """
    corners = {}
    for index in range(16):
        angle, half = math.radians(22.5 * index), (SMALL_MM if index % 2 else LARGE_MM) / 2
        outward = np.array([math.sin(angle), math.cos(angle)])
        right = np.array([math.cos(angle), -math.sin(angle)])
        middle = RING_MM * outward
        # The top of each marker points to the centre, so that it is upright for a camera on its side.
        corners[index] = np.stack(
            [middle + half * (a * right + b * outward) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        )
    return corners


def write_sheet(path: str | Path, page: str = "a4") -> Path:
    """Write the sheet as a file that is to be printed at 100 %.

    Args:
        path: A path that ends in ``.pdf`` (1 bit, 600 dpi) or ``.svg``.
        page: A key of `PAGE_MM`.

    Returns:
        The path.

    Raises:
        ConfigError: `config.invalid` for another ending or page.
        FileError: `file.write_failed`.
    """
    target = Path(path)
    if page not in PAGE_MM or target.suffix.lower() not in (".pdf", ".svg"):
        raise ConfigError("config.invalid", f"a sheet is a .pdf or .svg of {' or '.join(PAGE_MM)}, not {path}, {page}")
    with atomic_write(target) as partial:
        if target.suffix.lower() == ".svg":
            partial.write_text(_svg(page), encoding="utf-8")
        else:
            _raster(page).save(partial, "PDF", resolution=DPI)
    return target


@dataclass(frozen=True)
class _Shape:
    """A shape on the page; all lengths in millimetres."""

    kind: str
    """`line`, `circle`, `square` (filled, given by four corners) or `text`."""
    points: tuple[tuple[float, float], ...]
    """x to the right and y down, from the upper left corner of the page."""
    size: float = 0.3
    """Width of a line, radius of a circle, or height of a text."""
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
