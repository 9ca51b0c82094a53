"""gapray's stages as processors of Ray datasets, in the style of `ray.data.llm`.

    import ray
    import gapray.data

    photos = ray.data.read_parquet("s3://shop/photos")
    packages = gapray.data.package_processor("classic")(photos)
    videos = gapray.data.turntable_processor("classic", preset="web")(packages)
    videos.write_parquet("s3://shop/turntables")

A processor is a function from a dataset to a dataset. Its result is lazy, has one row for each input row, and keeps all columns
that the processor does not use. A product that cannot be processed becomes a row with a `reject`, which later processors pass
on. No catalogue is read or written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import ray
import ray.data

from gapray.batch.capacity import capacity
from gapray.batch.package import package_pipeline
from gapray.batch.pipeline import Stage
from gapray.batch.ray_data import apply_stage
from gapray.batch.render import render_pipeline
from gapray.batch.render_stages import DRAWN, LOADED, PACKAGE, VideoFacts, exported, video_reject
from gapray.batch.resources import LIGHT_CPU
from gapray.batch.rows import FINISHED, PLANNED, Row, error_columns
from gapray.batch.runs import new_run_id
from gapray.capture.azimuths import refuse_gaps
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.capture.manifest import manifest_row
from gapray.catalog.rows import RunFacts
from gapray.catalog.schemas import VIDEOS
from gapray.config import Profile, RunSettings, load_profile
from gapray.errors import GaprayError, InputError
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.video.load import video_revisions
from gapray.video.presets import preset_named

Processor = Callable[[ray.data.Dataset], ray.data.Dataset]

PHOTOS = pa.schema(
    [
        ("product_id", pa.string()),
        ("photos", pa.list_(pa.struct([("uri", pa.string()), ("azimuth_deg", pa.float64())]))),
    ]
)
"""Input of `package_processor`. `uri`: a local path or fsspec URI; `azimuth_deg`: 0 = front, increasing as the camera moves
counter-clockwise seen from above."""
PACKAGES = FINISHED
"""Output of `package_processor`: `product` and `views` are rows of the catalogue's `products` and `views`, images included."""
FILE = pa.struct([("name", pa.string()), ("data", pa.large_binary())])
TURNTABLES = pa.schema(
    [*FINISHED, pa.field("video", pa.struct(list(VIDEOS))), pa.field("files", pa.list_(FILE))],
)
"""Output of `turntable_processor`: the package, the video's row of the catalogue's table `videos`, and its files."""
_PACKAGE_FIELD = pa.field("kept", pa.struct([FINISHED.field(name) for name in ("product", "views", "reject")]))
_LOADED_WITH_PACKAGE = pa.schema([*LOADED, _PACKAGE_FIELD])
_CALLER_PREFIX = "caller."
"""Prefix of the caller's columns while gapray's stages run."""


def package_processor(profile: str | Profile = "classic") -> Processor:
    """Return a processor that makes GAP packages of photos.

    Args:
        profile: A profile's name, or one made by `gapray.config.load_profile`.

    Returns:
        A processor from `PHOTOS` to `PACKAGES`.

    Raises:
        ModelError: A model's weights are not found.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    hashes = revisions(chosen.packaging)
    settings = chosen.packaging.digest(hashes)
    facts = RunFacts(new_run_id(), settings, chosen.name, model_names(chosen.packaging, hashes))

    def make_stages(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        pipeline = package_pipeline(cluster, profile=chosen, facts=facts, catalog="")
        return (Stage("package.take", _planned_rows, PHOTOS, PLANNED), *pipeline.stages)

    return _processor(chosen.run, make_stages, chosen.run.products_per_block)


def turntable_processor(profile: str | Profile = "classic", *, preset: str = "web", seed: int = 0) -> Processor:
    """Return a processor that makes turntable videos of GAP packages.

    Args:
        profile: As for `package_processor`.
        preset: Name of an export preset (`gapray.video.presets`).
        seed: Random seed.

    Returns:
        A processor from `PACKAGES` to `TURNTABLES`. Calling it raises `ResourceError` (`resource.insufficient`) if the generator
        needs a GPU and the cluster has none.

    Raises:
        ConfigError: `video.unknown_preset`.
        ModelError: A model's weights are not found.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    preset_named(preset)
    facts = VideoFacts(new_run_id(), "", chosen, preset, video_revisions(chosen.video, chosen.orbit))

    def make_stages(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        [draw] = [stage for stage in render_pipeline(cluster, facts=facts).stages if stage.name == "render.draw"]
        drawn = pa.schema([*DRAWN, _PACKAGE_FIELD])
        return (
            Stage("render.take", _loaded_rows, FINISHED, _LOADED_WITH_PACKAGE, {"facts": facts, "seed": seed}),
            draw,
            Stage("render.encode", _encoded_rows, drawn, TURNTABLES, {"facts": facts}, draw.workers),
        )

    return _processor(chosen.run, make_stages, 1)


def _processor(
    run: RunSettings, make_stages: Callable[[Mapping[str, float]], Sequence[Stage]], batch_size: int
) -> Processor:
    def process(dataset: ray.data.Dataset) -> ray.data.Dataset:
        cluster = capacity(run)
        # A gapray run fills the cluster; a processor must leave room for the caller's other stages and processors.
        stages = [replace(stage, cpus=LIGHT_CPU) for stage in make_stages(cluster.maximum)]
        names = {"inputs": stages[0].input_schema.names, "outputs": stages[-1].output_schema.names}
        options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": batch_size, "num_cpus": LIGHT_CPU}
        dataset = dataset.map_batches(_prefix_caller_columns, fn_kwargs=names, **options)
        for stage in stages:
            dataset = apply_stage(dataset, stage, batch_size, cluster)
        return dataset.map_batches(_restore_caller_columns, **options)

    return process


def _prefix_caller_columns(table: pa.Table, *, inputs: Sequence[str], outputs: Sequence[str]) -> pa.Table:
    """Prefix the names of columns that the stages do not read, so that no stage's column can collide with them.

    Args:
        table: Rows of the caller.
        inputs: Columns that the first stage reads.
        outputs: Columns of the result.

    Raises:
        InputError: `data.missing_column`, or `data.reserved_column` for a column that the result would have twice.
    """
    passed_through = [name for name in table.column_names if name not in inputs]
    for name in inputs:
        if name not in table.column_names:
            raise InputError("data.missing_column", f"the dataset has no column {name!r}; it has {table.column_names}")
    for name in passed_through:
        if name in outputs:
            raise InputError("data.reserved_column", f"the dataset has a column {name!r}, and so has the result")
    return table.rename_columns(
        [f"{_CALLER_PREFIX}{name}" if name in passed_through else name for name in table.column_names]
    )


def _restore_caller_columns(table: pa.Table) -> pa.Table:
    return table.rename_columns([name.removeprefix(_CALLER_PREFIX) for name in table.column_names])


def _planned_rows(table: pa.Table) -> pa.Table:
    """Convert rows of `PHOTOS` to rows of `PLANNED`; unusable photos become an error in their row."""
    rows = []
    for row in table.to_pylist():
        identifier = str(row["product_id"])
        try:
            planned = manifest_row(_capture_set(identifier, row["photos"] or []))
        except GaprayError as error:
            planned = manifest_row(Reject.of(identifier, "", error))
        rows.append({name: planned.get(name) for name in PLANNED.names})
    return pa.Table.from_pylist(rows, schema=PLANNED)


def _capture_set(identifier: str, photos: Sequence[Row]) -> CaptureSet:
    """Return the capture set of a row's photos, sorted by azimuth.

    Raises:
        InputError: `capture.missing_views` or `capture.duplicate_azimuth`.
    """
    unsorted = [
        Photo(PurePosixPath(photo["uri"]).name, photo["uri"], float(photo["azimuth_deg"]) % 360.0, 0, photo["uri"])
        for photo in photos
    ]
    refuse_gaps({photo.uri: photo.azimuth_deg for photo in unsorted})
    ordered = tuple(sorted(unsorted, key=lambda photo: photo.azimuth_deg))
    return CaptureSet(identifier, str(PurePosixPath(ordered[0].uri).parent), ordered, "table")


def _loaded_rows(table: pa.Table, *, facts: VideoFacts, seed: int) -> pa.Table:
    """Convert rows of `PACKAGES` to the input of `render.draw`, with the package itself in one column."""
    rows = []
    for row in table.to_pylist():
        product, reject = row["product"], row["reject"]
        key = product["key"] if product else ""
        rows.append(
            {
                "product_id": row["product_id"],
                "product_key": key,
                "key": facts.keys([key], seed)[0],
                "seed": seed,
                "part": None,
                "product": product and {name: product[name] for name in (field.name for field in PACKAGE)},
                "error_code": reject and reject["code"],
                "error_message": reject and reject["message"],
                "views": row["views"],
                "kept": {"product": product, "views": row["views"], "reject": reject},
            }
        )
    return pa.Table.from_pylist(rows, schema=_LOADED_WITH_PACKAGE)


def _encoded_rows(table: pa.Table, *, facts: VideoFacts) -> pa.Table:
    """Encode drawn frames to the preset's files: rows of `render.draw` to rows of `TURNTABLES`."""
    rows = []
    for row in table.to_pylist():
        files: dict[str, bytes] = {}
        if row["error_code"] is None:
            try:
                files = exported(row, facts)
            except Exception as error:
                row.update(error_columns(error))
        failed = row["error_code"] is not None
        rows.append(
            {
                "product_id": row["product_id"],
                **row["kept"],
                "reject": row["kept"]["reject"] or (video_reject(row, facts) if failed else None),
                "video": None if failed else row["video"] | _file_columns(files),
                "files": [{"name": name, "data": data} for name, data in files.items()],
            }
        )
    return pa.Table.from_pylist(rows, schema=TURNTABLES)


def _file_columns(files: dict[str, bytes]) -> dict[str, Any]:
    return {"files": list(files), "bytes": sum(map(len, files.values()))}
