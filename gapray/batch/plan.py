"""Pending work of a packaging run: the manifest without the products that the catalogue already has."""

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
"""`source`: skip products whose files have unchanged names, sizes and time stamps. `content`: read the bytes of all files."""


ROWS_AT_ONCE = 8192
KNOWN = {"known_key": "key", "depth_scale": "depth_scale", "depth_shift": "depth_shift", "known_warnings": "warnings"}
"""Column of `PLANNED` -> column of `products`, for packages made with this run's settings."""


@dataclass(frozen=True)
class Pending:
    """Summary of a manifest compared with a catalogue."""

    products: int
    """Products in the manifest."""
    finished: int
    """Products that are skipped because the catalogue has them from the same source and settings."""
    gone: tuple[str, ...] = ()
    """Products in the catalogue from below the same root that the manifest lacks: their photos were moved or deleted."""


def write_pending(
    manifest: Path, catalog: Catalog, settings_hash: str, verify: Verify, target: Path, *, root: str | None = None
) -> Pending:
    """Write the manifest rows that are not finished: an anti-join with the catalogue's current products, in batches.

    Args:
        manifest: Parquet file with the columns of `capture.manifest.MANIFEST`.
        catalog: The catalogue, possibly empty.
        settings_hash: `PackagingSettings.digest` of this run.
        verify: When a product counts as finished.
        target: Parquet file to write, with the columns of `PLANNED`.
        root: Prefix of the products' `uri` of which the manifest is a complete listing; None if it may be incomplete.

    Raises:
        InputError: `capture.invalid_manifest`.
    """
    check_manifest(pq.read_schema(manifest))
    duplicates = _duplicates(manifest)
    columns = ["product_id", "uri", "settings", "source", "key", "depth_scale", "depth_shift", "warnings"]
    current = catalog.table("products", columns=columns).combine_chunks()
    below = np.zeros(len(current), bool)
    if root is not None and len(current):
        below |= pc.starts_with(current["uri"], f"{root.rstrip('/')}/").to_numpy()
    known = current.drop_columns("uri").filter(pc.equal(current["settings"], settings_hash)).combine_chunks()
    products = finished = 0
    with pq.ParquetFile(manifest) as file, pq.ParquetWriter(target, PLANNED) as writer:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=MANIFEST.names):
            rows = _with_duplicate_errors(with_all_columns(pa.Table.from_batches([batch])), duplicates)
            if below.any():
                below &= ~pc.is_in(current["product_id"], value_set=rows["product_id"]).to_numpy()
            packaged = known.take(pc.index_in(rows["product_id"], value_set=known["product_id"]))
            same = pc.and_(pc.equal(rows["source"], packaged["source"]), pc.is_null(rows["error_code"]))
            skip = pc.fill_null(same, False) if verify == "source" else pa.array([False] * len(rows))
            products, finished = products + len(rows), finished + int(pc.sum(skip).as_py() or 0)
            for field, column in KNOWN.items():
                rows = rows.append_column(field, packaged[column])
            former = current.take(pc.index_in(rows["product_id"], value_set=current["product_id"]))
            elsewhere = pc.not_equal(
                rows["uri"], former["uri"]
            )  # null, as is the result, if there is no former package
            for column in ("uri", "key", "settings"):
                rows = rows.append_column(f"former_{column}", pc.if_else(elsewhere, former[column], None))
            writer.write_table(rows.filter(pc.invert(skip)).cast(PLANNED))
    gone = current.select(["product_id", "uri"]).filter(pa.array(below)).to_pylist()
    # A source that still exists but was not listed, such as a video beside folders of photos, is not gone.
    names = sorted(row["product_id"] for row in gone if not os.path.exists(row["uri"]))
    return Pending(products, finished, tuple(names))


def _duplicates(manifest: Path) -> dict[str, str]:
    """Return product -> its locations, for products with several different rows, of which the last would hide the others."""
    rows = cast_to_manifest(pq.read_table(manifest, columns=["product_id", "error_code"]))
    rows = rows.filter(pc.is_null(rows["error_code"]))
    counts = rows.group_by("product_id").aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))["product_id"]
    if not len(repeated):
        return {}
    uris: dict[str, dict[str, str]] = {}  # product -> row as JSON -> its uri
    with pq.ParquetFile(manifest) as file:
        names = ["product_id", "uri", "source", "photos", "error_code"]
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
            rows = cast_to_manifest(pa.Table.from_batches([batch]))
            chosen = pc.and_(pc.is_in(rows["product_id"], value_set=repeated), pc.is_null(rows["error_code"]))
            for row in rows.filter(chosen).to_pylist():
                uris.setdefault(row["product_id"], {})[json.dumps(row)] = row["uri"]
    return {name: _listed(sorted(rows.values())) for name, rows in uris.items() if len(rows) > 1}


def _listed(uris: list[str]) -> str:
    return ", ".join(uris) if len(set(uris)) > 1 else f"{uris[0]}, {len(uris)} times with other photos or angles"


def _with_duplicate_errors(rows: pa.Table, duplicates: dict[str, str]) -> pa.Table:
    """Return rows of `MANIFEST` with an error in the rows of products in `duplicates`."""
    if not duplicates:
        return rows
    names = rows["product_id"].to_pylist()
    messages = pa.array(
        [f"{name} is the name of {duplicates[name]}" if name in duplicates else None for name in names], pa.string()
    )
    failed = pc.and_(pc.is_valid(messages), pc.is_null(rows["error_code"]))
    error_codes = pc.if_else(failed, "capture.same_id", rows["error_code"])
    error_messages = pc.if_else(failed, messages, rows["error_message"])
    for name, column in (("error_code", error_codes), ("error_message", error_messages)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows
