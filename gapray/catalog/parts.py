"""Writing parts: a batch of finished products becomes one part of `views`, then one of `products`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gapray.catalog.schemas import SORT_COLUMNS, TABLES
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, writing

ROW_GROUP_BYTES = 64 * 2**20
"""Largest row group, uncompressed."""
PART_BYTES = 256 * 2**20
"""Where a part ends at the latest, but for the rest of the product that is in it: what a writer holds in memory."""

Rows: TypeAlias = pa.Table | Iterable[Mapping[str, Any]]


def commit(
    folder: Folder, content: Mapping[str, Rows], *, after: datetime | None = None, part_bytes: int = PART_BYTES
) -> None:
    """Write rows of several tables so that a reader sees each product whole or not at all.

    Args:
        folder: The catalogue.
        content: Table -> its rows, as an Arrow table or as mappings. `views` is written before `products`, whose rows make
            the views count.
        after: `Catalog.newest` when the run began. No row is written with an older `created_at`, whatever the clock of the
            machine that made it says: what comes later is newer. None = rows keep their own.
        part_bytes: More views than that become several parts, each followed by its own products.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    tables = {name: _not_before(_as_table(name, content[name]), after) for name in TABLES if name in content}
    views, products = (tables.get(name, TABLES[name].empty_table()) for name in ("views", "products"))
    for chunk in _by_bytes(views, part_bytes):
        write_part(folder, "views", chunk)
        named = pc.is_in(products["product_id"], value_set=pc.unique(chunk["product_id"]))
        _write_some(folder, "products", products.filter(named))
        products = products.filter(pc.invert(named))
    for name, table in (tables | {"views": views.slice(0, 0), "products": products}).items():
        _write_some(folder, name, table)


def write_part(folder: Folder, table: str, content: pa.Table) -> str:
    """Write one part of a table.

    The part is named by a hash of the keys in it: a task that is run again replaces its own file. Its footer says its format.

    Args:
        folder: The catalogue.
        table: A name in `TABLES`.
        content: Rows with that table's schema.

    Returns:
        The part's file name.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    content = content.sort_by([(column, "ascending") for column in SORT_COLUMNS[table]])
    content = content.replace_schema_metadata(TABLES[table].metadata)
    name = part_name(content)
    sink = pa.BufferOutputStream()
    rows_per_group = max(1, int(content.num_rows * ROW_GROUP_BYTES / max(content.nbytes, 1)))
    with pq.ParquetWriter(sink, content.schema, compression=_compression(content.schema)) as writer:
        writer.write_table(content, row_group_size=rows_per_group)
    with writing(CatalogError, "catalog.write_failed", f"{folder.path}/{table}"):
        folder.put(table, name, sink.getvalue())
    return name


def part_name(content: pa.Table) -> str:
    """File name of a part that holds these rows: 128 bits of the sha256 of its sorted ``product:key`` lines."""
    pairs = pc.unique(pc.binary_join_element_wise(content["product_id"], content["key"], ":"))
    ordered = pairs.take(pc.sort_indices(pairs))
    lines = pc.binary_join(pa.ListArray.from_arrays([0, len(ordered)], ordered), "\n")
    return f"part-{hashlib.sha256(lines[0].as_buffer()).hexdigest()[:32]}.parquet"


def row_bytes(content: pa.Table) -> NDArray[np.int64]:
    """int64 [N]: about what each row takes in memory, images by their length, all else evenly."""
    images = [name for name in content.column_names if pa.types.is_large_binary(content.schema.field(name).type)]
    total = np.zeros(content.num_rows, np.int64)
    for name in images:
        total += pc.fill_null(pc.binary_length(content[name]), 0).to_numpy()
    rest = content.drop_columns(images).nbytes // max(1, content.num_rows)
    return np.asarray(total + rest, np.int64)


def _not_before(rows: pa.Table, after: datetime | None) -> pa.Table:
    """Rows with a `created_at` of at least a microsecond after that time."""
    if after is None:
        return rows
    place = rows.schema.get_field_index("created_at")
    field = rows.schema.field(place)
    least = pa.scalar(pa.scalar(after, field.type).value + 1, pa.int64())
    stamps = pc.max_element_wise(rows["created_at"].cast(pa.int64()), least)  # microseconds; it knows no time zones
    return rows.set_column(place, field, stamps.cast(field.type))


def _by_bytes(views: pa.Table, part_bytes: int) -> Iterator[pa.Table]:
    """`views` in one piece, or cut between products."""
    if views.num_rows == 0:
        return
    codes = pc.dictionary_encode(views["product_id"].combine_chunks()).indices.to_numpy()
    ends = np.cumsum(np.bincount(codes, weights=row_bytes(views)))
    piece = ((ends - 1) // part_bytes)[codes]
    for number in np.unique(piece):
        yield views.filter(pa.array(piece == number))


def _write_some(folder: Folder, table: str, content: pa.Table) -> None:
    if content.num_rows:
        write_part(folder, table, content)


def _as_table(name: str, rows: Rows) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=TABLES[name])


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Zstd for all but the image columns, which are compressed already."""
    images = {field.name for field in schema if pa.types.is_large_binary(field.type)}
    return {field.name: "none" if field.name in images else "zstd" for field in schema}
