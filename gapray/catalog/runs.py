"""Run records: one JSON file a run, ``runs/<run_id>.json`` in the catalogue, rewritten while the run goes on.

A record says what ran (code, models, settings), where (nodes, CPUs and GPUs held), how far it is (counts, rejects by code) and
what it cost (seconds by stage, hours, money). A run that was killed cannot say so: its record stops changing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from gapray.catalog.schemas import TABLES
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError

FOLDER = "runs"
SUFFIX = ".json"
RECORDS_READ = 100
HEARTBEAT_S = 10.0
"""A living run rewrites its record at least this often."""
LOST_AFTER_S = 6 * HEARTBEAT_S
"""A record that says `running` and is older than that belongs to a run that was killed."""


def found_folder(uri: str) -> Folder:
    """The folder of a catalogue that is there, be it that its first run has not written a table yet.

    Raises:
        CatalogError: `catalog.not_found`.
    """
    folder = Folder.at(uri)
    if not folder.names(FOLDER, SUFFIX) and not any(folder.parts(table) for table in TABLES):
        raise CatalogError("catalog.not_found", f"no catalogue lies at {uri}")
    return folder


def write_run(folder: Folder, record: Mapping[str, Any]) -> None:
    """Put a record in place of its earlier state, whole.

    Raises:
        OSError: As the file system does.
    """
    data = json.dumps(record, indent=1, default=str).encode()
    folder.put(FOLDER, f"{record['run_id']}{SUFFIX}", pa.py_buffer(data))


def runs(folder: Folder, *, limit: int | None = None, now: datetime | None = None) -> list[dict[str, Any]]:
    """The newest records, newest first; `state` is running, finished, failed or lost."""
    names = sorted(folder.names(FOLDER, SUFFIX), reverse=True)[:limit]
    return [_read(folder, name, now or datetime.now(UTC)) for name in names]


def run_named(folder: Folder, run_id: str, *, now: datetime | None = None) -> dict[str, Any]:
    """One record; the beginning of its id is enough where it names one run only, `last` is the newest.

    Raises:
        CatalogError: `catalog.run_not_found`.
    """
    names = sorted(folder.names(FOLDER, SUFFIX), reverse=True)
    found = names[:1] if run_id == "last" else [name for name in names if name.rpartition("/")[2].startswith(run_id)]
    if len(found) != 1:
        many = "no run" if not found else f"{len(found)} runs"
        raise CatalogError("catalog.run_not_found", f"{many} of this catalogue: {run_id!r}")
    return _read(folder, found[0], now or datetime.now(UTC))


def _read(folder: Folder, path: str, now: datetime) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(folder.filesystem.cat_file(path))
    silent = (now - datetime.fromisoformat(record["updated_at"])).total_seconds()
    if record["state"] == "running" and silent > LOST_AFTER_S:
        record["state"] = "lost"
    return record


@dataclass(frozen=True)
class Gone:
    """Products that the newest packaging of a source missed there; the catalogue keeps what was packaged of them."""

    source: str
    count: int
    products: tuple[str, ...]
    """The first of them."""
    since: datetime
    """When that run began: what was packaged later, from wherever, is not gone."""


def gone(folder: Folder) -> list[Gone]:
    """What is gone from each source, newest packaging first, by the `RECORDS_READ` newest records."""
    newest: dict[str, dict[str, Any]] = {}
    for record in runs(folder, limit=RECORDS_READ):
        if record.get("kind") == "package":
            newest.setdefault(record["source"], record)
    return [
        Gone(source, record["counts"]["gone"], tuple(record["gone"]), datetime.fromisoformat(record["started_at"]))
        for source, record in newest.items()
        if record.get("gone")
    ]


@dataclass(frozen=True)
class StageCost:
    """What one product takes in one stage."""

    seconds: float
    """Time of one worker [s]."""
    cores: float
    """CPU cores that the worker keeps busy."""
    gpus: float
    """Share of a GPU that it holds; 0 = none."""


def stage_costs(records: Sequence[Mapping[str, Any]]) -> dict[str, StageCost]:
    """Stage -> its mean cost in the runs that did any work in it.

    Args:
        records: Any kinds; of workers only seconds were measured, so each counts as one core.
    """
    products: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    gpu_seconds: Counter[str] = Counter()
    for record in records:
        for stage, totals in record["stages"].items():
            products[stage] += totals["products"]
            seconds[stage] += totals["seconds"]
            gpu_seconds[stage] += totals["gpu_seconds"]
    return {
        stage: StageCost(seconds[stage] / count, 1.0, gpu_seconds[stage] / seconds[stage] if seconds[stage] else 0.0)
        for stage, count in products.items()
        if count
    }
