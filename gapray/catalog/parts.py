"""Writing parts: a batch of finished products becomes one part of `views`, then one of `products`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gapray.catalog.schemas import SORT_COLUMNS, TABLES
from gapray.catalog.storage import Folder

ROW_GROUP_BYTES = 64 * 2**20
"""Largest row group, uncompressed."""


def commit(folder: Folder, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Write rows of several tables so that a reader sees each product whole or not at all.

    Args:
        folder: The catalogue.
        rows: Table -> rows. `views` is written before `products`, whose rows make the views count.
    """
    for table in TABLES:
        listed = list(rows.get(table, ()))
        if listed:
            write_part(folder, table, pa.Table.from_pylist(listed, schema=TABLES[table]))


def write_part(folder: Folder, table: str, content: pa.Table) -> str:
    """Write one part of a table.

    The part is named by a hash of the keys in it: a task that is run again replaces its own file.

    Args:
        folder: The catalogue.
        table: A name in `TABLES`.
        content: Rows with that table's schema.

    Returns:
        The part's file name.
    """
    content = content.sort_by([(column, "ascending") for column in SORT_COLUMNS[table]])
    name = part_name(content)
    sink = pa.BufferOutputStream()
    rows_per_group = max(1, int(content.num_rows * ROW_GROUP_BYTES / max(content.nbytes, 1)))
    with pq.ParquetWriter(sink, content.schema, compression=_compression(content.schema)) as writer:
        writer.write_table(content, row_group_size=rows_per_group)
    folder.put(table, name, sink.getvalue())
    return name


def part_name(content: pa.Table) -> str:
    """File name of a part that holds these rows."""
    pairs = zip(content["product_id"].to_pylist(), content["key"].to_pylist(), strict=True)
    text = "\n".join(sorted({f"{product}:{key}" for product, key in pairs}))
    return f"part-{hashlib.sha256(text.encode()).hexdigest()[:32]}.parquet"


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Zstd for all but the image columns, which are compressed already."""
    images = {field.name for field in schema if pa.types.is_large_binary(field.type)}
    return {field.name: "none" if field.name in images else "zstd" for field in schema}
