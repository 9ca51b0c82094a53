"""Who did what to a product, and how long it took: a column that travels with every row, and lines of JSON in the logs.

A row's trace begins in the manifest and ends in the receipt, so that the driver learns the time of every stage without asking
anybody. Workers log the same as JSON on their standard error, which Ray keeps under ``logs/`` of its session.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import pyarrow as pa
import ray

from gapray.batch.metrics import count, observe

Level = Literal["debug", "info", "warning"]
_LEVELS: tuple[Level, ...] = ("debug", "info", "warning")
LOG_VARIABLE = "GAPRAY_LOG"
"""`debug` logs every stage of every product, `info` (default) model loads and ends of products, `warning` refusals only."""

SPAN = pa.struct(
    [
        ("stage", pa.string()),
        ("seconds", pa.float64()),  # the batch's time, shared evenly by its products
        ("gpu_seconds", pa.float64()),  # the same times the share of a GPU that was held
        ("node", pa.string()),
        ("attempt", pa.int32()),  # 0 = the first time that Ray ran this task
    ]
)
TRACE = pa.struct([("run_id", pa.string()), ("spans", pa.list_(SPAN))])
COLUMN = "trace"
Work = Callable[[pa.Table], pa.Table]
"""What a stage does with a table: it answers with one row for each row of its input, in their order."""


@dataclass
class StageTotals:
    """What one stage did in a run."""

    products: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    retried: int = 0
    """Products whose task Ray ran more than once."""

    def as_dict(self) -> dict[str, Any]:
        """For run records."""
        return asdict(self)


def with_trace(schema: pa.Schema) -> pa.Schema:
    """A schema and the trace's column."""
    return schema.append(pa.field(COLUMN, TRACE))


def begun(manifest: pa.Table, run_id: str) -> pa.Table:
    """A manifest with an empty trace in each row."""
    traces = pa.array([{"run_id": run_id, "spans": []}] * manifest.num_rows, TRACE)
    return manifest.append_column(pa.field(COLUMN, TRACE), traces)


def traced(work: Work, stage: str, gpus: float = 0.0) -> Work:
    """A stage's work that takes its time down and passes the traces on.

    Args:
        work: Answers with one row for each of its input's, in their order, and does not see the traces. A table without traces
            stays without.
        stage: ``kind.name``, as in `METRICS`.
        gpus: Share of a GPU that it holds.
    """

    def wrapped(table: pa.Table) -> pa.Table:
        if COLUMN not in table.column_names:
            return work(table)
        traces = table[COLUMN].to_pylist()
        started = time.monotonic()
        result = work(table.drop_columns(COLUMN))
        _extend(traces, stage, time.monotonic() - started, gpus, table)
        return result.append_column(pa.field(COLUMN, TRACE), pa.array(traces, TRACE))

    return wrapped


def _extend(traces: list[dict[str, Any]], stage: str, seconds: float, gpus: float, table: pa.Table) -> None:
    node, attempt = whereabouts()
    each = seconds / max(1, len(traces))
    span = {"stage": stage, "seconds": each, "gpu_seconds": each * gpus, "node": node, "attempt": attempt}
    count("gapray_gpu_seconds_total", seconds * gpus, stage=stage)
    for trace, product_id in zip(traces, table["product_id"].to_pylist(), strict=True):
        observe("gapray_stage_seconds", each, stage=stage)
        trace["spans"].append(span)
        log("debug", "stage done", run_id=trace["run_id"], product_id=product_id, **span)


@contextmanager
def model_load(stage: str) -> Iterator[None]:
    """Time the loading of a stage's networks."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    observe("gapray_model_load_seconds", seconds, stage=stage)
    node, attempt = whereabouts()
    log("info", "models loaded", stage=stage, seconds=seconds, node=node, attempt=attempt)


def log(level: Level, message: str, **fields: Any) -> None:
    """One line of JSON on standard error, in workers and jobs alone: a terminal has progress bars instead."""
    if _LEVELS.index(level) < _threshold() or not _in_worker():
        return
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": stamp, "level": level, "message": message, **fields}, default=str)
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - Ray keeps what workers print


def ends_logged(work: Work, kind: str) -> Work:
    """The last stage's work, which answers with receipts, logging what became of each product."""

    def wrapped(table: pa.Table) -> pa.Table:
        receipts = work(table)
        if COLUMN in receipts.column_names:
            for receipt in receipts.to_pylist():
                _log_end(receipt, kind)
        return receipts

    return wrapped


def _log_end(receipt: Mapping[str, Any], kind: str) -> None:
    node, attempt = whereabouts()
    seconds = {span["stage"]: round(span["seconds"], 4) for span in receipt[COLUMN]["spans"]}
    fields = {"run_id": receipt[COLUMN]["run_id"], "product_id": receipt["product_id"], "stage": kind}
    fields |= {"outcome": receipt["outcome"], "attempt": attempt, "node": node, "seconds": seconds}
    if receipt["outcome"] == "rejected":
        log("warning", "product rejected", **fields, code=receipt["code"], reason=receipt["message"])
    else:
        log("info", "product committed", **fields)


def whereabouts() -> tuple[str, int]:
    """Ray's id of this node, and how often Ray has run the current task before."""
    if not ray.is_initialized():
        return os.uname().nodename, 0
    attempt = ray._private.worker.global_worker.core_worker.get_current_task_attempt_number() if _in_worker() else 0
    return _node(), int(attempt)


@cache
def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


@cache
def _threshold() -> int:
    named = os.environ.get(LOG_VARIABLE, "info")
    return _LEVELS.index(named) if named in _LEVELS else _LEVELS.index("info")


def _in_worker() -> bool:
    return bool(ray.is_initialized() and ray._private.worker.global_worker.mode == ray.WORKER_MODE)
