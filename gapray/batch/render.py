"""`gapray render`: draws videos of the packages in a catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.record import recorded
from gapray.batch.render_stages import (
    DRAWN,
    LOADED,
    PENDING,
    SAVED,
    VIDEO_RECEIPT,
    Draw,
    VideoFacts,
    load,
    save,
    write_videos,
)
from gapray.batch.resources import GpuShare, plan_render, preserved_thread_counts
from gapray.batch.run import run_pipeline
from gapray.batch.runs import RenderSummary, absolute_uri, new_run_id
from gapray.catalog.media import FILE_COLUMNS, keys_with_files
from gapray.catalog.package_rows import PACKAGE_COLUMNS
from gapray.catalog.reader import Catalog, open_catalog
from gapray.errors import CatalogError
from gapray.models.load import best_device
from gapray.profile import Profile, load_profile
from gapray.video.load import video_revisions
from gapray.video.presets import preset_named

ESTIMATE_PRODUCTS = 2
"""Products that an estimate times, after one warm-up."""


def render(
    catalog: str | Path,
    *,
    profile: str | Profile = "classic",
    preset: str = "web",
    seeds: int = 1,
    products: Sequence[str] | None = None,
    limit: int | None = None,
    address: str | None = None,
    on_progress: Callable[[RenderSummary], None] | None = None,
) -> RenderSummary:
    """Draw a video of every product of a catalogue.

    Call it again to resume an interrupted run: existing videos are skipped.

    Args:
        catalog: Folder or fsspec URI.
        profile: A profile's name, or one made by `gapray.profile.load_profile`.
        preset: Name of an export preset (`gapray.video.presets`).
        seeds: Number of videos per product, with seeds 0, 1, ….
        products: Ids of the products to draw; default: all.
        limit: Maximum number of products, sorted by id.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part has been written.

    Returns:
        Counts, rejects and warnings of the run.

    Raises:
        GaprayError: The run as a whole failed. A product that cannot be drawn is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    preset_named(preset).check_frames(chosen.orbit.frames)
    target = absolute_uri(str(catalog))
    opened = open_catalog(target)
    opened.folder.check_writable()
    run_id = new_run_id()
    facts = VideoFacts(run_id, target, chosen, preset, video_revisions(chosen.video, chosen.orbit))
    after = opened.newest("videos", "rejects")
    todo, finished = pending_videos(opened, facts, seeds=seeds, products=products, limit=limit)
    summary = RenderSummary(run_id, target, products=finished + todo.num_rows, finished=finished)
    with recorded(
        summary, opened.folder, profile=chosen, models=facts.revisions, source=target, on_progress=on_progress
    ) as recorder:
        make_pipeline = partial(render_pipeline, facts=facts, after=after)
        run_pipeline(recorder, todo, opened.folder, chosen.run, make_pipeline, address=address)
    return summary


def pending_videos(
    catalog: Catalog, facts: VideoFacts, *, seeds: int, products: Sequence[str] | None, limit: int | None
) -> tuple[pa.Table, int]:
    """Return the videos that the catalogue lacks, as rows of `PENDING`, and the number of videos that it has.

    In a local catalogue a video with a removed file counts as missing.

    Args:
        catalog: The catalogue.
        facts: Settings of the run.
        seeds: Number of videos per product.
        products: As for `render`.
        limit: As for `render`.

    Raises:
        CatalogError: `catalog.product_not_found` for an id in `products`.
    """
    current = wanted_products(catalog, products, limit)
    wanted = [
        pa.table(
            {
                "product_id": current["product_id"],
                "product_key": current["key"],
                "key": pa.array(facts.keys(current["key"].to_pylist(), seed), pa.string()),
                "seed": pa.repeat(pa.scalar(seed, pa.int64()), current.num_rows),
                "product": current.to_struct_array(),
            }
        )
        for seed in range(seeds)
    ]
    videos = pa.concat_tables(wanted)
    rendered = catalog.table("videos", columns=["key", FILE_COLUMNS["videos"]])
    existing = keys_with_files(
        catalog.folder, "videos", rendered.filter(pc.is_in(rendered["key"], value_set=videos["key"]))
    )
    missing = videos.filter(pc.invert(pc.is_in(videos["key"], value_set=existing)))
    return with_parts(missing, catalog).select(PENDING.names).cast(PENDING), videos.num_rows - missing.num_rows


def wanted_products(catalog: Catalog, products: Sequence[str] | None, limit: int | None) -> pa.Table:
    """Return the current rows of `products` with `PACKAGE_COLUMNS`: the named products in that order, or all sorted by id.

    Raises:
        CatalogError: `catalog.product_not_found` for an id in `products`.
    """
    current = catalog.table("products", columns=PACKAGE_COLUMNS)
    if products is not None:
        indices = pc.index_in(pa.array(products, pa.string()), value_set=current["product_id"].combine_chunks())
        for name, index in zip(products, indices.to_pylist(), strict=True):
            if index is None:
                raise CatalogError("catalog.product_not_found", f"no product {name!r} in this catalogue")
        current = current.take(indices)
    return current.slice(0, limit)


def with_parts(videos: pa.Table, catalog: Catalog) -> pa.Table:
    """Add a column `part`, the part file with the package's views (null if there is none), and sort by product and seed.

    Args:
        videos: Rows with product_id, product_key and seed.
        catalog: The catalogue.
    """
    parts = catalog.parts_of_views()
    packages = pa.table({"name": _joined(parts["product_id"], parts["key"]), "part": parts["part"]})
    names = _joined(videos["product_id"], videos["product_key"])
    index = pc.index_in(names, value_set=packages["name"].combine_chunks())
    part = packages["part"].combine_chunks().take(index.combine_chunks()).cast(pa.string())
    return videos.append_column("part", part).sort_by([("product_id", "ascending"), ("seed", "ascending")])


def _joined(product_id: pa.ChunkedArray, key: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(product_id, key, ":")


@dataclass(frozen=True)
class Estimate:
    """Estimated time and cost of a render run, from a few products timed on this machine."""

    videos: int
    """Videos to draw."""
    measured: int
    """Videos that were timed."""
    seconds_a_video: float
    """Mean time of one video on one worker [s]."""
    hours: float
    """Time of the whole run [h]."""
    cost: float | None
    """Cost of the whole run, in the currency of the price; None without a price."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for ``--json``."""
        return asdict(self)


def estimate(
    catalog: str | Path,
    *,
    profile: str | Profile = "classic",
    preset: str = "web",
    seeds: int = 1,
    workers: int = 1,
    price_an_hour: float | None = None,
) -> Estimate:
    """Estimate a render run by drawing a few products in this process, without writing anything.

    Args:
        catalog: Folder or fsspec URI.
        profile: As for `render`.
        preset: As for `render`.
        seeds: As for `render`.
        workers: Number of render workers of the actual run.
        price_an_hour: Price of one worker per hour.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    opened = open_catalog(str(catalog))
    facts = VideoFacts(
        new_run_id(), absolute_uri(str(catalog)), chosen, preset, video_revisions(chosen.video, chosen.orbit)
    )
    todo, _ = pending_videos(opened, facts, seeds=seeds, products=None, limit=None)
    gpu = GpuShare(chosen.run.device_gb, chosen.run.device_gb) if best_device() == "cuda" else None
    durations: list[float] = []
    with preserved_thread_counts():
        draw = Draw(facts=facts, gpu=gpu, threads=1)
        for row in todo.slice(0, ESTIMATE_PRODUCTS + 1).to_pylist():
            started = time.monotonic()
            loaded = load(pa.Table.from_pylist([row], schema=PENDING), catalog=facts.catalog)
            save(draw(loaded), facts=facts, dry_run=True)
            durations.append(time.monotonic() - started)
    measured = durations[1:] or durations  # the first is a warm-up
    mean_s = sum(measured) / len(measured) if measured else 0.0
    hours = mean_s * todo.num_rows / 3600 / workers
    cost = None if price_an_hour is None else hours * workers * price_an_hour
    return Estimate(todo.num_rows, len(measured), mean_s, hours, cost)


def render_pipeline(cluster: Mapping[str, float], *, facts: VideoFacts, after: datetime | None = None) -> Pipeline:
    """Return the pipeline that draws pending videos and writes their files and rows into a catalogue.

    Args:
        cluster: Ray resources by name; the pipeline is planned to fill them.
        facts: Settings that all videos of the run share.
        after: `Catalog.newest` before the run; no row is written with an older `created_at`.

    Raises:
        ResourceError: `resource.insufficient`: the generator needs a GPU and the cluster has none.
    """
    workers = plan_render(facts.profile, facts.vram_gb, cluster)
    count = workers.render_workers
    draw = {"facts": facts, "gpu": workers.gpu, "threads": workers.threads}
    return Pipeline(
        (
            # Read the views from their part of the catalogue, still compressed: short tasks.
            Stage("render.load", load, PENDING, LOADED, {"catalog": facts.catalog}, count),
            # Conditions and frames: each actor loads the model once; a generator has a GPU to itself.
            Stage("render.draw", Draw, LOADED, DRAWN, draw, count, workers.cpus, workers.gpu),
            # Encode and upload: on the CPU, while the next product is drawn.
            Stage("render.save", save, DRAWN, SAVED, {"facts": facts}, count),
        ),
        Stage("render.write", write_videos, SAVED, VIDEO_RECEIPT, {"catalog": facts.catalog, "after": after}),
        rows_per_block=1,  # a killed actor loses only the video that it was drawing
        rows_per_part=facts.profile.run.videos_per_part,
    )
