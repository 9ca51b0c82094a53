"""Tables of azimuths beside photos: `capture.csv`, `capture.json` and `views.json`."""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import Any, Literal

from gapray.capture.storage import Entry, read_bytes
from gapray.capture.tables import matched, number, plain_title, rows_of, texts
from gapray.errors import InputError

TABLE_NAMES = ("capture.csv", "capture.json", "views.json")
"""Names of tables, compared case-insensitively; the first that exists is read."""
COLUMNS = {"file": ("filename",), "azimuth": ("azimuth_deg", "azimuth_degrees")}
DIRECTIONS = {
    **dict.fromkeys(("cw", "clockwise", "right"), "cw"),
    **dict.fromkeys(("ccw", "acw", "counterclockwise", "anticlockwise", "left"), "ccw"),
}
"""Spelling of a direction in a table, normalised by `plain_title` -> direction as in `AzimuthOptions`."""
DIRECTION_TITLES = frozenset({"direction", "turndirection", "rotationdirection", "spindirection"})
PRODUCT_TITLES = frozenset(
    {"product", "productid", "productname", "sku", "gtin", "ean", "upc", "asin", "article", "articlenumber", "variant"}
)
"""Titles of columns with product ids, normalised by `plain_title`: a table must not cover more than one product."""
MAX_TABLE_BYTES = 2**20
MAX_TABLE_CELLS = 200_000
"""Maximum number of cells in the table of one product."""


def read_table(entry: Entry, photos: set[str], direction: Literal["ccw", "cw"] = "ccw") -> dict[str, float]:
    """Read the azimuths in `capture.csv` (columns file, azimuth) or `capture.json` / `views.json`.

    JSON is a list of objects, such a list under ``frames`` or ``views``, or a plain mapping of file to azimuth. The
    azimuth's field may be ``azimuth`` or ``azimuth_deg``; degrees are taken modulo 360. CSV dialects, encodings and spellings
    of names are handled by `gapray.capture.tables`. A table that states another direction or more than one product is refused;
    other columns are ignored.

    Args:
        entry: The table.
        photos: Names of the photos next to it.
        direction: Direction in which its azimuths grow.

    Returns:
        Name as in `photos` -> azimuth in [0, 360) degrees, sorted by azimuth.

    Raises:
        InputError: `capture.invalid_table`, `capture.table_too_large`, or `capture.unsafe_path` when a row names a file elsewhere.
    """
    if entry.size > MAX_TABLE_BYTES:
        message = f"{entry.name} has {entry.size} bytes; at most {MAX_TABLE_BYTES} are read"
        raise InputError("capture.table_too_large", message)
    try:
        data = read_bytes(entry.uri, MAX_TABLE_BYTES)
    except InputError as error:
        raise InputError("capture.invalid_table", f"{entry.name}: {error.message}") from error
    first_error: InputError | None = None
    for text in texts(data):
        try:
            return _azimuths(entry.name, text, photos, direction)
        except InputError as error:
            first_error = first_error or error
    assert first_error is not None  # `texts` yields at least one text
    raise first_error


def _azimuths(table: str, text: str, photos: set[str], direction: str) -> dict[str, float]:
    try:
        if table.lower().endswith(".csv"):
            rows = rows_of(text, COLUMNS, also=DIRECTION_TITLES | PRODUCT_TITLES, most_cells=MAX_TABLE_CELLS)
        else:
            rows = _json_rows(json.loads(text, object_pairs_hook=_unique_members))
        _refuse_contradictions(rows, direction)
        azimuths: dict[str, float] = {}
        for row in rows:
            name = str(row["file"]).strip()
            azimuth = number(row["azimuth"] if "azimuth_deg" not in row else row["azimuth_deg"])
            if not abs(azimuth) < 1e6:
                raise ValueError(f"the azimuth of {name} is {azimuth}")
            if row.get("azimuth") not in (None, "") and number(row["azimuth"]) != azimuth:
                raise ValueError(f"{name} has two azimuths")
            if "/" in name or "\\" in name or name.startswith(".."):
                raise InputError("capture.unsafe_path", f"{table} names {name!r}, which is not a file beside it")
            photo = matched(name, photos)
            if photo is None:
                raise ValueError(f"there is no photo {name!r}")
            if photo in azimuths:
                raise ValueError(f"{name} is listed twice")
            azimuths[photo] = azimuth % 360.0
        if not azimuths:
            raise ValueError("the table has no rows")
    except (csv.Error, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError("capture.invalid_table", f"{table}: {type(error).__name__}: {error}") from error
    return dict(sorted(azimuths.items(), key=lambda item: item[1]))


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: When it has a name twice, of which Python's parser would keep the last.
    """
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} is listed twice")
    return members


def _refuse_contradictions(rows: list[dict[str, str]], direction: str) -> None:
    """Refuse a table whose other columns contradict how it is read.

    Raises:
        ValueError: When they state another direction, or more than one product.
    """
    for title in sorted({key for row in rows for key in row}):
        values = sorted({str(row[title]) for row in rows if row.get(title) not in (None, "")})
        if plain_title(title) in DIRECTION_TITLES:
            other = [value for value in values if DIRECTIONS.get(plain_title(value)) != direction]
            if other:
                raise ValueError(
                    f"the column {title} says {other[0]!r}, and the azimuths are read as {direction}: pass --direction cw "
                    "(in a request: direction=cw) if they grow clockwise, and take the column out if it means something else"
                )
        elif plain_title(title) in PRODUCT_TITLES and len(values) > 1:
            raise ValueError(f"the column {title} names more than one product: {', '.join(values[:5])}")


def _json_rows(data: object) -> list[dict[str, str]]:
    if isinstance(data, dict):
        rows = data.get("frames", data.get("views"))
        common = {str(key): value for key, value in data.items() if isinstance(value, str)}
        if rows is None:
            return [{"file": name, "azimuth": azimuth} for name, azimuth in data.items()]
        data = [{**common, **row} for row in rows]
    if not isinstance(data, list):
        raise ValueError("neither a list nor a mapping")
    return [{str(key).strip().lower(): value for key, value in row.items()} for row in data]
