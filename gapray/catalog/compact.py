"""Compaction: make the current rows the only ones, in parts of an even size. Streams: it holds one part and the keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from gapray.catalog.media import copied_out, remove_old, with_new_paths
from gapray.catalog.parts import PART_BYTES, row_bytes, write_part
from gapray.catalog.reader import Catalog, package_names
from gapray.catalog.schemas import TABLES
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, writing

PRODUCTS_PER_PART = 256
LIGHT_ROWS_PER_PART = 65_536
"""Rows in one part of every other table: they carry no images."""


@dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    parts_before: int
    parts_after: int
    rows_before: int
    rows_after: int


def compact(folder: Folder, products_per_part: int = PRODUCTS_PER_PART, part_bytes: int = PART_BYTES) -> Compacted:
    """Rewrite a catalogue with its current rows only.

    New parts are written before old ones go, and only parts listed at the start go: a kill in the middle leaves rows
    twice, which current rows do not show, and a run that writes meanwhile keeps its parts. Views without a product row
    are dropped with the parts that hold them, so do not compact while a run is writing the same products. Files that an older
    release wrote into the tables' folders go to where they lie now.

    Args:
        folder: The catalogue.
        products_per_part: Products in one part of `views` at most.
        part_bytes: Where a part of `views` ends at the latest.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    catalog = Catalog(folder)
    before = {table: folder.parts(table) for table in TABLES}
    rows_before = sum(catalog.dataset(table).count_rows() for table in TABLES)
    old_files = copied_out(folder)
    kept: dict[str, set[str]] = {table: set() for table in TABLES}
    rows_after = 0
    for table in TABLES:
        pieces = _views(catalog, products_per_part, part_bytes) if table == "views" else _light(catalog, table)
        for piece in pieces:
            kept[table].add(write_part(folder, table, with_new_paths(table, piece)))
            rows_after += piece.num_rows
    for table, paths in before.items():
        for path in paths:
            if path.rpartition("/")[2] not in kept[table]:
                with writing(CatalogError, "catalog.write_failed", path):
                    folder.remove(path)
    remove_old(folder, old_files)
    parts_after = sum(len(folder.parts(table)) for table in TABLES)
    return Compacted(sum(map(len, before.values())), parts_after, rows_before, rows_after)


def _light(catalog: Catalog, table: str) -> Iterator[pa.Table]:
    """Current rows of a table without images, in their order."""
    for batch in _evenly(catalog.stream(table), LIGHT_ROWS_PER_PART):
        yield batch.cast(TABLES[table])


def _views(catalog: Catalog, products_per_part: int, part_bytes: int) -> Iterator[pa.Table]:
    """Current rows of `views` in pieces of the wished size."""
    waiting: list[pa.Table] = []
    products = size = 0
    for rows in catalog.views_by_part():
        waiting.append(rows)
        products, size = products + len(pc.unique(package_names(rows))), size + int(row_bytes(rows).sum())
        while products >= products_per_part or size >= part_bytes:
            piece, rest = _cut(pa.concat_tables(waiting), products_per_part, part_bytes)
            yield piece
            waiting = [rest]
            products, size = len(pc.unique(package_names(rest))), int(row_bytes(rest).sum())
    if products:
        yield pa.concat_tables(waiting)


def _cut(views: pa.Table, products: int, size: int) -> tuple[pa.Table, pa.Table]:
    """The first `products` packages, or as many as fill `size` bytes, at least one; and the others."""
    codes = pc.dictionary_encode(package_names(views).combine_chunks()).indices.to_numpy()
    full = row_bytes(views).cumsum().searchsorted(size) if views.num_rows else 0
    last = min(products - 1, int(codes[min(full, len(codes) - 1)]))
    first = pa.array(codes <= last)
    return views.filter(first), views.filter(pc.invert(first))


def _evenly(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Batches of any size -> tables of `rows` rows, but for the last."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        waiting.append(batch)
        held += batch.num_rows
        while held >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
            held -= rows
    if held:
        yield pa.Table.from_batches(waiting)
