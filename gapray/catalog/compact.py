"""Compaction: rewrites a catalogue with only its current rows, in parts of even size, holding one part and the keys in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from gapray.catalog.media import copy_old_files, remove_old_files, with_current_paths
from gapray.catalog.parts import PART_BYTES, row_bytes, write_part
from gapray.catalog.reader import Catalog, package_names
from gapray.catalog.schemas import TABLES
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, writing

PRODUCTS_PER_PART = 256
LIGHT_ROWS_PER_PART = 65_536
"""Rows in one part of tables other than `views`, which have no images."""


@dataclass(frozen=True)
class CompactionResult:
    """Parts and rows of a catalogue before and after compaction."""

    parts_before: int
    parts_after: int
    rows_before: int
    rows_after: int


def compact(
    folder: Folder, products_per_part: int = PRODUCTS_PER_PART, part_bytes: int = PART_BYTES
) -> CompactionResult:
    """Rewrite a catalogue with only its current rows.

    New parts are written before old ones are removed, and only parts listed at the start are removed: an interrupted compaction
    leaves duplicate rows, which queries of current rows ignore, and parts of a concurrent run are kept. Views without a product
    row are dropped, so do not compact while a run writes the same products. Files that an older release wrote into the tables'
    folders are moved to their present location.

    Args:
        folder: The catalogue.
        products_per_part: Maximum number of products in one part of `views`.
        part_bytes: Size at which a part of `views` ends [bytes].

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    catalog = Catalog(folder)
    before = {table: folder.parts(table) for table in TABLES}
    rows_before = sum(catalog.dataset(table).count_rows() for table in TABLES)
    old_files = copy_old_files(folder)
    new_parts: dict[str, set[str]] = {table: set() for table in TABLES}
    rows_after = 0
    for table in TABLES:
        pieces = _views(catalog, products_per_part, part_bytes) if table == "views" else _even_batches(catalog, table)
        for piece in pieces:
            new_parts[table].add(write_part(folder, table, with_current_paths(table, piece)))
            rows_after += piece.num_rows
    for table, paths in before.items():
        for path in paths:
            if path.rpartition("/")[2] not in new_parts[table]:
                with writing(CatalogError, "catalog.write_failed", path):
                    folder.remove(path)
    remove_old_files(folder, old_files)
    parts_after = sum(len(folder.parts(table)) for table in TABLES)
    return CompactionResult(sum(map(len, before.values())), parts_after, rows_before, rows_after)


def _even_batches(catalog: Catalog, table: str) -> Iterator[pa.Table]:
    """Yield the current rows of a table without images, in order, in batches of `LIGHT_ROWS_PER_PART`."""
    for batch in _rebatched(catalog.stream(table), LIGHT_ROWS_PER_PART):
        yield batch.cast(TABLES[table])


def _views(catalog: Catalog, products_per_part: int, part_bytes: int) -> Iterator[pa.Table]:
    """Yield the current rows of `views` in pieces of at most that many products, each ending at about that size."""
    waiting: list[pa.Table] = []
    products = size = 0
    for rows in catalog.views_by_part():
        waiting.append(rows)
        products, size = products + len(pc.unique(package_names(rows))), size + int(row_bytes(rows).sum())
        while products >= products_per_part or size >= part_bytes:
            piece, rest = _split_first(pa.concat_tables(waiting), products_per_part, part_bytes)
            yield piece
            waiting = [rest]
            products, size = len(pc.unique(package_names(rest))), int(row_bytes(rest).sum())
    if products:
        yield pa.concat_tables(waiting)


def _split_first(views: pa.Table, products: int, size: int) -> tuple[pa.Table, pa.Table]:
    """Split off the first `products` packages, or as many as fill `size` bytes, but at least one; returns them and the rest."""
    codes = pc.dictionary_encode(package_names(views).combine_chunks()).indices.to_numpy()
    full = row_bytes(views).cumsum().searchsorted(size) if views.num_rows else 0
    last = min(products - 1, int(codes[min(full, len(codes) - 1)]))
    first = pa.array(codes <= last)
    return views.filter(first), views.filter(pc.invert(first))


def _rebatched(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Regroup batches into tables of `rows` rows; the last may be shorter."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
            count -= rows
    if count:
        yield pa.Table.from_batches(waiting)
