"""What a run has to do: the manifest without the products that the catalogue already holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gapray.batch.rows import PLANNED
from gapray.capture.manifest import MANIFEST, check_manifest, completed
from gapray.catalog.reader import Catalog

Verify = Literal["source", "content"]
"""`source`: skip a product whose files have the same names, sizes and stamps. `content`: read the bytes of all."""


ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Pending:
    """Counts of a manifest."""

    products: int
    finished: int
    """Skipped: in the catalogue from the same source and settings."""
    gone: tuple[str, ...] = ()
    """Products that the catalogue has from below the same root, and the manifest has not: their photos were moved or deleted."""


def write_pending(
    manifest: Path, catalog: Catalog, settings_hash: str, verify: Verify, target: Path, *, root: str | None = None
) -> Pending:
    """Anti-join a manifest with a catalogue's current products, a few thousand rows at a time.

    Args:
        manifest: Parquet with the columns of `capture.manifest.MANIFEST`.
        catalog: May be empty.
        settings_hash: `PackagingSettings.digest` of this run.
        verify: What counts as finished.
        target: Where the rows to work on are written, with the columns of `PLANNED`.
        root: What the manifest lists, as products' `uri` begin; None where it may be a part of a source.

    Raises:
        InputError: `capture.invalid_manifest`.
    """
    check_manifest(pq.read_schema(manifest))
    columns = ["product_id", "uri", "settings", "source", "key", "depth_scale", "depth_shift"]
    current = catalog.table("products", columns=columns).combine_chunks()
    below = np.zeros(len(current), bool)
    if root is not None and len(current):
        below |= pc.starts_with(current["uri"], f"{root.rstrip('/')}/").to_numpy()
    known = current.drop_columns("uri").filter(pc.equal(current["settings"], settings_hash)).combine_chunks()
    products = finished = 0
    with pq.ParquetFile(manifest) as file, pq.ParquetWriter(target, PLANNED) as writer:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=MANIFEST.names):
            rows = completed(pa.Table.from_batches([batch]))
            if below.any():
                below &= ~pc.is_in(current["product_id"], value_set=rows["product_id"]).to_numpy()
            held = known.take(pc.index_in(rows["product_id"], value_set=known["product_id"]))
            same = pc.and_(pc.equal(rows["source"], held["source"]), pc.is_null(rows["error_code"]))
            skip = pc.fill_null(same, False) if verify == "source" else pa.array([False] * len(rows))
            products, finished = products + len(rows), finished + int(pc.sum(skip).as_py() or 0)
            for field, column in (("known_key", "key"), ("depth_scale", "depth_scale"), ("depth_shift", "depth_shift")):
                rows = rows.append_column(field, held[column])
            writer.write_table(rows.filter(pc.invert(skip)).cast(PLANNED))
    return Pending(products, finished, tuple(sorted(current["product_id"].filter(pa.array(below)).to_pylist())))
