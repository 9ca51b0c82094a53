"""Execution common to all runs: pending rows go through a pipeline on the configured executor, receipts to the recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gapray.batch.capacity import capacity, reserved_resources
from gapray.batch.local import resources, run_locally
from gapray.batch.pipeline import Pipeline
from gapray.batch.ray_data import published_manifest, run_on_ray
from gapray.batch.record import Recorder
from gapray.batch.trace import with_empty_traces
from gapray.catalog.storage import Folder
from gapray.profile import RunSettings
from gapray.ray_session import connected

ROWS_AT_ONCE = 8192
"""Rows of a manifest that are read at once."""

PipelineFactory = Callable[[Mapping[str, float]], Pipeline]
"""Ray resources by name -> a pipeline that is planned to fill them."""


def run_pipeline(
    recorder: Recorder[Any],
    pending: pa.Table | Path,
    folder: Folder,
    run: RunSettings,
    make_pipeline: PipelineFactory,
    *,
    address: str | None = None,
) -> None:
    """Run pending rows through a pipeline, part by part.

    Args:
        recorder: Recorder of the run, which gets the receipts of every part.
        pending: A table of rows, or a Parquet file of them. If there are none, nothing is started.
        folder: The catalogue.
        run: The executor, and how the work is distributed.
        make_pipeline: Creates the pipeline for the resources that are available.
        address: A Ray cluster, for the executor `ray_data`; default: the one this process is connected to, `RAY_ADDRESS`, or a
            new local one.

    Raises:
        GaprayError: The run as a whole failed.
    """
    if not _has_rows(pending):
        return
    rows = (with_empty_traces(table, recorder.run_id) for table in _tables(pending))
    if run.executor == "local":
        for receipts in run_locally(make_pipeline(resources()), rows, device_gb=run.device_gb):
            recorder.add(receipts)
        return
    with connected(address), recorder.on_cluster(), published_manifest(rows, folder, recorder.run_id) as uri:
        cluster = capacity(run)
        pipeline = make_pipeline(cluster.maximum)
        with reserved_resources(pipeline, cluster, run.wait_for_nodes_s):
            for receipts in run_on_ray(pipeline, uri, folder, run, cluster):
                recorder.add(receipts)


def _has_rows(pending: pa.Table | Path) -> bool:
    return bool(pending.num_rows if isinstance(pending, pa.Table) else pq.read_metadata(pending).num_rows)


def _tables(pending: pa.Table | Path) -> Iterator[pa.Table]:
    if isinstance(pending, pa.Table):
        yield pending
        return
    with pq.ParquetFile(pending) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            yield pa.Table.from_batches([batch])
