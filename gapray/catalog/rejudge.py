"""A gate that was changed: stored numbers are judged by it, nothing is drawn or scored again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import utc_now
from gapray.config import GateSettings
from gapray.fidelity.same_product import gate_failures
from gapray.fidelity.score import OURS, Verdict, apply_gate

ROWS_AT_ONCE = 4096


def rejudge_videos(catalog: Catalog, gate: GateSettings, run_id: str) -> int:
    """Judge the current verdicts of our videos; those that come out otherwise than they are stored are written anew.

    Args:
        catalog: With scores.
        gate: Of this run.
        run_id: Of the run that writes.

    Returns:
        How many came out otherwise.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    names = [one.name for one in fields(Verdict)]
    query = f"SELECT key, {', '.join(names)} FROM verdicts WHERE label = '{OURS}' AND NOT foreign_video"
    changed: dict[str, dict[str, Any]] = {}
    for row in _rows(catalog.sql(query)) if catalog.folder.parts("verdicts") else ():
        key = row.pop("key")
        found = apply_gate(Verdict(**row), gate)
        judged = {"gate": found.gate, "reasons": list(found.reasons)}
        if judged != {"gate": row["gate"], "reasons": row["reasons"]}:
            changed[key] = judged

    def judged_anew(row: dict[str, Any]) -> dict[str, Any]:
        return changed[row["key"]] if row["label"] == OURS else {}

    # A part holds all labels of a score: written without the baselines, it could take the place of one that has them.
    return _rewritten(catalog, "verdicts", list(changed), judged_anew, run_id)


def rejudge_stills(catalog: Catalog, least_same: float | None, keys: Collection[str], run_id: str) -> int:
    """The same of stills.

    Args:
        catalog: With stills.
        least_same: `StillSettings.min_same` of this run.
        keys: Of the stills that the run is about.
        run_id: Of the run that writes.

    Returns:
        How many came out otherwise.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    changed: dict[str, dict[str, Any]] = {}
    for row in _rows(catalog.table("stills", columns=["key", "gate", "reasons", "same_percentile"])):
        reasons = gate_failures(row["reasons"], row["same_percentile"], least_same)
        judged = {"gate": "fail" if reasons else "pass", "reasons": reasons}
        if row["key"] in keys and judged != {"gate": row["gate"], "reasons": row["reasons"]}:
            changed[row["key"]] = judged
    return _rewritten(catalog, "stills", list(changed), lambda row: changed[row["key"]], run_id)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _rewritten(catalog: Catalog, table: str, keys: Sequence[str], judged: Any, run_id: str) -> int:
    """Write the current rows with these keys again, with what `judged` says of each."""
    if not keys:
        return 0
    current = catalog.table(table)
    stamp = {"run_id": run_id, "created_at": utc_now()}
    after = catalog.newest(table)
    for start in range(0, len(keys), ROWS_AT_ONCE):
        some = current.filter(pc.is_in(current["key"], value_set=pa.array(keys[start : start + ROWS_AT_ONCE])))
        commit(catalog.folder, {table: [row | judged(row) | stamp for row in some.to_pylist()]}, after=after)
    return len(keys)
