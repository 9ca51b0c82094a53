"""What a run has to do: the manifest without the products that the catalogue already holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow.parquet as pq

from gapray.batch.rows import PLANNED
from gapray.capture.manifest import MANIFEST, check_manifest
from gapray.catalog.reader import Catalog

Verify = Literal["source", "content"]
"""`source`: skip a product whose files have the same names, sizes and stamps. `content`: read the bytes of all."""


@dataclass(frozen=True)
class Pending:
    """Counts of a manifest."""

    products: int
    finished: int
    """Skipped: in the catalogue from the same source and settings."""


def write_pending(manifest: Path, catalog: Catalog, settings_hash: str, verify: Verify, target: Path) -> Pending:
    """Anti-join a manifest with a catalogue's current products, out of core.

    Args:
        manifest: Parquet with the columns of `capture.manifest.MANIFEST`.
        catalog: May be empty.
        settings_hash: `PackagingSettings.digest` of this run.
        verify: What counts as finished.
        target: Where the rows to work on are written, with the columns of `PLANNED`.

    Raises:
        InputError: `capture.invalid_manifest`.
    """
    check_manifest(pq.read_schema(manifest))
    current = catalog.table("products", columns=["product_id", "key", "source", "settings", "depth_scale", "depth_shift"])
    with duckdb.connect() as connection:
        connection.register("current_products", current)
        columns = ", ".join(f"m.{name}" for name in PLANNED.names if name in MANIFEST.names)
        finished = "false" if verify == "content" else "coalesce(p.source = m.source AND m.error_code IS NULL, false)"
        connection.execute(
            f"""CREATE VIEW planned AS
            SELECT {columns}, p.key AS known_key, p.depth_scale, p.depth_shift, {finished} AS finished
            FROM read_parquet({_quoted(str(manifest))}) m LEFT JOIN current_products p
            ON m.product_id = p.product_id AND p.settings = {_quoted(settings_hash)}"""
        )
        [(products, finished_already)] = connection.sql(
            "SELECT count(*), count(*) FILTER (finished) FROM planned"
        ).fetchall()
        connection.execute(
            f"COPY (SELECT * EXCLUDE (finished) FROM planned WHERE NOT finished) TO {_quoted(str(target))} (FORMAT parquet)"
        )
    return Pending(int(products), int(finished_already))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
