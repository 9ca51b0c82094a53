"""Compaction: make the current rows the only ones, in parts of an even size."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from gapray.catalog.parts import write_part
from gapray.catalog.reader import Catalog
from gapray.catalog.schemas import TABLES
from gapray.catalog.storage import Folder

PRODUCTS_PER_PART = 256


@dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    parts_before: int
    parts_after: int
    rows_before: int
    rows_after: int


def compact(folder: Folder, products_per_part: int = PRODUCTS_PER_PART) -> Compacted:
    """Rewrite a catalogue with its current rows only.

    New parts are written before old ones go, and only parts listed at the start go: a kill in the middle leaves rows
    twice, which current rows do not show, and a run that writes meanwhile keeps its parts. Views without a product row
    are dropped with the parts that hold them, so do not compact while a run is writing the same products.

    Args:
        folder: The catalogue.
        products_per_part: Products in one part at most.
    """
    catalog = Catalog(folder)
    before = {table: folder.parts(table) for table in TABLES}
    rows_before = sum(catalog.dataset(table).count_rows() for table in TABLES)
    kept: dict[str, set[str]] = {table: set() for table in TABLES}
    rows_after = 0
    keys = catalog.table("products", columns=["product_id"])["product_id"].to_pylist()
    rejected = sorted(set(catalog.table("rejects", columns=["product_id"])["product_id"].to_pylist()))
    for table in TABLES:
        identifiers = rejected if table == "rejects" else keys
        for start in range(0, len(identifiers), products_per_part):
            chosen = identifiers[start : start + products_per_part]
            content = _current(catalog, table, chosen)
            if not content.num_rows:
                continue
            kept[table].add(write_part(folder, table, content))
            rows_after += content.num_rows
    for table, paths in before.items():
        for path in paths:
            if path.rpartition("/")[2] not in kept[table]:
                folder.remove(path)
    parts_after = sum(len(folder.parts(table)) for table in TABLES)
    return Compacted(sum(map(len, before.values())), parts_after, rows_before, rows_after)


def _current(catalog: Catalog, table: str, product_ids: list[str]) -> pa.Table:
    listed = ", ".join("'" + product_id.replace("'", "''") + "'" for product_id in product_ids)
    return catalog.sql(f'SELECT * FROM "{table}" WHERE product_id IN ({listed})').cast(TABLES[table])
