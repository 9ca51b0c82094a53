"""What all processors share: the caller's columns pass through, stages are applied one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray.data

from gapray.batch.capacity import capacity
from gapray.batch.pipeline import Stage
from gapray.batch.ray_data import apply_stage
from gapray.batch.resources import LIGHT_CPU
from gapray.errors import InputError
from gapray.profile import RunSettings

Processor = Callable[[ray.data.Dataset], ray.data.Dataset]

_CALLER_PREFIX = "caller."
"""Prefix of the caller's columns while gapray's stages run."""


def processor(
    run: RunSettings,
    make_stages: Callable[[Mapping[str, float]], Sequence[Stage]],
    batch_size: int,
    *,
    optional: Sequence[pa.Field] = (),
    repeat: tuple[pa.Field, Sequence[str]] | None = None,
) -> Processor:
    """Return a processor that applies stages to a dataset.

    Args:
        run: Settings of the cluster.
        make_stages: Ray resources by name -> the stages, planned to fill them.
        batch_size: Rows per call of a stage.
        optional: Columns of the first stage that a dataset may lack; they are null then.
        repeat: A column and its values: every row is repeated for each value.
    """

    def process(dataset: ray.data.Dataset) -> ray.data.Dataset:
        cluster = capacity(run)
        # A gapray run fills the cluster; a processor must leave room for the caller's other stages and processors.
        stages = [replace(stage, cpus=LIGHT_CPU) for stage in make_stages(cluster.maximum)]
        names = {"inputs": stages[0].input_schema.names, "outputs": stages[-1].output_schema.names}
        arguments = names | {"optional": optional, "repeat": repeat}
        options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": batch_size, "num_cpus": LIGHT_CPU}
        dataset = dataset.map_batches(_prepare, fn_kwargs=arguments, **options)
        for stage in stages:
            dataset = apply_stage(dataset, stage, batch_size, cluster)
        return dataset.map_batches(_restore_caller_columns, **options)

    return process


def _prepare(
    table: pa.Table,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    optional: Sequence[pa.Field],
    repeat: tuple[pa.Field, Sequence[str]] | None,
) -> pa.Table:
    """Repeat rows, add missing optional columns, and prefix the names of columns that the stages do not read.

    Prefixed, no column of the caller's can collide with a stage's.

    Args:
        table: Rows of the caller.
        inputs: Columns that the first stage reads.
        outputs: Columns of the result.
        optional: Columns that are added as nulls if they are missing.
        repeat: A column and the values for which every row is repeated.

    Raises:
        InputError: `data.missing_column`, or `data.reserved_column` for a column that the result would have twice.
    """
    added = [repeat[0].name] if repeat else []
    passed_through = [name for name in table.column_names if name not in inputs or name in added]
    for name in passed_through:
        if name in outputs:
            raise InputError("data.reserved_column", f"the dataset has a column {name!r}, and so has the result")
    for field in optional:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    for name in inputs:
        if name not in table.column_names and name not in added:
            raise InputError("data.missing_column", f"the dataset has no column {name!r}; it has {table.column_names}")
    table = table.rename_columns(
        [f"{_CALLER_PREFIX}{name}" if name in passed_through else name for name in table.column_names]
    )
    if repeat is None:
        return table
    field, values = repeat
    rows = [row for row in range(table.num_rows) for _ in values]
    return table.take(rows).append_column(field, pa.array([*values] * table.num_rows, field.type))


def _restore_caller_columns(table: pa.Table) -> pa.Table:
    return table.rename_columns([name.removeprefix(_CALLER_PREFIX) for name in table.column_names])
