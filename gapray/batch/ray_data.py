"""Executor that runs a pipeline on Ray Data: functions as tasks, classes as pools of actors that survive failed restarts."""

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
from gapray.batch.trace import StageFunction
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, FileError, writing
from gapray.models.store import share_kernels
from gapray.profile import RunSettings


def read_manifest(uri: str, folder: Folder, run: RunSettings, cluster: Capacity) -> ray.data.Dataset:
    """Read a published manifest as a dataset of one block.

    A dataset keeps a copy of the `DataContext` that it was created with and passes it on to datasets derived from it, so that a
    run has its own settings and the caller's remain unchanged.

    Args:
        uri: From `published_manifest`.
        folder: The catalogue that contains the manifest.
        run: Settings of the run; `no_progress_s` is used.
        cluster: Its maximum limits Ray Data's resources.
    """
    context = ray.data.DataContext.get_current().copy()
    # gapray reports progress itself, in products instead of blocks.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    # Otherwise Ray Data wraps a stage's error and drops its cause, and with it the error code.
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = -1 if run.no_progress_s is None else run.no_progress_s
    # DataSourceV2 starts 32 actors of one CPU each to read the footer of our single manifest, and an autoscaler adds nodes for
    # them, even GPU nodes (2.60: datasource_v2/formats/parquet/footer_file_indexer.py). Limited to one such actor, every run would
    # still wait for another process to start (6.6 s instead of 3.4 s for an empty run on two cores).
    context.use_datasource_v2 = False
    if cluster.elastic:
        options = context.execution_options
        options.resource_limits = options.resource_limits.copy(
            cpu=cluster.maximum.get("CPU", 0), gpu=cluster.maximum.get("GPU", 0)
        )
    with ray.data.DataContext.current(context):
        return ray.data.read_parquet(uri, filesystem=folder.arrow, override_num_blocks=1)


def run_on_ray(
    pipeline: Pipeline, manifest: str, folder: Folder, run: RunSettings, cluster: Capacity
) -> Iterator[pa.Table]:
    """Run the rows of a manifest through a pipeline.

    Args:
        pipeline: Planned for `cluster.maximum`.
        manifest: URI from `published_manifest`.
        folder: The catalogue that contains the manifest.
        run: Settings of the run; `no_progress_s` is used.
        cluster: Capacity of the cluster.

    Yields:
        The receipts of each committed part.
    """
    rows = read_manifest(manifest, folder, run, cluster)
    # A block is what a worker holds in memory and what is lost with it, so rows are distributed, not files.
    rows = rows.repartition(target_num_rows_per_block=pipeline.rows_per_block)
    for stage in pipeline.stages:
        rows = apply_stage(rows, stage, pipeline.rows_per_block, cluster)
    receipts = rows.map_batches(
        _run_sink,
        fn_kwargs={"pipeline": pipeline},
        batch_size=pipeline.rows_per_part,
        batch_format="pyarrow",
        num_cpus=pipeline.sink.cpus,
    )
    yield from receipts.iter_batches(batch_size=None, batch_format="pyarrow")


def apply_stage(rows: ray.data.Dataset, stage: Stage, batch_size: int, cluster: Capacity) -> ray.data.Dataset:
    """Map a dataset by a stage: by tasks if it is a function, by a pool of actors if it is a class.

    Args:
        rows: A dataset with the stage's input columns.
        stage: The stage to apply.
        batch_size: Rows per call.
        cluster: Capacity of the cluster.

    Returns:
        A lazy dataset with the stage's output columns.
    """
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": batch_size, "num_cpus": stage.cpus}
    if stage.gpu:
        options["num_gpus"] = stage.gpu.num_gpus
    if stage.stateful:
        compute = cluster.pool(stage.workers or 1, concurrent_calls=stage.concurrent_calls)
        return rows.map_batches(resilient_actor(stage), compute=compute, **options)
    compute = ray.data.TaskPoolStrategy(stage.workers)
    return rows.map_batches(_run_stage, fn_kwargs={"stage": stage}, compute=compute, **options)


def _run_stage(table: pa.Table, *, stage: Stage) -> pa.Table:
    return stage.worker()(table)


def _run_sink(table: pa.Table, *, pipeline: Pipeline) -> pa.Table:
    return pipeline.sink_worker()(table)


def resilient_actor(stage: Stage) -> type:
    """Return a class for `map_batches` whose constructor does not fail if networks cannot be loaded; the next batch tries again.

    If the constructor of a restarted actor fails, the actor is dead for good. Ray Data (2.60,
    `actor_pool_map_operator.py: _update_running_actor_state`) keeps it idle in its pool and starts no other, so that the run may
    hang. An error raised by a batch ends the run with that error instead.
    """
    return type(stage.function.__name__, (_ResilientActor,), {"stage": stage})


class _ResilientActor:
    stage: ClassVar[Stage]

    def __init__(self) -> None:
        self._lock = Lock()
        self._worker: StageFunction | None = None
        share_kernels()
        with suppress(Exception):
            self._ensure_worker()

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._ensure_worker()(table)

    def _ensure_worker(self) -> StageFunction:
        with self._lock:  # an actor may process two batches concurrently
            if self._worker is None:
                self._worker = self.stage.worker()
            return self._worker


@contextmanager
def published_manifest(rows: Iterator[pa.Table], folder: Folder, run_id: str) -> Iterator[str]:
    """Write a manifest into the catalogue, where every node can read it, and remove it when the block ends.

    Args:
        rows: Tables of the manifest, at least one.
        folder: The catalogue.
        run_id: Id of the run, used as the file's name.

    Yields:
        The manifest's URI.

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
        with suppress(OSError):  # a failed clean-up must not hide the error that ended the run
            folder.remove(uri)
