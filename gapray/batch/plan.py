"""What a run has to do: the manifest without the products that the catalogue already holds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gapray.batch.rows import PLANNED
from gapray.capture.manifest import MANIFEST, cast_to_manifest, check_manifest, with_all_columns
from gapray.catalog.reader import Catalog

Verify = Literal["source", "content"]
"""`source`: skip a product whose files have the same names, sizes and stamps. `content`: read the bytes of all."""


ROWS_AT_ONCE = 8192
KNOWN = {"known_key": "key", "depth_scale": "depth_scale", "depth_shift": "depth_shift", "known_warnings": "warnings"}
"""Column of `PLANNED` -> column of `products`, of a package by this run's settings."""


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
    twice = _twice(manifest)
    columns = ["product_id", "uri", "settings", "source", "key", "depth_scale", "depth_shift", "warnings"]
    current = catalog.table("products", columns=columns).combine_chunks()
    below = np.zeros(len(current), bool)
    if root is not None and len(current):
        below |= pc.starts_with(current["uri"], f"{root.rstrip('/')}/").to_numpy()
    known = current.drop_columns("uri").filter(pc.equal(current["settings"], settings_hash)).combine_chunks()
    products = finished = 0
    with pq.ParquetFile(manifest) as file, pq.ParquetWriter(target, PLANNED) as writer:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=MANIFEST.names):
            rows = _refused(with_all_columns(pa.Table.from_batches([batch])), twice)
            if below.any():
                below &= ~pc.is_in(current["product_id"], value_set=rows["product_id"]).to_numpy()
            held = known.take(pc.index_in(rows["product_id"], value_set=known["product_id"]))
            same = pc.and_(pc.equal(rows["source"], held["source"]), pc.is_null(rows["error_code"]))
            skip = pc.fill_null(same, False) if verify == "source" else pa.array([False] * len(rows))
            products, finished = products + len(rows), finished + int(pc.sum(skip).as_py() or 0)
            for field, column in KNOWN.items():
                rows = rows.append_column(field, held[column])
            former = current.take(pc.index_in(rows["product_id"], value_set=current["product_id"]))
            elsewhere = pc.not_equal(rows["uri"], former["uri"])  # null, as the result, where there is no former one
            for column in ("uri", "key", "settings"):
                rows = rows.append_column(f"former_{column}", pc.if_else(elsewhere, former[column], None))
            writer.write_table(rows.filter(pc.invert(skip)).cast(PLANNED))
    gone = current.select(["product_id", "uri"]).filter(pa.array(below)).to_pylist()
    # What a run left out that lies there all the same, such as a film beside folders of photos, is not gone.
    names = sorted(row["product_id"] for row in gone if not os.path.exists(row["uri"]))
    return Pending(products, finished, tuple(names))


def _twice(manifest: Path) -> dict[str, str]:
    """Product of which a manifest has rows that differ -> where they lie. The last one written would hide the others."""
    rows = cast_to_manifest(pq.read_table(manifest, columns=["product_id", "error_code"]))
    rows = rows.filter(pc.is_null(rows["error_code"]))
    counted = rows.group_by("product_id").aggregate([([], "count_all")])
    again = counted.filter(pc.greater(counted["count_all"], 1))["product_id"]
    if not len(again):
        return {}
    found: dict[str, dict[str, str]] = {}  # product -> what a row says of it -> where it lies
    with pq.ParquetFile(manifest) as file:
        names = ["product_id", "uri", "source", "photos", "error_code"]
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
            rows = cast_to_manifest(pa.Table.from_batches([batch]))
            chosen = pc.and_(pc.is_in(rows["product_id"], value_set=again), pc.is_null(rows["error_code"]))
            for row in rows.filter(chosen).to_pylist():
                found.setdefault(row["product_id"], {})[json.dumps(row)] = row["uri"]
    return {name: _told(sorted(rows.values())) for name, rows in found.items() if len(rows) > 1}


def _told(uris: list[str]) -> str:
    return ", ".join(uris) if len(set(uris)) > 1 else f"{uris[0]}, {len(uris)} times with other photos or angles"


def _refused(rows: pa.Table, twice: dict[str, str]) -> pa.Table:
    """Rows of `MANIFEST`, those of products in `twice` with an error."""
    if not twice:
        return rows
    names = rows["product_id"].to_pylist()
    messages = pa.array(
        [f"{name} is the name of {twice[name]}" if name in twice else None for name in names], pa.string()
    )
    wrong = pc.and_(pc.is_valid(messages), pc.is_null(rows["error_code"]))
    codes = pc.if_else(wrong, "capture.same_id", rows["error_code"])
    told = pc.if_else(wrong, messages, rows["error_message"])
    for name, column in (("error_code", codes), ("error_message", told)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows
