"""Manifests: capture sets as Parquet rows, so that a run of any size starts from a file and not from a list."""

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
"""One row a product. A product that was refused while its photos were listed is a row with an error and no photos."""
LATER = frozenset({"azimuths_by"})
"""Columns that manifests of earlier releases lack; they are null there."""
OFTEN_NULL = frozenset({"error_code", "error_message", *LATER})
"""Columns in which all values may be null, which pandas and Polars then write without another type."""
LISTED = pa.schema([*MANIFEST, pa.field("ignored", pa.list_(pa.string()))])
"""What is written: beside what a run reads, names of what lies in the product's folder and is not used."""
IGNORED = b"gapray.ignored"
"""Key of the file's metadata: kind -> number of all that is not used in the source, as JSON."""
ROWS_PER_GROUP = 4096


def manifest_row(item: CaptureSet | Reject) -> dict[str, object]:
    """One product as a row of `LISTED`."""
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
    """The capture set in a row of `MANIFEST` that holds no error."""
    photos = row["photos"]
    assert isinstance(photos, list)
    by = cast("AzimuthsBy | None", row["azimuths_by"])
    ignored = row.get("ignored") or ()
    assert isinstance(ignored, list | tuple)
    kept = tuple(Photo(**photo) for photo in photos)
    return CaptureSet(str(row["product_id"]), str(row["uri"]), kept, by, tuple(map(str, ignored)))


def write_manifest(items: Iterable[CaptureSet | Reject], path: str, beside: Collection[str] = ()) -> int:
    """Write a manifest to a local path, row group by row group.

    Args:
        items: The products.
        path: Of the file.
        beside: What lies beside the products and is not used; may grow while `items` are taken.

    Returns:
        The number of products.
    """
    count = 0
    ignored: Counter[str] = Counter()
    with pq.ParquetWriter(path, LISTED) as writer:
        for some in _batched(items, ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist([manifest_row(item) for item in some], schema=LISTED))
            count += len(some)
            for item in some:
                ignored.update(counted(item.ignored))
        ignored.update(counted(beside))
        writer.add_key_value_metadata({IGNORED: json.dumps(dict(ignored.most_common()))})
    return count


def ignored_of(manifest: str) -> dict[str, int]:
    """Kind -> number of what is not used in the source of a manifest, as `gapray.capture.kinds.counted`.

    Args:
        manifest: A local Parquet file, of `write_manifest` or with the same columns.
    """
    return dict(json.loads((pq.read_metadata(manifest).metadata or {}).get(IGNORED, b"{}")))


def check_manifest(schema: pa.Schema) -> None:
    """Refuse a Parquet file that is no manifest.

    Types that hold the same values are as good: pandas and Polars write `large_string`, `string_view`, dictionaries of strings
    and `large_list`.

    Raises:
        InputError: `capture.invalid_manifest` when a column is missing or of another type.
    """
    for field in MANIFEST:
        index = schema.get_field_index(field.name)
        if index < 0:
            if field.name in LATER:
                continue
            raise InputError("capture.invalid_manifest", f"the manifest has no column {field.name!r}")
        if not _reads_as(schema.field(index).type, field.type, field.name in OFTEN_NULL):
            raise InputError(
                "capture.invalid_manifest", f"column {field.name!r} is {schema.field(index).type}, not {field.type}"
            )


def completed(rows: pa.Table) -> pa.Table:
    """Rows of a manifest that passed `check_manifest`, with all columns of `MANIFEST` in their order.

    Raises:
        InputError: `capture.invalid_manifest` when a number does not fit.
    """
    for field in MANIFEST:
        if field.name in LATER and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return of_manifest(rows.select(MANIFEST.names))


def of_manifest(rows: pa.Table) -> pa.Table:
    """Columns of a manifest that passed `check_manifest`, in the types of `MANIFEST`.

    Raises:
        InputError: `capture.invalid_manifest` when a number does not fit.
    """
    try:
        return rows.cast(pa.schema([MANIFEST.field(name) for name in rows.column_names]))
    except pa.ArrowInvalid as error:
        raise InputError("capture.invalid_manifest", str(error)) from error


def _reads_as(found: pa.DataType, wanted: pa.DataType, may_be_null: bool = False) -> bool:
    """Whether values of one type are also values of another, whatever their layout in memory."""
    kinds = pa.types
    if kinds.is_dictionary(found):
        found = found.value_type
    if kinds.is_string(wanted):
        strings = kinds.is_string(found) or kinds.is_large_string(found) or kinds.is_string_view(found)
        return strings or (may_be_null and kinds.is_null(found))
    if kinds.is_list(wanted):
        lists = kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found)
        return lists and _reads_as(found.value_type, wanted.value_type)
    if kinds.is_struct(wanted):
        return (
            kinds.is_struct(found)
            and [field.name for field in found] == [field.name for field in wanted]
            and all(_reads_as(mine.type, field.type) for mine, field in zip(found, wanted, strict=True))
        )
    number = kinds.is_integer(found) or (kinds.is_floating(wanted) and kinds.is_floating(found))
    return bool(number)


def _batched(items: Iterable[CaptureSet | Reject], size: int) -> Iterator[list[CaptureSet | Reject]]:
    rows: list[CaptureSet | Reject] = []
    for item in items:
        rows.append(item)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
