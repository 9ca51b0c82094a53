"""gapray's stages over datasets of your own, in the manner of `ray.data.llm`.

    import ray
    import gapray.data

    photos = ray.data.read_parquet("s3://shop/photos")
    packages = gapray.data.package_processor("classic")(photos)
    videos = gapray.data.turntable_processor("classic", preset="web")(packages)
    videos.write_parquet("s3://shop/turntables")

A processor is a function of a dataset. What it returns is lazy, has one row for each row of its input, and carries on every column
that is not its own. A product that cannot be used is a row with a `reject`, which the processors that follow leave as it is.
Nothing is read from or written to a catalogue.
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
from gapray.batch.ray_data import through
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
"""What `package_processor` takes. `uri`: a local path or fsspec URI; `azimuth_deg`: 0 = front, growing as the camera walks
counter-clockwise seen from above."""
PACKAGES = FINISHED
"""What `package_processor` gives: `product` and `views` are rows of the catalogue's tables of these names, pictures included."""
FILE = pa.struct([("name", pa.string()), ("data", pa.large_binary())])
TURNTABLES = pa.schema(
    [*FINISHED, pa.field("video", pa.struct(list(VIDEOS))), pa.field("files", pa.list_(FILE))],
)
"""What `turntable_processor` gives: the package, the video's row of the catalogue's table `videos`, and its files."""
_KEPT = pa.field("kept", pa.struct([FINISHED.field(name) for name in ("product", "views", "reject")]))
_TAKEN = pa.schema([*LOADED, _KEPT])
_OWN = "caller."


def package_processor(profile: str | Profile = "classic") -> Processor:
    """Photos -> GAP packages.

    Args:
        profile: A profile's name, or one made by `gapray.config.load_profile`.

    Returns:
        A processor from `PHOTOS` to `PACKAGES`.

    Raises:
        ModelError: Weights are not where the profile's models are looked for.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    hashes = revisions(chosen.packaging)
    settings = chosen.packaging.digest(hashes)
    facts = RunFacts(new_run_id(), settings, chosen.name, model_names(chosen.packaging, hashes))

    def declared(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        pipeline = package_pipeline(cluster, profile=chosen, facts=facts, catalog="")
        return (Stage("package.take", _planned, PHOTOS, PLANNED), *pipeline.stages)

    return _processor(chosen.run, declared, chosen.run.products_per_block)


def turntable_processor(profile: str | Profile = "classic", *, preset: str = "web", seed: int = 0) -> Processor:
    """GAP packages -> turntable videos.

    Args:
        profile: As for `package_processor`.
        preset: Which files to make: `gapray.video.presets`.
        seed: Of whatever is random.

    Returns:
        A processor from `PACKAGES` to `TURNTABLES`.

    Raises:
        ConfigError: `video.unknown_preset`.
        ModelError: Weights are not where the profile's models are looked for.
        ResourceError: `resource.insufficient`, from the processor: the generator needs a GPU, and the cluster has none.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    preset_named(preset)
    facts = VideoFacts(new_run_id(), "", chosen, preset, video_revisions(chosen.video, chosen.orbit))

    def declared(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        [draw] = [stage for stage in render_pipeline(cluster, facts=facts).stages if stage.name == "render.draw"]
        drawn = pa.schema([*DRAWN, _KEPT])
        return (
            Stage("render.take", _loaded, FINISHED, _TAKEN, {"facts": facts, "seed": seed}),
            draw,
            Stage("render.encode", _encoded, drawn, TURNTABLES, {"facts": facts}, draw.workers),
        )

    return _processor(chosen.run, declared, 1)


def _processor(run: RunSettings, declared: Callable[[Mapping[str, float]], Sequence[Stage]], batch: int) -> Processor:
    def processed(dataset: ray.data.Dataset) -> ray.data.Dataset:
        cluster = capacity(run)
        # A run of ours fills a cluster; here other stages, the caller's and another processor's, need their share at the same time.
        stages = [replace(stage, cpus=LIGHT_CPU) for stage in declared(cluster.most)]
        names = {"takes": stages[0].takes.names, "gives": stages[-1].gives.names}
        shape: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": batch, "num_cpus": LIGHT_CPU}
        dataset = dataset.map_batches(_set_aside, fn_kwargs=names, **shape)
        for stage in stages:
            dataset = through(dataset, stage, batch, cluster)
        return dataset.map_batches(_put_back, **shape)

    return processed


def _set_aside(table: pa.Table, *, takes: Sequence[str], gives: Sequence[str]) -> pa.Table:
    """Columns that are the caller's own under names that no stage uses.

    Raises:
        InputError: `data.missing_column`, or `data.reserved_column` for a column that the result would have twice.
    """
    own = [name for name in table.column_names if name not in takes]
    for name in takes:
        if name not in table.column_names:
            raise InputError("data.missing_column", f"the dataset has no column {name!r}; it has {table.column_names}")
    for name in own:
        if name in gives:
            raise InputError("data.reserved_column", f"the dataset has a column {name!r}, and so has the result")
    return table.rename_columns([f"{_OWN}{name}" if name in own else name for name in table.column_names])


def _put_back(table: pa.Table) -> pa.Table:
    return table.rename_columns([name.removeprefix(_OWN) for name in table.column_names])


def _planned(table: pa.Table) -> pa.Table:
    rows = []
    for row in table.to_pylist():
        identifier = str(row["product_id"])
        try:
            planned = manifest_row(_captured(identifier, row["photos"] or []))
        except GaprayError as error:
            planned = manifest_row(Reject.of(identifier, "", error))
        rows.append({name: planned.get(name) for name in PLANNED.names})
    return pa.Table.from_pylist(rows, schema=PLANNED)


def _captured(identifier: str, photos: Sequence[Row]) -> CaptureSet:
    """A row's photos, by azimuth.

    Raises:
        InputError: `capture.missing_views` or `capture.duplicate_azimuth`.
    """
    found = [
        Photo(PurePosixPath(photo["uri"]).name, photo["uri"], float(photo["azimuth_deg"]) % 360.0, 0, photo["uri"])
        for photo in photos
    ]
    refuse_gaps({photo.uri: photo.azimuth_deg for photo in found})
    kept = tuple(sorted(found, key=lambda photo: photo.azimuth_deg))
    return CaptureSet(identifier, str(PurePosixPath(kept[0].uri).parent), kept, "table")


def _loaded(table: pa.Table, *, facts: VideoFacts, seed: int) -> pa.Table:
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
    return pa.Table.from_pylist(rows, schema=_TAKEN)


def _encoded(table: pa.Table, *, facts: VideoFacts) -> pa.Table:
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
                "video": None if failed else row["video"] | _sizes(files),
                "files": [{"name": name, "data": data} for name, data in files.items()],
            }
        )
    return pa.Table.from_pylist(rows, schema=TURNTABLES)


def _sizes(files: dict[str, bytes]) -> dict[str, Any]:
    return {"files": list(files), "bytes": sum(map(len, files.values()))}
