"""`gapray render`: packages in, videos out."""

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
from gapray.batch.resources import GpuShare, plan_render, threads_kept
from gapray.batch.run import carry_out
from gapray.batch.runs import RenderSummary, absolute, new_run_id
from gapray.catalog.media import WITH_FILES, whole
from gapray.catalog.reader import PACKAGE_COLUMNS, Catalog, open_catalog
from gapray.config import Profile, load_profile
from gapray.errors import CatalogError
from gapray.models.load import best_device
from gapray.video.load import video_revisions
from gapray.video.presets import preset_named

ESTIMATE_PRODUCTS = 2
"""Products that a calibration draws, after one to warm up."""


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

    A run that was killed is gone on with by calling it again: videos that are there are skipped.

    Args:
        catalog: Folder or fsspec URI.
        profile: A profile's name, or one made by `gapray.config.load_profile`.
        preset: Which files to make, see `gapray.video.presets`.
        seeds: Videos of each product, with seeds 0, 1, ….
        products: Only these.
        limit: At most so many products, in the order of their names.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part was written.

    Raises:
        GaprayError: When the run as a whole cannot be done. A product that cannot be drawn is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    preset_named(preset)
    target = absolute(str(catalog))
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
        declared = partial(render_pipeline, facts=facts, after=after)
        carry_out(recorder, todo, opened.folder, chosen.run, declared, address=address)
    return summary


def pending_videos(
    catalog: Catalog, facts: VideoFacts, *, seeds: int, products: Sequence[str] | None, limit: int | None
) -> tuple[pa.Table, int]:
    """Videos that the catalogue lacks, each with what is needed to find its package; and how many it has.

    Of a local catalogue a video whose file was removed is lacking too.

    Raises:
        CatalogError: `catalog.product_not_found` for a name in `products`.
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
    made = catalog.table("videos", columns=["key", WITH_FILES["videos"]])
    there = whole(catalog.folder, "videos", made.filter(pc.is_in(made["key"], value_set=videos["key"])))
    lacking = videos.filter(pc.invert(pc.is_in(videos["key"], value_set=there)))
    return with_parts(lacking, catalog).select(PENDING.names).cast(PENDING), videos.num_rows - lacking.num_rows


def wanted_products(catalog: Catalog, products: Sequence[str] | None, limit: int | None) -> pa.Table:
    """Current rows of `products`, with what a package needs: those that are named, in that order, or all by name.

    Raises:
        CatalogError: `catalog.product_not_found` for a name in `products`.
    """
    current = catalog.table("products", columns=PACKAGE_COLUMNS)
    if products is not None:
        places = pc.index_in(pa.array(products, pa.string()), value_set=current["product_id"].combine_chunks())
        for name, place in zip(products, places.to_pylist(), strict=True):
            if place is None:
                raise CatalogError("catalog.product_not_found", f"no product {name!r} in this catalogue")
        current = current.take(places)
    return current.slice(0, limit)


def with_parts(videos: pa.Table, catalog: Catalog) -> pa.Table:
    """Rows with product_id and product_key -> the same with `part`, null where no views are; by product and seed."""
    parts = catalog.parts_of_views()
    held = pa.table({"name": _joined(parts["product_id"], parts["key"]), "part": parts["part"]})
    place = pc.index_in(_joined(videos["product_id"], videos["product_key"]), value_set=held["name"].combine_chunks())
    part = held["part"].combine_chunks().take(place.combine_chunks()).cast(pa.string())
    return videos.append_column("part", part).sort_by([("product_id", "ascending"), ("seed", "ascending")])


def _joined(product_id: pa.ChunkedArray, key: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(product_id, key, ":")


@dataclass(frozen=True)
class Estimate:
    """What a whole run would take on one worker, from a short calibration on this machine."""

    videos: int
    measured: int
    seconds_a_video: float
    hours: float
    cost: float | None
    """In the currency of the price."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
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
    """Draw a few products in this process, write nothing, and multiply.

    Args:
        catalog: Folder or fsspec URI.
        profile: As for `render`.
        preset: As for `render`.
        seeds: As for `render`.
        workers: Render workers that the real run will have.
        price_an_hour: Of one worker.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    opened = open_catalog(str(catalog))
    facts = VideoFacts(
        new_run_id(), absolute(str(catalog)), chosen, preset, video_revisions(chosen.video, chosen.orbit)
    )
    todo, _ = pending_videos(opened, facts, seeds=seeds, products=None, limit=None)
    whole = GpuShare(chosen.run.device_gb, chosen.run.device_gb) if best_device() == "cuda" else None
    spent: list[float] = []
    with threads_kept():
        drawer = Draw(facts=facts, gpu=whole, threads=1)
        for row in todo.slice(0, ESTIMATE_PRODUCTS + 1).to_pylist():
            started = time.monotonic()
            loaded = load(pa.Table.from_pylist([row], schema=PENDING), catalog=facts.catalog)
            save(drawer(loaded), facts=facts, dry=True)
            spent.append(time.monotonic() - started)
    measured = spent[1:] or spent  # the first one warms up
    each = sum(measured) / len(measured) if measured else 0.0
    hours = each * todo.num_rows / 3600 / workers
    cost = None if price_an_hour is None else hours * workers * price_an_hour
    return Estimate(todo.num_rows, len(measured), each, hours, cost)


def render_pipeline(cluster: Mapping[str, float], *, facts: VideoFacts, after: datetime | None = None) -> Pipeline:
    """Pending videos -> files and rows in a catalogue.

    Args:
        cluster: Ray resources by name, which it fills.
        facts: Of the run.
        after: Of the newest part that the catalogue has.

    Raises:
        ResourceError: `resource.insufficient`: a generator that needs a GPU, and none is there.
    """
    workers = plan_render(facts.profile, facts.vram_gb, cluster)
    count = workers.render_workers
    draw = {"facts": facts, "gpu": workers.gpu, "threads": workers.threads}
    return Pipeline(
        (
            # Views from their part of the catalogue, still compressed: short tasks.
            Stage("render.load", load, PENDING, LOADED, {"catalog": facts.catalog}, count),
            # Conditions and frames: the model is loaded once an actor, which has a whole GPU where there are any.
            Stage("render.draw", Draw, LOADED, DRAWN, draw, count, workers.cpus, workers.gpu),
            # H.264, JPEG and the upload: on the CPU, while the next product is drawn.
            Stage("render.save", save, DRAWN, SAVED, {"facts": facts}, count),
        ),
        Stage("render.write", write_videos, SAVED, VIDEO_RECEIPT, {"catalog": facts.catalog, "after": after}),
        rows_per_block=1,  # what a kill costs is what one actor was drawing
        rows_per_part=facts.profile.run.videos_per_part,
    )
