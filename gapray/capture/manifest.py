"""Manifests: capture sets as Parquet rows, so that a run of any size starts from a file and not from a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from gapray.capture.azimuths import AzimuthsBy
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.errors import InputError

PHOTO = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("azimuth_deg", pa.float64()),
        pa.field("size", pa.int64()),
        pa.field("stamp", pa.string()),
    ]
)
MANIFEST = pa.schema(
    [
        pa.field("product_id", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("source", pa.string()),
        pa.field("photos", pa.list_(PHOTO)),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("azimuths_by", pa.string()),
    ]
)
"""One row a product. A product that was refused while its photos were listed is a row with an error and no photos."""
LATER = frozenset({"azimuths_by"})
"""Columns that manifests of earlier releases lack; they are null there."""
ROWS_PER_GROUP = 4096


def manifest_row(item: CaptureSet | Reject) -> dict[str, object]:
    """One product as a row of `MANIFEST`."""
    if isinstance(item, Reject):
        return {
            "product_id": item.product_id,
            "uri": item.uri,
            "source": "",
            "photos": [],
            "error_code": item.code,
            "error_message": item.message,
            "azimuths_by": None,
        }
    return {
        "product_id": item.product_id,
        "uri": item.uri,
        "source": item.source,
        "photos": [vars(photo) for photo in item.photos],
        "error_code": None,
        "error_message": None,
        "azimuths_by": item.azimuths_by,
    }


def capture_set(row: dict[str, object]) -> CaptureSet:
    """The capture set in a row of `MANIFEST` that holds no error."""
    photos = row["photos"]
    assert isinstance(photos, list)
    by = cast("AzimuthsBy | None", row["azimuths_by"])
    return CaptureSet(str(row["product_id"]), str(row["uri"]), tuple(Photo(**photo) for photo in photos), by)


def write_manifest(items: Iterable[CaptureSet | Reject], path: str) -> int:
    """Write a manifest to a local path, row group by row group.

    Returns:
        The number of products.
    """
    count = 0
    with pq.ParquetWriter(path, MANIFEST) as writer:
        for rows in _batched(items, ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist(rows, schema=MANIFEST))
            count += len(rows)
    return count


def check_manifest(schema: pa.Schema) -> None:
    """Refuse a Parquet file that is no manifest.

    Raises:
        InputError: `capture.invalid_manifest` when a column is missing or of another type.
    """
    for field in MANIFEST:
        index = schema.get_field_index(field.name)
        if index < 0:
            if field.name in LATER:
                continue
            raise InputError("capture.invalid_manifest", f"the manifest has no column {field.name!r}")
        if schema.field(index).type != field.type:
            raise InputError(
                "capture.invalid_manifest", f"column {field.name!r} is {schema.field(index).type}, not {field.type}"
            )


def completed(rows: pa.Table) -> pa.Table:
    """Rows of a manifest that passed `check_manifest`, with all columns of `MANIFEST` in their order."""
    for field in MANIFEST:
        if field.name in LATER and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(MANIFEST.names).cast(MANIFEST)


def _batched(items: Iterable[CaptureSet | Reject], size: int) -> Iterator[list[dict[str, object]]]:
    rows: list[dict[str, object]] = []
    for item in items:
        rows.append(manifest_row(item))
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
