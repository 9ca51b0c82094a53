"""Executor that runs a pipeline in this process, one stage after another, without Ray: for small jobs, measurements and tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from functools import reduce

import pyarrow as pa

from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.resources import GpuShare, preserved_thread_counts
from gapray.batch.trace import StageFunction


def resources() -> dict[str, float]:
    """Return the resources available to this process, under the names of Ray's `cluster_resources()`."""
    import torch

    gpus = {"GPU": 1.0} if torch.cuda.is_available() else {}
    return {"CPU": float(len(os.sched_getaffinity(0)))} | gpus


def run_locally(
    pipeline: Pipeline,
    rows: Iterator[pa.Table],
    *,
    device_gb: float,
    wrap: Callable[[Stage, StageFunction], StageFunction] = lambda _, function: function,
) -> Generator[pa.Table]:
    """Run rows through a pipeline.

    Args:
        pipeline: Planned for `resources()`.
        rows: Tables of manifest rows, of any length.
        device_gb: Memory of the GPU, which all stages share [GB].
        wrap: Wraps the function of each stage, for example to time it.

    Yields:
        The receipts of each committed part.

    Raises:
        GaprayError: A stage's networks cannot be loaded, or a part cannot be committed.
    """
    with preserved_thread_counts():
        functions = [wrap(stage, stage.worker()) for stage in pipeline.stages]
        sink = wrap(pipeline.sink, pipeline.sink_worker())
        if any(stage.gpu for stage in pipeline.stages):
            # Each stage has capped the process at its own share of the GPU, but here all stages are one process.
            GpuShare(device_gb, device_gb).cap_this_process()
        finished: list[pa.Table] = []
        for block in _batches(rows, pipeline.rows_per_block):
            finished.append(reduce(lambda table, function: function(table), functions, block))
            if sum(table.num_rows for table in finished) >= pipeline.rows_per_part:
                yield sink(pa.concat_tables(finished))
                finished = []
        if finished:
            yield sink(pa.concat_tables(finished))


def _batches(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    for table in tables:
        for begin in range(0, table.num_rows, rows):
            yield table.slice(begin, rows)
