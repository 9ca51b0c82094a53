"""Tracing of products through the stages: a trace column in every row, and JSON log lines.

A row's trace is created with the manifest and returned with the receipt, so that the driver gets the time of every stage without
further communication. Workers also log JSON lines on standard error, which Ray stores under ``logs/`` of its session.
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
"""Environment variable of the log level: `debug` logs every stage of every product, `info` (default) model loads and outcomes of
products, `warning` rejects only."""

SPAN = pa.struct(
    [
        ("stage", pa.string()),
        ("seconds", pa.float64()),  # the batch's time, divided evenly among its products
        ("gpu_seconds", pa.float64()),  # seconds times the fraction of a GPU held
        ("node", pa.string()),  # Ray's node id, or the host name without Ray
        ("attempt", pa.int32()),  # 0 = Ray's first attempt at the task
    ]
)
TRACE = pa.struct([("run_id", pa.string()), ("spans", pa.list_(SPAN))])
COLUMN = "trace"
StageFunction = Callable[[pa.Table], pa.Table]
"""A function from an input table to a table with one row for each input row, in the same order."""


@dataclass
class StageTotals:
    """Totals of one stage in a run."""

    products: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    retried: int = 0
    """Products whose task Ray ran more than once."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for run records."""
        return asdict(self)


def with_trace(schema: pa.Schema) -> pa.Schema:
    """Append the trace column to a schema."""
    return schema.append(pa.field(COLUMN, TRACE))


def with_empty_traces(manifest: pa.Table, run_id: str) -> pa.Table:
    """Append the trace column to a manifest, with an empty trace in each row."""
    traces = pa.array([{"run_id": run_id, "spans": []}] * manifest.num_rows, TRACE)
    return manifest.append_column(pa.field(COLUMN, TRACE), traces)


def traced(function: StageFunction, stage: str, gpus: float = 0.0) -> StageFunction:
    """Wrap a stage's function to append a span to the trace of each row.

    Args:
        function: The stage's function, which does not see the trace column. Tables without traces are passed through to it.
        stage: ``kind.step``, as in `METRICS`.
        gpus: Fraction of a GPU that the worker holds.
    """

    def wrapper(table: pa.Table) -> pa.Table:
        if COLUMN not in table.column_names:
            return function(table)
        traces = table[COLUMN].to_pylist()
        started = time.monotonic()
        result = function(table.drop_columns(COLUMN))
        _extend(traces, stage, time.monotonic() - started, gpus, table)
        return result.append_column(pa.field(COLUMN, TRACE), pa.array(traces, TRACE))

    return wrapper


def _extend(traces: list[dict[str, Any]], stage: str, seconds: float, gpus: float, table: pa.Table) -> None:
    """Append the span of one batch to its traces, in place, and update metrics and the log."""
    node, attempt = node_and_attempt()
    per_row = seconds / max(1, len(traces))
    span = {"stage": stage, "seconds": per_row, "gpu_seconds": per_row * gpus, "node": node, "attempt": attempt}
    count("gapray_gpu_seconds_total", seconds * gpus, stage=stage)
    for trace, product_id in zip(traces, table["product_id"].to_pylist(), strict=True):
        observe("gapray_stage_seconds", per_row, stage=stage)
        trace["spans"].append(span)
        log("debug", "stage done", run_id=trace["run_id"], product_id=product_id, **span)


@contextmanager
def model_load(stage: str) -> Iterator[None]:
    """Measure and log the time that the block takes to load a stage's networks."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    observe("gapray_model_load_seconds", seconds, stage=stage)
    node, attempt = node_and_attempt()
    log("info", "models loaded", stage=stage, seconds=seconds, node=node, attempt=attempt)


def log(level: Level, message: str, **fields: Any) -> None:
    """Write one line of JSON to standard error, in Ray workers only: a driver shows progress bars instead."""
    if _LEVELS.index(level) < _threshold() or not _in_worker():
        return
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": stamp, "level": level, "message": message, **fields}, default=str)
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - Ray keeps what workers print


def log_outcomes(sink: StageFunction, kind: str) -> StageFunction:
    """Wrap a pipeline's sink, which returns receipts, to log the outcome of each product."""

    def wrapper(table: pa.Table) -> pa.Table:
        receipts = sink(table)
        if COLUMN in receipts.column_names:
            for receipt in receipts.to_pylist():
                _log_outcome(receipt, kind)
        return receipts

    return wrapper


def _log_outcome(receipt: Mapping[str, Any], kind: str) -> None:
    node, attempt = node_and_attempt()
    seconds = {span["stage"]: round(span["seconds"], 4) for span in receipt[COLUMN]["spans"]}
    fields = {"run_id": receipt[COLUMN]["run_id"], "product_id": receipt["product_id"], "stage": kind}
    fields |= {"outcome": receipt["outcome"], "attempt": attempt, "node": node, "seconds": seconds}
    if receipt["outcome"] == "rejected":
        log("warning", "product rejected", **fields, code=receipt["code"], reason=receipt["message"])
    else:
        log("info", "product committed", **fields)


def node_and_attempt() -> tuple[str, int]:
    """Return the id of this node, and the number of earlier attempts at the current task.

    Without Ray the node is the host name, and the number is 0.
    """
    if not ray.is_initialized():
        return os.uname().nodename, 0
    attempt = ray._private.worker.global_worker.core_worker.get_current_task_attempt_number() if _in_worker() else 0
    return _node(), int(attempt)


@cache
def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


@cache
def _threshold() -> int:
    level = os.environ.get(LOG_VARIABLE, "info")
    return _LEVELS.index(level) if level in _LEVELS else _LEVELS.index("info")


def _in_worker() -> bool:
    return bool(ray.is_initialized() and ray._private.worker.global_worker.mode == ray.WORKER_MODE)
