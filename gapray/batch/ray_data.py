"""A pipeline on Ray Data: a manifest as a dataset with a run's own settings, stages as tasks and as actors that can be started again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from gapray.batch.capacity import Capacity
from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.trace import Work
from gapray.catalog.storage import Folder
from gapray.config import RunSettings
from gapray.errors import CatalogError, FileError, writing
from gapray.models.store import share_kernels


def read_manifest(uri: str, folder: Folder, run: RunSettings, cluster: Capacity) -> ray.data.Dataset:
    """The rows of a published manifest, in one block.

    A dataset keeps a copy of the `DataContext` that it was made with, and hands it on to those that are made of it. So a run has
    settings of its own, and the caller's stay as they are.

    Args:
        uri: From `published`.
        folder: The catalogue that it lies in.
        run: For how long a run may stand still.
        cluster: What it may grow to.
    """
    context = ray.data.DataContext.get_current().copy()
    # Progress and advice are gapray's own: they count products, not blocks.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    # Else an error of a stage comes wrapped in Ray Data's own and loses its cause, and with it its code, on the way here.
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = -1 if run.no_progress_s is None else run.no_progress_s
    # The second version's listing starts 32 actors of one CPU each to read the footer of our one manifest, and a cluster that
    # scales itself brings nodes for them, GPU nodes too (2.60: datasource_v2/formats/parquet/footer_file_indexer.py). With one
    # such actor every run would still wait for another process to start (6.6 s instead of 3.4 s for an empty one on two cores).
    context.use_datasource_v2 = False
    if cluster.elastic:
        options = context.execution_options
        options.resource_limits = options.resource_limits.copy(
            cpu=cluster.most.get("CPU", 0), gpu=cluster.most.get("GPU", 0)
        )
    with ray.data.DataContext.current(context):
        return ray.data.read_parquet(uri, filesystem=folder.arrow, override_num_blocks=1)


def run_on_ray(
    pipeline: Pipeline, manifest: str, folder: Folder, run: RunSettings, cluster: Capacity
) -> Iterator[pa.Table]:
    """Take a manifest through a pipeline.

    Args:
        pipeline: Declared for `cluster.most`.
        manifest: From `published`.
        folder: The catalogue that it lies in.
        run: For how long it may stand still.
        cluster: What it runs on.

    Yields:
        Receipts of each part that was committed.
    """
    rows = read_manifest(manifest, folder, run, cluster)
    # A block is what a kill costs and what a worker holds: the manifest's rows are spread, never its file.
    rows = rows.repartition(target_num_rows_per_block=pipeline.rows_per_block)
    for stage in pipeline.stages:
        rows = through(rows, stage, pipeline.rows_per_block, cluster)
    receipts = rows.map_batches(
        _sunk,
        fn_kwargs={"pipeline": pipeline},
        batch_size=pipeline.rows_per_part,
        batch_format="pyarrow",
        num_cpus=pipeline.sink.cpus,
    )
    yield from receipts.iter_batches(batch_size=None, batch_format="pyarrow")


def through(rows: ray.data.Dataset, stage: Stage, batch: int, cluster: Capacity) -> ray.data.Dataset:
    """A dataset mapped by a stage: by tasks where it is a function, by a pool of actors where it holds networks.

    Args:
        rows: With the stage's columns.
        stage: What to do with them.
        batch: Rows in one call.
        cluster: What the dataset runs on.
    """
    shape: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": batch, "num_cpus": stage.cpus}
    if stage.gpu:
        shape["num_gpus"] = stage.gpu.num_gpus
    if stage.stateful:
        compute = cluster.pool(stage.workers or 1, calls=stage.calls)
        return rows.map_batches(lasting(stage), compute=compute, **shape)
    compute = ray.data.TaskPoolStrategy(stage.workers)
    return rows.map_batches(_applied, fn_kwargs={"stage": stage}, compute=compute, **shape)


def _applied(table: pa.Table, *, stage: Stage) -> pa.Table:
    return stage.worker()(table)


def _sunk(table: pa.Table, *, pipeline: Pipeline) -> pa.Table:
    return pipeline.sink_worker()(table)


def lasting(stage: Stage) -> type:
    """A stage for `map_batches` whose actor lives although its networks could not be loaded; its next batch tries again.

    When Ray starts a dead actor anew and the constructor fails, the actor is dead for good. Ray Data (2.60,
    `actor_pool_map_operator.py: _update_running_actor_state`) keeps it in its pool without work and starts no other: if nobody
    waits for an answer of it just then, the run stands still. What a batch raises ends the run with that error.
    """
    return type(stage.work.__name__, (_Lasting,), {"stage": stage})


class _Lasting:
    stage: ClassVar[Stage]

    def __init__(self) -> None:
        self._starting = Lock()
        self._work: Work | None = None
        share_kernels()
        with suppress(Exception):
            self._started()

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._started()(table)

    def _started(self) -> Work:
        with self._starting:  # an actor may take two batches at once
            if self._work is None:
                self._work = self.stage.worker()
            return self._work


@contextmanager
def published(rows: Iterator[pa.Table], folder: Folder, run_id: str) -> Iterator[str]:
    """A manifest where every node can read it, beside the catalogue's tables, for as long as the block lasts.

    Args:
        rows: The manifest, at least one table.
        folder: The catalogue.
        run_id: Names the file.

    Raises:
        FileError: `file.write_failed`.
        CatalogError: `catalog.write_failed`.
    """
    name = f"{run_id}.parquet"
    with tempfile.TemporaryDirectory(prefix="gapray-") as scratch:
        local = Path(scratch) / name
        with writing(FileError, "file.write_failed", local):
            first = next(rows)
            with pq.ParquetWriter(local, first.schema) as writer:
                for table in chain([first], rows):
                    writer.write_table(table)
        with writing(CatalogError, "catalog.write_failed", f"{folder.path}/manifests"):
            folder.put("manifests", name, pa.memory_map(str(local)).read_buffer())
    uri = f"{folder.path}/manifests/{name}"
    try:
        yield uri
    finally:
        with suppress(OSError):  # no word about a left-over may hide what ended the run
            folder.remove(uri)
