"""Manifests: capture sets as Parquet rows, so that a run of any size can read them from a file instead of a list in memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from gapray.capture.azimuths import AzimuthsBy
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.capture.kinds import counted
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
"""Columns that a run reads, one row per product. A product that was refused during listing is a row with an error and no photos."""
ADDED_COLUMNS = frozenset({"azimuths_by"})
"""Columns missing in manifests of earlier releases; they are read as null."""
NULLABLE_COLUMNS = frozenset({"error_code", "error_message", *ADDED_COLUMNS})
"""Columns in which all values may be null; pandas and Polars then write them with the type null."""
WRITTEN_MANIFEST = pa.schema([*MANIFEST, pa.field("ignored", pa.list_(pa.string()))])
"""Columns that are written: those of `MANIFEST`, and the names of unused files and folders in the product's folder."""
IGNORED = b"gapray.ignored"
"""Key in the file's metadata of the counts of unused files in the whole source: kind -> count, as JSON."""
ROWS_PER_GROUP = 4096


def manifest_row(item: CaptureSet | Reject) -> dict[str, object]:
    """A product as a row of `WRITTEN_MANIFEST`."""
    if isinstance(item, Reject):
        return {
            "product_id": item.product_id,
            "uri": item.uri,
            "source": "",
            "photos": [],
            "error_code": item.code,
            "error_message": item.message,
            "azimuths_by": None,
            "ignored": list(item.ignored),
        }
    return {
        "product_id": item.product_id,
        "uri": item.uri,
        "source": item.source,
        "photos": [vars(photo) for photo in item.photos],
        "error_code": None,
        "error_message": None,
        "azimuths_by": item.azimuths_by,
        "ignored": list(item.ignored),
    }


def capture_set(row: dict[str, object]) -> CaptureSet:
    """The capture set in a row of `MANIFEST` without an error."""
    photos = row["photos"]
    assert isinstance(photos, list)
    by = cast("AzimuthsBy | None", row["azimuths_by"])
    ignored = row.get("ignored") or ()
    assert isinstance(ignored, list | tuple)
    parsed = tuple(Photo(**photo) for photo in photos)
    return CaptureSet(str(row["product_id"]), str(row["uri"]), parsed, by, tuple(map(str, ignored)))


def write_manifest(items: Iterable[CaptureSet | Reject], path: str, beside: Collection[str] = ()) -> int:
    """Write a manifest to a local path, row group by row group.

    Args:
        items: The products.
        path: The file to write.
        beside: Names of unused files and folders next to the products; may grow while `items` is iterated over.

    Returns:
        The number of products.
    """
    count = 0
    ignored: Counter[str] = Counter()
    with pq.ParquetWriter(path, WRITTEN_MANIFEST) as writer:
        for batch in _batches(items, ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist([manifest_row(item) for item in batch], schema=WRITTEN_MANIFEST))
            count += len(batch)
            for item in batch:
                ignored.update(counted(item.ignored))
        ignored.update(counted(beside))
        writer.add_key_value_metadata({IGNORED: json.dumps(dict(ignored.most_common()))})
    return count


def ignored_of(manifest: str) -> dict[str, int]:
    """Counts of unused files and folders in the source of a manifest, as from `gapray.capture.kinds.counted`.

    Args:
        manifest: A local Parquet file written by `write_manifest` or with the same columns.

    Returns:
        Kind -> count; empty when the file does not state it.
    """
    return dict(json.loads((pq.read_metadata(manifest).metadata or {}).get(IGNORED, b"{}")))


def check_manifest(schema: pa.Schema) -> None:
    """Refuse a Parquet file that is not a manifest.

    Types that can hold the same values are accepted: pandas and Polars write `large_string`, `string_view`, dictionaries of
    strings and `large_list`.

    Raises:
        InputError: `capture.invalid_manifest` when a column is missing or of another type.
    """
    for field in MANIFEST:
        index = schema.get_field_index(field.name)
        if index < 0:
            if field.name in ADDED_COLUMNS:
                continue
            raise InputError("capture.invalid_manifest", f"the manifest has no column {field.name!r}")
        if not _is_compatible(schema.field(index).type, field.type, field.name in NULLABLE_COLUMNS):
            raise InputError(
                "capture.invalid_manifest", f"column {field.name!r} is {schema.field(index).type}, not {field.type}"
            )


def with_all_columns(rows: pa.Table) -> pa.Table:
    """The rows of a manifest that passed `check_manifest`, with all columns of `MANIFEST` in their order.

    Raises:
        InputError: `capture.invalid_manifest` when a number does not fit.
    """
    for field in MANIFEST:
        if field.name in ADDED_COLUMNS and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return cast_to_manifest(rows.select(MANIFEST.names))


def cast_to_manifest(rows: pa.Table) -> pa.Table:
    """The columns of a manifest that passed `check_manifest`, cast to the types of `MANIFEST`.

    Raises:
        InputError: `capture.invalid_manifest` when a number does not fit.
    """
    try:
        return rows.cast(pa.schema([MANIFEST.field(name) for name in rows.column_names]))
    except pa.ArrowInvalid as error:
        raise InputError("capture.invalid_manifest", str(error)) from error


def _is_compatible(actual: pa.DataType, expected: pa.DataType, may_be_null: bool = False) -> bool:
    """Whether values of the type `actual` can be cast to the type `expected`, whatever their layout in memory."""
    kinds = pa.types
    if kinds.is_dictionary(actual):
        actual = actual.value_type
    if kinds.is_string(expected):
        strings = kinds.is_string(actual) or kinds.is_large_string(actual) or kinds.is_string_view(actual)
        return strings or (may_be_null and kinds.is_null(actual))
    if kinds.is_list(expected):
        lists = kinds.is_list(actual) or kinds.is_large_list(actual) or kinds.is_fixed_size_list(actual)
        return lists and _is_compatible(actual.value_type, expected.value_type)
    if kinds.is_struct(expected):
        return (
            kinds.is_struct(actual)
            and [field.name for field in actual] == [field.name for field in expected]
            and all(_is_compatible(own.type, field.type) for own, field in zip(actual, expected, strict=True))
        )
    number = kinds.is_integer(actual) or (kinds.is_floating(expected) and kinds.is_floating(actual))
    return bool(number)


def _batches(items: Iterable[CaptureSet | Reject], size: int) -> Iterator[list[CaptureSet | Reject]]:
    rows: list[CaptureSet | Reject] = []
    for item in items:
        rows.append(item)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
