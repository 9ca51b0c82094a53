"""Re-evaluation of stored scores under a changed gate; nothing is drawn or scored again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import utc_now
from gapray.fidelity.same_product import gate_failures
from gapray.fidelity.score import OURS, Verdict, apply_gate
from gapray.fidelity.settings import GateSettings

ROWS_AT_ONCE = 4096


def rejudge_videos(catalog: Catalog, gate: GateSettings, run_id: str) -> int:
    """Judge gapray's videos by their stored scores, and rewrite the verdicts that have changed.

    Args:
        catalog: The catalogue.
        gate: The gate of this run.
        run_id: Id of this run.

    Returns:
        The number of changed verdicts.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    names = [field.name for field in fields(Verdict)]
    query = f"SELECT key, {', '.join(names)} FROM verdicts WHERE label = '{OURS}' AND NOT foreign_video"
    changed: dict[str, dict[str, Any]] = {}
    for row in _rows(catalog.sql(query)) if catalog.folder.parts("verdicts") else ():
        key = row.pop("key")
        verdict = apply_gate(Verdict(**row), gate)
        judgement = {"gate": verdict.gate, "reasons": list(verdict.reasons)}
        if judgement != {"gate": row["gate"], "reasons": row["reasons"]}:
            changed[key] = judgement

    def updates(row: dict[str, Any]) -> dict[str, Any]:
        return changed[row["key"]] if row["label"] == OURS else {}

    # Baselines are written again too: a part is named by its keys, and one without them could replace one that has them.
    return _rewrite(catalog, "verdicts", list(changed), updates, run_id)


def rejudge_stills(catalog: Catalog, min_same: float | None, keys: Collection[str], run_id: str) -> int:
    """Judge stills by their stored scores, and rewrite the rows whose verdict has changed.

    Args:
        catalog: The catalogue.
        min_same: `StillSettings.min_same` of this run.
        keys: Keys of the stills to judge.
        run_id: Id of this run.

    Returns:
        The number of changed verdicts.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    changed: dict[str, dict[str, Any]] = {}
    for row in _rows(catalog.table("stills", columns=["key", "gate", "reasons", "same_percentile"])):
        reasons = gate_failures(row["reasons"], row["same_percentile"], min_same)
        judgement = {"gate": "fail" if reasons else "pass", "reasons": reasons}
        if row["key"] in keys and judgement != {"gate": row["gate"], "reasons": row["reasons"]}:
            changed[row["key"]] = judgement
    return _rewrite(catalog, "stills", list(changed), lambda row: changed[row["key"]], run_id)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _rewrite(
    catalog: Catalog,
    table: str,
    keys: Sequence[str],
    updates: Callable[[dict[str, Any]], dict[str, Any]],
    run_id: str,
) -> int:
    """Write the current rows with these keys again, with the columns that `updates` returns for each; returns `len(keys)`."""
    if not keys:
        return 0
    current = catalog.table(table)
    stamp = {"run_id": run_id, "created_at": utc_now()}
    after = catalog.newest(table)
    for start in range(0, len(keys), ROWS_AT_ONCE):
        rows = current.filter(pc.is_in(current["key"], value_set=pa.array(keys[start : start + ROWS_AT_ONCE])))
        commit(catalog.folder, {table: [row | updates(row) | stamp for row in rows.to_pylist()]}, after=after)
    return len(keys)
