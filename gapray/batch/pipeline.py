"""Pipelines: the stages of a run, from manifest rows to receipts, with the resources that each needs.

A pipeline is plain data. The executors are `gapray.batch.ray_data` and `gapray.batch.local`; a stage's function does not depend
on either, nor on tracing, nor on columns of other stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from gapray.batch.resources import LIGHT_CPU, READ_CPU, GpuShare
from gapray.batch.trace import StageFunction, log_outcomes, model_load, traced


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline."""

    name: str
    """``kind.step``, as in metrics, traces and run records."""
    function: Callable[..., Any]
    """A function of a table, or a class with such a `__call__`, which is instantiated once per worker. The result has one row
    for each input row, in the same order."""
    input_schema: pa.Schema
    """Columns that the function reads."""
    output_schema: pa.Schema
    """Columns that the function returns. Other columns of the input are passed through."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function, besides the table, or of the class."""
    workers: int | None = None
    """Maximum number of workers; None = as many as fit."""
    cpus: float = LIGHT_CPU
    """Logical CPUs of a worker."""
    gpu: GpuShare | None = None
    """Share of a GPU that each worker holds; None = it runs on CPUs."""
    concurrent_calls: int = 1
    """Batches that one actor processes concurrently; with 2 it unpacks one while it computes the other."""

    @property
    def stateful(self) -> bool:
        """Whether `function` is a class, which holds networks."""
        return isinstance(self.function, type)

    @property
    def kind(self) -> str:
        """The kind of run that the stage belongs to: package, render, score or stills."""
        return self.name.partition(".")[0]

    def worker(self) -> StageFunction:
        """Create one worker, with its networks loaded; it records its time in the rows' traces."""
        if self.stateful:
            with model_load(self.name):
                function = self.function(**self.arguments)
        else:
            function = partial(self.function, **self.arguments)
        return traced(partial(self._apply, function), self.name, self.gpu.num_gpus if self.gpu else 0.0)

    def _apply(self, function: StageFunction, table: pa.Table) -> pa.Table:
        result = function(table.select(self.input_schema.names))
        if result.column_names != self.output_schema.names or result.num_rows != table.num_rows:
            raise TypeError(f"{self.name}: {result.num_rows} rows of {result.column_names} for {table.num_rows}")
        for name in table.column_names:
            if name not in self.input_schema.names:
                result = result.append_column(table.schema.field(name), table[name])
        return result


@dataclass(frozen=True)
class Pipeline:
    """The stages of a run, in order, and a sink that commits rows and returns receipts."""

    stages: tuple[Stage, ...]
    sink: Stage
    rows_per_block: int
    """Rows that pass through the stages together: what is lost with a killed worker."""
    rows_per_part: int
    """Rows that the sink commits together: what is lost with a killed run."""

    def needs(self) -> dict[str, float]:
        """Return the Ray resources that must be available at once for every stage to make progress."""
        stages = [*self.stages, self.sink]
        workers = [(stage.workers or 1) if stage.stateful else 1 for stage in stages]
        cpus = READ_CPU + sum(stage.cpus * count for stage, count in zip(stages, workers, strict=True))
        gpus = sum(stage.gpu.num_gpus * count for stage, count in zip(stages, workers, strict=True) if stage.gpu)
        return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}

    def smallest(self) -> Pipeline:
        """Return a copy of the pipeline with one worker per stage."""
        return replace(self, stages=tuple(replace(stage, workers=1) for stage in self.stages))

    def sink_worker(self) -> StageFunction:
        """Create one worker of the sink, which logs the outcome of each row."""
        return log_outcomes(self.sink.worker(), self.sink.kind)
