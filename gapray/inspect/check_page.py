"""A photo check as a self-contained HTML page: the photos on a ring seen from above, and an instruction for each problem."""

from __future__ import annotations

import base64
import math
from importlib import resources
from typing import Any

import cv2
import jinja2
import numpy as np

from gapray.capture.decode import decode_photo
from gapray.capture.kinds import described
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import read_bytes
from gapray.errors import InputError
from gapray.inspect.check import Check, CheckedPhoto, side_of
from gapray.resample import at_most

SIDE, RADIUS, THUMB = 640, 245, 84
"""Side of the drawing, radius of the ring, and side of the thumbnails on it [pixels]."""
MARKS = {"good": ("#1a7f37", "✓"), "weak": ("#9a6700", "!"), "again": ("#c1121f", "✕"), "missing": ("#6a6a6a", "+")}
"""State of a photo -> colour and symbol."""
COLUMNS = (
    "photo",
    "named",
    "shows",
    "blur",
    "burnt",
    "black",
    "exposure",
    "white balance",
    "edge",
    "clutter",
    "state",
)


def check_page(check: Check) -> str:
    """A check as an HTML page."""
    text = (resources.files("gapray.inspect") / "check.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(text)
    spots = [
        _spot(photo.azimuth_deg, photo.state, f"{photo.azimuth_deg:.0f}°", photo.name, _thumb(photo))
        for photo in check.photos
    ]
    spots += [_spot(angle, "missing", f"{angle:.0f}°", side_of(angle), None) for angle in check.missing_deg]
    return template.render(
        check=check,
        verdict="good" if not check.findings else ("usable" if check.good else "some photos have to be taken again"),
        spots=spots,
        side=SIDE,
        radius=RADIUS,
        thumb=THUMB,
        todo=sorted(check.findings, key=lambda item: not item.serious),
        ignored=described(check.ignored) if check.ignored else "",
        columns=COLUMNS,
        rows=[row_of(photo) for photo in check.photos],
    )


def row_of(photo: CheckedPhoto) -> list[str]:
    """The table row of a photo, in the order of `COLUMNS`."""
    seen = "" if photo.seen_deg is None else f"{photo.seen_deg % 360:.0f}°"
    quality = photo.quality
    if quality is None:
        return [photo.name, f"{photo.azimuth_deg:.0f}°", seen, *[""] * 7, photo.state]
    return [
        photo.name,
        f"{photo.azimuth_deg:.0f}°",
        seen,
        f"{quality.blur:.2f}",
        f"{quality.burnt:.1%}",
        f"{quality.black:.1%}",
        f"{quality.exposure_ev:+.2f}",
        f"{quality.white_balance:.0%}",
        f"{quality.cut:.0%}",
        f"{quality.clutter:.0%}",
        photo.state,
    ]


def _spot(azimuth: float, state: str, label: str, title: str, thumb: str | None) -> dict[str, Any]:
    angle = math.radians(azimuth)
    colour, mark = MARKS[state]
    return {
        "x": round(SIDE / 2 + RADIUS * math.sin(angle), 1),
        # The front is at the bottom, where the reader is.
        "y": round(SIDE / 2 + RADIUS * math.cos(angle), 1),
        "state": state,
        "colour": colour,
        "mark": mark,
        "label": label,
        "title": title,
        "thumb": thumb,
    }


def _thumb(photo: CheckedPhoto) -> str | None:
    """A thumbnail as a data URI; None for a photo that cannot be read."""
    limits = DecodeSettings(reference_side=256)
    try:
        pixels = decode_photo(read_bytes(photo.uri, limits.max_bytes), limits)
    except InputError:
        return None
    small = at_most(pixels, 2 * THUMB)
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(bytes(data)).decode()
