"""A pipeline in this process, stage after stage: for small jobs, measurements and tests. No Ray is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from functools import reduce

import pyarrow as pa

from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.resources import GpuShare, threads_kept
from gapray.batch.trace import Work


def resources() -> dict[str, float]:
    """What this process may use, as Ray's `cluster_resources()` would name it."""
    import torch

    gpus = {"GPU": 1.0} if torch.cuda.is_available() else {}
    return {"CPU": float(len(os.sched_getaffinity(0)))} | gpus


def run_here(
    pipeline: Pipeline,
    rows: Iterator[pa.Table],
    *,
    device_gb: float,
    observed: Callable[[Stage, Work], Work] = lambda _, work: work,
) -> Generator[pa.Table]:
    """Take rows through a pipeline.

    Args:
        pipeline: Declared for `resources()`.
        rows: Tables of a manifest's rows, of any length.
        device_gb: Memory of the GPU, of which all stages here have the whole.
        observed: Wraps each worker.

    Yields:
        Receipts of each part that was committed.

    Raises:
        GaprayError: A stage's networks cannot be loaded, or a part cannot be committed.
    """
    with threads_kept():
        work = [observed(stage, stage.worker()) for stage in pipeline.stages]
        sink = observed(pipeline.sink, pipeline.sink_worker())
        if any(stage.gpu for stage in pipeline.stages):
            # Each stage has kept the process to its own share; here they are one process.
            GpuShare(device_gb, device_gb).cap_this_process()
        done: list[pa.Table] = []
        for block in _batches(rows, pipeline.rows_per_block):
            done.append(reduce(lambda table, step: step(table), work, block))
            if sum(table.num_rows for table in done) >= pipeline.rows_per_part:
                yield sink(pa.concat_tables(done))
                done = []
        if done:
            yield sink(pa.concat_tables(done))


def _batches(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    for table in tables:
        for begin in range(0, table.num_rows, rows):
            yield table.slice(begin, rows)
