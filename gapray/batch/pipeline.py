"""A run as data: its stages, from the rows of a manifest to receipts, and what each of them needs.

`gapray.batch.ray_data` and `gapray.batch.local` carry a pipeline out. A stage's work knows neither of them, nor tracing, nor
columns that are not its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from gapray.batch.resources import LIGHT_CPU, READ_CPU, GpuShare
from gapray.batch.trace import Work, ends_logged, model_load, traced


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline."""

    name: str
    """``kind.step``, as in metrics, traces and run records."""
    work: Callable[..., Any]
    """A function of a table, or a class whose objects are such functions; a class is instantiated once a worker. It answers with
    one row for each row of its input, in their order."""
    takes: pa.Schema
    """Columns that it is given."""
    gives: pa.Schema
    """Columns that it answers with. What a row has beside those it takes goes on with the answer."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function, beside the table, or of the class."""
    workers: int | None = None
    """At most so many at once; None = as many as there is room for."""
    cpus: float = LIGHT_CPU
    """Logical CPUs of a worker."""
    gpu: GpuShare | None = None
    """Share of a GPU that each worker holds; None = it works on CPUs."""
    calls: int = 1
    """Batches that one worker of a class takes at once: with 2 it unpacks one while it computes the other."""

    @property
    def stateful(self) -> bool:
        """Whether it is a class, which holds networks."""
        return isinstance(self.work, type)

    @property
    def kind(self) -> str:
        """The kind of run that it belongs to: package, render, score or stills."""
        return self.name.partition(".")[0]

    def worker(self) -> Work:
        """One worker, its networks loaded; takes its time down in the rows' traces."""
        if self.stateful:
            with model_load(self.name):
                work = self.work(**self.arguments)
        else:
            work = partial(self.work, **self.arguments)
        return traced(partial(self._worked, work), self.name, self.gpu.num_gpus if self.gpu else 0.0)

    def _worked(self, work: Work, table: pa.Table) -> pa.Table:
        result = work(table.select(self.takes.names))
        if result.column_names != self.gives.names or result.num_rows != table.num_rows:
            raise TypeError(f"{self.name}: {result.num_rows} rows of {result.column_names} for {table.num_rows}")
        for name in table.column_names:
            if name not in self.takes.names:
                result = result.append_column(table.schema.field(name), table[name])
        return result


@dataclass(frozen=True)
class Pipeline:
    """Stages in their order, and a sink that commits rows and answers with receipts."""

    stages: tuple[Stage, ...]
    sink: Stage
    rows_per_block: int
    """Rows that go through the stages together: what a killed worker loses."""
    rows_per_part: int
    """Rows that the sink commits together: what a killed run loses."""

    def needs(self) -> dict[str, float]:
        """Ray resources that must be free at once for every stage to move."""
        every = [*self.stages, self.sink]
        workers = [(stage.workers or 1) if stage.stateful else 1 for stage in every]
        cpus = READ_CPU + sum(stage.cpus * count for stage, count in zip(every, workers, strict=True))
        gpus = sum(stage.gpu.num_gpus * count for stage, count in zip(every, workers, strict=True) if stage.gpu)
        return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}

    def smallest(self) -> Pipeline:
        """The same pipeline with one worker a stage."""
        return replace(self, stages=tuple(replace(stage, workers=1) for stage in self.stages))

    def sink_worker(self) -> Work:
        """The sink, which logs what became of each row."""
        return ends_logged(self.sink.worker(), self.sink.kind)
