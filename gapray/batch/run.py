"""How every run goes: its pending rows through a pipeline, by the executor that the settings name, receipts to the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gapray.batch.capacity import capacity, room_for
from gapray.batch.local import resources, run_here
from gapray.batch.pipeline import Pipeline
from gapray.batch.ray_data import published, run_on_ray
from gapray.batch.record import Recorder
from gapray.batch.trace import begun
from gapray.catalog.storage import Folder
from gapray.config import RunSettings
from gapray.ray_session import connected

ROWS_AT_ONCE = 8192
"""Rows of a manifest that are read together."""

Declared = Callable[[Mapping[str, float]], Pipeline]
"""Ray resources by name -> the pipeline that fills them."""


def carry_out(
    recorder: Recorder[Any],
    pending: pa.Table | Path,
    folder: Folder,
    run: RunSettings,
    declared: Declared,
    *,
    address: str | None = None,
) -> None:
    """Take what is pending through a pipeline, part by part.

    Args:
        recorder: Of the run; hears of every part.
        pending: Rows, or a parquet file of them. Where there are none, nothing is started.
        folder: The catalogue.
        run: Executor, and how the work is spread.
        declared: Makes the pipeline, once it is known what it runs on.
        address: A Ray cluster, for the executor `ray_data`; default: the one this process is connected to, `RAY_ADDRESS`, or a
            new local one.

    Raises:
        GaprayError: What ends the run as a whole.
    """
    if not _any(pending):
        return
    rows = (begun(table, recorder.run_id) for table in _tables(pending))
    if run.executor == "local":
        for receipts in run_here(declared(resources()), rows, device_gb=run.device_gb):
            recorder.add(receipts)
        return
    with connected(address), recorder.on_cluster(), published(rows, folder, recorder.run_id) as uri:
        cluster = capacity(run)
        pipeline = declared(cluster.most)
        with room_for(pipeline, cluster, run.wait_for_nodes_s):
            for receipts in run_on_ray(pipeline, uri, folder, run, cluster):
                recorder.add(receipts)


def _any(pending: pa.Table | Path) -> bool:
    return bool(pending.num_rows if isinstance(pending, pa.Table) else pq.read_metadata(pending).num_rows)


def _tables(pending: pa.Table | Path) -> Iterator[pa.Table]:
    if isinstance(pending, pa.Table):
        yield pending
        return
    with pq.ParquetFile(pending) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            yield pa.Table.from_batches([batch])
