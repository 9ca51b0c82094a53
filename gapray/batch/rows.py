"""Schemas of the rows between packaging stages, and the handling of errors per row.

A row is a product. A stage that fails on a product sets `error_code` and `error_message` in its row; later stages skip such
rows, and the last one turns them into rejects. An error in one product never affects another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gapray.capture.manifest import MANIFEST
from gapray.catalog.schemas import PRODUCTS, REJECTS, VIEWS
from gapray.errors import as_gapray_error

Row = dict[str, Any]
ERROR_FIELDS = [pa.field("error_code", pa.string()), pa.field("error_message", pa.string())]
"""Error columns of a row, both null unless a stage has failed on it."""

_BLOB = pa.large_binary()
VIEW = pa.struct(
    [
        ("name", pa.string()),
        ("uri", pa.string()),
        ("azimuth_deg", pa.float64()),
        ("sha256", pa.string()),
        ("reference", _BLOB),  # JPEG, from decode on
        ("pixels", _BLOB),  # uint8 [height, width, 3], from decode to mask
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask", _BLOB),  # PNG, from mask on
        ("work", _BLOB),  # uint8 [work_height, work_width, 4], from mask to describe
        ("work_height", pa.int32()),
        ("work_width", pa.int32()),
        ("nearness", _BLOB),  # float16 [work_height, work_width], from describe to encode
        ("features", pa.list_(pa.float32())),  # [512], from describe to encode
    ]
)
"""One view between stages. Uncompressed pixels are dropped as soon as they have been used."""

WARNINGS = PRODUCTS.field("warnings").type
PLANNED = pa.schema(
    [
        *MANIFEST,
        pa.field("known_key", pa.string()),
        pa.field("depth_scale", pa.float64()),
        pa.field("depth_shift", pa.float64()),
        pa.field("known_warnings", WARNINGS),
        pa.field("former_uri", pa.string()),
        pa.field("former_key", pa.string()),
        pa.field("former_settings", pa.string()),
    ]
)
"""Input of the pipeline: unfinished manifest rows, with what the catalogue has of each product.

`known_…`, `depth_scale` and `depth_shift` belong to a package made with the same settings. `former_…` belong to a package of
photos from another location, with any settings; they are reset once the photos are read if those are the same."""

IN_FLIGHT = pa.schema(
    [
        *(pa.field(field.name, field.type) for field in PLANNED),
        pa.field("key", pa.string()),
        pa.field("views", pa.list_(VIEW)),
    ]
)
"""Rows from decode to encode."""

FINISHED = pa.schema(
    [
        pa.field("product_id", pa.string()),
        pa.field("product", pa.struct(list(PRODUCTS))),
        pa.field("views", pa.list_(pa.struct(list(VIEWS)))),
        pa.field("reject", pa.struct(list(REJECTS))),
    ]
)
"""Catalogue rows to be committed: a product and its views, or a reject."""

RECEIPT = pa.schema(
    [
        pa.field("product_id", pa.string()),
        pa.field("outcome", pa.string()),
        pa.field("views", pa.int32()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
        pa.field("warnings", WARNINGS),
    ]
)
"""Receipt of a committed product; `outcome` is packaged, unchanged or rejected."""


def is_live(row: Row) -> bool:
    """Return whether a product still needs work: it has no error, and the catalogue lacks a package with its key."""
    return row["error_code"] is None and (row["known_key"] is None or row["key"] != row["known_key"])


def process_live_rows(rows: Sequence[Row], work: Callable[[list[Row]], None]) -> None:
    """Process all live rows in one batch; if that fails, one by one, so that only the faulty row fails.

    Args:
        rows: Rows of a table, modified in place.
        work: Fills in the rows that it is given, and modifies none until it can no longer fail.
    """
    live = [row for row in rows if is_live(row)]
    if not live:
        return
    try:
        work(live)
    except Exception:
        for row in live:
            try:
                work([row])
            except Exception as error:
                fail(row, error)


def fail(row: Row, error: Exception) -> None:
    """Set the error of a row and drop its views."""
    row.update(error_columns(error), views=[])


def error_columns(error: Exception) -> Row:
    """Return the error columns of a row for an exception."""
    known = as_gapray_error(error)
    return {"error_code": known.code, "error_message": known.message}


def pixels_of(view: Row) -> NDArray[np.uint8]:
    """Return a view's pixels, uint8 [H, W, 3], sRGB, read-only."""
    return np.frombuffer(view["pixels"], np.uint8).reshape(view["height"], view["width"], 3)


def work_of(view: Row) -> NDArray[np.uint8]:
    """Return a view's work image (photo and mask, shrunk), uint8 [h, w, 4], read-only."""
    return np.frombuffer(view["work"], np.uint8).reshape(view["work_height"], view["work_width"], 4)


def nearness_of(view: Row) -> NDArray[np.float32]:
    """Return the depth model's relative nearness of a view, float32 [h, w], larger = nearer."""
    half = np.frombuffer(view["nearness"], np.float16).reshape(view["work_height"], view["work_width"])
    return half.astype(np.float32)
