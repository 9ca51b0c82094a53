"""Writing of parts: a batch of finished products becomes one part of `views`, then one of `products`."""

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
"""Maximum size of a row group, uncompressed [bytes]."""
PART_BYTES = 256 * 2**20
"""Size at which a part of `views` ends; the last product in it is completed [bytes]. Limits the memory of a writer."""

Rows: TypeAlias = pa.Table | Iterable[Mapping[str, Any]]


def commit(
    folder: Folder, content: Mapping[str, Rows], *, after: datetime | None = None, part_bytes: int = PART_BYTES
) -> None:
    """Write rows of several tables so that readers see each product completely or not at all.

    Args:
        folder: The catalogue.
        content: Table -> its rows, as an Arrow table or as mappings. `views` is written before `products`, whose rows make the
            views visible.
        after: `Catalog.newest` at the start of the run. Rows with an older `created_at` get a newer one, so that clock differences
            between machines cannot make new rows look old. None = rows keep theirs.
        part_bytes: Views beyond this size are split into several parts, each followed by its products.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    tables = {name: _with_created_at_after(_as_table(name, content[name]), after) for name in TABLES if name in content}
    views, products = (tables.get(name, TABLES[name].empty_table()) for name in ("views", "products"))
    for chunk in _split_by_size(views, part_bytes):
        write_part(folder, "views", chunk)
        complete = pc.is_in(products["product_id"], value_set=pc.unique(chunk["product_id"]))
        _write_if_any(folder, "products", products.filter(complete))
        products = products.filter(pc.invert(complete))
    for name, table in (tables | {"views": views.slice(0, 0), "products": products}).items():
        _write_if_any(folder, name, table)


def write_part(folder: Folder, table: str, content: pa.Table) -> str:
    """Write one part of a table.

    The part's name is a hash of its keys, so that a retried task replaces its own file. Its footer contains the format.

    Args:
        folder: The catalogue.
        table: A name in `TABLES`.
        content: Rows with the table's schema.

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
    """Return the file name of a part with these rows: 128 bits of the SHA-256 of its sorted ``product:key`` lines."""
    pairs = pc.unique(pc.binary_join_element_wise(content["product_id"], content["key"], ":"))
    ordered = pairs.take(pc.sort_indices(pairs))
    lines = pc.binary_join(pa.ListArray.from_arrays([0, len(ordered)], ordered), "\n")
    return f"part-{hashlib.sha256(lines[0].as_buffer()).hexdigest()[:32]}.parquet"


def row_bytes(content: pa.Table) -> NDArray[np.int64]:
    """Estimate the memory of each row [bytes], int64 [N]: images by their length, everything else divided evenly."""
    images = [name for name in content.column_names if pa.types.is_large_binary(content.schema.field(name).type)]
    total = np.zeros(content.num_rows, np.int64)
    for name in images:
        total += pc.fill_null(pc.binary_length(content[name]), 0).to_numpy()
    rest = content.drop_columns(images).nbytes // max(1, content.num_rows)
    return np.asarray(total + rest, np.int64)


def _with_created_at_after(rows: pa.Table, after: datetime | None) -> pa.Table:
    """Raise `created_at` to at least one microsecond after that time."""
    if after is None:
        return rows
    index = rows.schema.get_field_index("created_at")
    field = rows.schema.field(index)
    earliest = pa.scalar(pa.scalar(after, field.type).value + 1, pa.int64())
    # As integers [microseconds], because `max_element_wise` does not support time zones.
    stamps = pc.max_element_wise(rows["created_at"].cast(pa.int64()), earliest)
    return rows.set_column(index, field, stamps.cast(field.type))


def _split_by_size(views: pa.Table, part_bytes: int) -> Iterator[pa.Table]:
    """Split rows of `views` between products into chunks of about `part_bytes`; yields nothing for an empty table."""
    if views.num_rows == 0:
        return
    codes = pc.dictionary_encode(views["product_id"].combine_chunks()).indices.to_numpy()
    ends = np.cumsum(np.bincount(codes, weights=row_bytes(views)))
    chunk = ((ends - 1) // part_bytes)[codes]
    for number in np.unique(chunk):
        yield views.filter(pa.array(chunk == number))


def _write_if_any(folder: Folder, table: str, content: pa.Table) -> None:
    if content.num_rows:
        write_part(folder, table, content)


def _as_table(name: str, rows: Rows) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=TABLES[name])


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Return column -> compression: zstd, except for image columns, which are already compressed."""
    images = {field.name for field in schema if pa.types.is_large_binary(field.type)}
    return {field.name: "none" if field.name in images else "zstd" for field in schema}
