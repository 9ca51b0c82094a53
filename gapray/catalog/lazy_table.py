"""Tables that are listed and read only as far as a query of DuckDB needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from gapray.catalog.schemas import TABLES
from gapray.errors import GaprayError

if TYPE_CHECKING:
    from gapray.catalog.reader import Catalog

POSITION = "gapray_place"
"""Name of a temporary column with the position of a row in its table."""
READ_BYTES = 64 * 2**20
"""Amount of a table in a bucket to read at a time, but at least one row group [uncompressed bytes of the selected columns]."""


class LazyTable(ds.FileSystemDataset):  # type: ignore[misc]
    """A table whose parts are listed only when a query reads it, once per connection. To DuckDB it is a dataset without files."""

    catalog: Catalog
    name: str
    product_id: str | None
    listed: Sequence[str] | None
    numbered: ds.FileSystemDataset | None
    failure: GaprayError | None = None
    """The error of reading the table, kept here because DuckDB passes on only the text of exceptions."""

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        name: str,
        product_id: str | None,
        *,
        listed: Sequence[str] | None = None,
        numbered: ds.FileSystemDataset | None = None,
    ) -> LazyTable:
        """Create the lazy dataset of a table.

        Args:
            catalog: The catalogue.
            name: A name in `TABLES`.
            product_id: Restrict to one product.
            listed: Paths of its parts, if they have already been listed.
            numbered: Its dataset, to scan with row numbers in a column `POSITION`.
        """
        schema = TABLES[name] if numbered is None else TABLES[name].append(pa.field(POSITION, pa.int64()))
        table = cls([], schema, ds.ParquetFileFormat(), catalog.folder.arrow)
        table.catalog, table.name, table.product_id = catalog, name, product_id
        table.listed, table.numbered = listed, numbered
        return table

    def scanner(self, **options: Any) -> ds.Scanner | ChunkedScan:
        """Return a scan for DuckDB, which calls `to_reader` on it."""
        if self.numbered is not None:
            return ChunkedScan(self.numbered, options, numbered=True)
        try:
            rows = self._rows
        except GaprayError as error:
            self.failure = error
            raise
        remote = self.product_id is None and not self.catalog.folder.is_local
        return ChunkedScan(rows, options) if remote else rows.scanner(**options)

    @cached_property
    def _rows(self) -> ds.Dataset:
        dataset = self.catalog.dataset(self.name, self.listed)
        return dataset if self.product_id is None else ds.InMemoryDataset(_product_rows(dataset, self.product_id))


class ChunkedScan:
    """A scan that reads a few row groups at a time, for file systems that Arrow accesses through Python.

    `Scanner.to_reader` starts its scan while it holds the GIL (pyarrow 26, _dataset.pyx), and the scan's threads need the GIL to
    read files through fsspec, which deadlocks. `Scanner.to_table` releases the GIL.
    """

    def __init__(self, rows: ds.FileSystemDataset, options: Mapping[str, Any], *, numbered: bool = False) -> None:
        self._rows, self._options, self._numbered = rows, dict(options), numbered
        self._columns: list[str] | None = self._options.get("columns")
        if numbered:
            assert self._options.get("filter") is None, "rows are numbered by their position in the parts"
            self._columns = self._columns or [*rows.schema.names, POSITION]
            self._options["columns"] = [name for name in self._columns if name != POSITION]

    def to_reader(self) -> pa.RecordBatchReader:
        """Return a reader that reads each chunk when the previous one has been consumed."""
        schema = self._rows.scanner(**self._options).projected_schema
        if self._numbered:
            fields = [
                pa.field(POSITION, pa.int64()) if name == POSITION else schema.field(name)
                for name in self._columns or ()
            ]
            schema = pa.schema(fields)
        batches = (batch for chunk in self.tables() for batch in chunk.to_batches())
        return pa.RecordBatchReader.from_batches(schema, batches)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows in chunks of about `READ_BYTES`."""
        start = 0
        for fragments in _row_group_chunks(self._rows, self._options.get("columns")):
            dataset = ds.FileSystemDataset(fragments, self._rows.schema, self._rows.format, self._rows.filesystem)
            rows = dataset.scanner(**self._options).to_table()
            if self._numbered:
                rows = rows.append_column(POSITION, pa.array(np.arange(start, start + rows.num_rows))).select(
                    self._columns
                )
            start += rows.num_rows
            yield rows


def _row_group_chunks(rows: ds.FileSystemDataset, columns: Sequence[str] | None) -> Iterator[list[ds.Fragment]]:
    """Yield the row groups of a dataset, in order, in chunks of at most `READ_BYTES` of these columns, but at least one."""
    wanted = set(rows.schema.names if columns is None else columns)
    chunk: list[ds.Fragment] = []
    chunk_bytes = 0
    for fragment in rows.get_fragments():
        for group in fragment.split_by_row_group():
            [row_group] = group.row_groups
            metadata = fragment.metadata.row_group(row_group.id)
            leaves = map(metadata.column, range(metadata.num_columns))
            size = sum(
                leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.partition(".")[0] in wanted
            )
            if chunk and chunk_bytes + size > READ_BYTES:
                yield chunk
                chunk, chunk_bytes = [], 0
            chunk.append(group)
            chunk_bytes += size
    if chunk:
        yield chunk


def _product_rows(rows: ds.FileSystemDataset, product_id: str) -> pa.Table:
    """Return one product's rows. Of other parts only the product ids are read, because those of `views` have large images."""
    of_product = pc.field("product_id") == product_id
    files = set(rows.to_table(columns=["__filename"], filter=of_product)["__filename"].to_pylist())
    fragments = [part for part in rows.get_fragments() if part.path in files]
    return ds.FileSystemDataset(fragments, rows.schema, rows.format, rows.filesystem).to_table(filter=of_product)
