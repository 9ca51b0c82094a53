"""Run records: one JSON file per run, ``runs/<run_id>.json`` in the catalogue, rewritten while the run is in progress.

A record contains what ran (code, models, settings), where (nodes, CPUs and GPUs held), the progress (counts, rejects by code) and
the cost (seconds by stage, resource hours, price). The record of a killed run stops changing.
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
"""Number of records that `products_gone` reads, newest first."""
HEARTBEAT_S = 10.0
"""Interval at which a run rewrites its record [s]."""
LOST_AFTER_S = 6 * HEARTBEAT_S
"""Age at which a record in state `running` is taken to be that of a killed run [s]."""


def existing_catalog(uri: str) -> Folder:
    """Return the folder of an existing catalogue, even if its first run has not written a table yet.

    Raises:
        CatalogError: `catalog.not_found`.
    """
    folder = Folder.at(uri)
    if not folder.names(FOLDER, SUFFIX) and not any(folder.parts(table) for table in TABLES):
        raise CatalogError("catalog.not_found", f"no catalogue lies at {uri}")
    return folder


def write_run(folder: Folder, record: Mapping[str, Any]) -> None:
    """Write a run record, atomically replacing its earlier state.

    Raises:
        OSError: The record cannot be written.
    """
    data = json.dumps(record, indent=1, default=str).encode()
    folder.put(FOLDER, f"{record['run_id']}{SUFFIX}", pa.py_buffer(data))


def runs(folder: Folder, *, limit: int | None = None, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return run records, newest first; `state` is running, finished, failed or lost.

    Args:
        folder: The catalogue.
        limit: Maximum number of records; default: all.
        now: Time to judge lost runs by; default: the present.
    """
    names = sorted(folder.names(FOLDER, SUFFIX), reverse=True)[:limit]
    return [_read(folder, name, now or datetime.now(UTC)) for name in names]


def run_named(folder: Folder, run_id: str, *, now: datetime | None = None) -> dict[str, Any]:
    """Return one run record.

    Args:
        folder: The catalogue.
        run_id: An id or an unambiguous prefix of one; `last` is the newest run.
        now: Time to judge lost runs by; default: the present.

    Raises:
        CatalogError: `catalog.run_not_found`.
    """
    names = sorted(folder.names(FOLDER, SUFFIX), reverse=True)
    matches = names[:1] if run_id == "last" else [name for name in names if name.rpartition("/")[2].startswith(run_id)]
    if len(matches) != 1:
        count = "no run" if not matches else f"{len(matches)} runs"
        raise CatalogError("catalog.run_not_found", f"{count} of this catalogue: {run_id!r}")
    return _read(folder, matches[0], now or datetime.now(UTC))


def _read(folder: Folder, path: str, now: datetime) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(folder.filesystem.cat_file(path))
    age_s = (now - datetime.fromisoformat(record["updated_at"])).total_seconds()
    if record["state"] == "running" and age_s > LOST_AFTER_S:
        record["state"] = "lost"
    return record


@dataclass(frozen=True)
class GoneProducts:
    """Products that the latest packaging run of a source no longer found there; the catalogue keeps their packages."""

    source: str
    """Path or URI of the source."""
    count: int
    """Number of products that are gone."""
    products: tuple[str, ...]
    """Ids of the first of them."""
    since: datetime
    """Start of that run: products packaged later, from any source, are not gone."""


def products_gone(folder: Folder) -> list[GoneProducts]:
    """Return the products that are gone from each source, latest run first, by the `RECORDS_READ` newest records."""
    newest: dict[str, dict[str, Any]] = {}
    for record in runs(folder, limit=RECORDS_READ):
        if record.get("kind") == "package":
            newest.setdefault(record["source"], record)
    return [
        GoneProducts(
            source, record["counts"]["gone"], tuple(record["gone"]), datetime.fromisoformat(record["started_at"])
        )
        for source, record in newest.items()
        if record.get("gone")
    ]


@dataclass(frozen=True)
class StageCost:
    """Cost of one product in one stage."""

    seconds: float
    """Time that it takes one worker [s]."""
    cores: float
    """CPU cores that the worker keeps busy."""
    gpus: float
    """Fraction of a GPU that the worker holds; 0 = none."""


def stage_costs(records: Sequence[Mapping[str, Any]]) -> dict[str, StageCost]:
    """Return the mean cost of each stage over the runs that used it.

    Args:
        records: Run records of any kind. They contain no CPU times, so each worker counts as one core.
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
