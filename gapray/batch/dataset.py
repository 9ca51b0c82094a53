"""How runs use Ray Data: a manifest as a dataset with a run's own settings, and stages whose actors can be started again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, ClassVar

import pyarrow as pa
import ray
import ray.data

from gapray.batch.capacity import Capacity
from gapray.catalog.storage import Folder
from gapray.config import RunSettings
from gapray.models.store import share_kernels


def read_manifest(uri: str, folder: Folder, run: RunSettings, cluster: Capacity) -> ray.data.Dataset:
    """The rows of a published manifest, in one block.

    A dataset keeps a copy of the `DataContext` that it was made with, and hands it on to those that are made of it. So a run has
    settings of its own, and the caller's stay as they are.

    Args:
        uri: From `gapray.batch.runs.published`.
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


def lasting(stage: type) -> type:
    """A stage for `map_batches` whose actor lives although its networks could not be loaded; its next batch tries again.

    When Ray starts a dead actor anew and the constructor fails, the actor is dead for good. Ray Data (2.60,
    `actor_pool_map_operator.py: _update_running_actor_state`) keeps it in its pool without work and starts no other: if nobody
    waits for an answer of it just then, the run stands still. What a batch raises ends the run with that error.

    Args:
        stage: A class whose objects map a table to a table.
    """
    return type(stage.__name__, (_Lasting,), {"stage": staticmethod(stage)})


class _Lasting:
    stage: ClassVar[Callable[..., Callable[[pa.Table], pa.Table]]]

    def __init__(self, **given: Any) -> None:
        self._given, self._starting = given, Lock()
        self._work: Callable[[pa.Table], pa.Table] | None = None
        share_kernels()
        with suppress(Exception):
            self._started()

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._started()(table)

    def _started(self) -> Callable[[pa.Table], pa.Table]:
        with self._starting:  # an actor may take two batches at once
            if self._work is None:
                self._work = self.stage(**self._given)
            return self._work
