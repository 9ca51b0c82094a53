"""Rows in flight: what a product carries from stage to stage, and how an error in one never harms another.

A row is a product. A stage that fails on a product writes `error_code` and `error_message` into its row; every later stage
leaves such rows alone, and the last one turns them into rejects.
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
"""Of a row in flight, both null while all is well."""

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
"""One view in flight. Pixels are dropped as soon as they are used; what stays is compressed."""

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
"""What the pipeline reads: manifest rows that are not finished, with what the catalogue holds of each.

`known_…` and depth's range are of a package by the same settings. `former_…` are of a package from elsewhere, whatever its
settings; once the photos are read, only where it was made of others than these."""

IN_FLIGHT = pa.schema(
    [
        *(pa.field(field.name, field.type) for field in PLANNED),
        pa.field("key", pa.string()),
        pa.field("views", pa.list_(VIEW)),
    ]
)

FINISHED = pa.schema(
    [
        pa.field("product_id", pa.string()),
        pa.field("product", pa.struct(list(PRODUCTS))),
        pa.field("views", pa.list_(pa.struct(list(VIEWS)))),
        pa.field("reject", pa.struct(list(REJECTS))),
    ]
)
"""Catalogue rows on their way into a part: a product and its views, or a reject."""

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
"""What the driver hears of a product once it is in the catalogue; `outcome` is packaged, unchanged or rejected."""


def is_live(row: Row) -> bool:
    """True while a product still needs work: no error, and not already in the catalogue under the same key."""
    return row["error_code"] is None and (row["known_key"] is None or row["key"] != row["known_key"])


def on_live_rows(rows: Sequence[Row], work: Callable[[list[Row]], None]) -> None:
    """Run `work` on the rows that need it, all at once; where that fails, one by one, so that only the bad row fails.

    Args:
        rows: Changed in place.
        work: Fills its rows in, and changes none before it can no longer fail.
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
    """Write an error into a row and drop what it carried."""
    row.update(error_columns(error), views=[])


def error_columns(error: Exception) -> Row:
    """What a row says of the error that it met, for the stages after."""
    known = as_gapray_error(error)
    return {"error_code": known.code, "error_message": known.message}


def pixels_of(view: Row) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], read-only."""
    return np.frombuffer(view["pixels"], np.uint8).reshape(view["height"], view["width"], 3)


def work_of(view: Row) -> NDArray[np.uint8]:
    """uint8 [h, w, 4], read-only."""
    return np.frombuffer(view["work"], np.uint8).reshape(view["work_height"], view["work_width"], 4)


def nearness_of(view: Row) -> NDArray[np.float32]:
    """float32 [h, w]."""
    half = np.frombuffer(view["nearness"], np.float16).reshape(view["work_height"], view["work_width"])
    return half.astype(np.float32)
