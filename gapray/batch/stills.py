"""`gapray stills`: packages and scenes in, pictures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import pyarrow as pa

from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.record import recorded
from gapray.batch.render import wanted_products, with_parts
from gapray.batch.render_stages import load
from gapray.batch.resources import plan_render
from gapray.batch.rows import Row
from gapray.batch.run import run_pipeline
from gapray.batch.runs import StillsSummary, absolute_uri, new_run_id
from gapray.batch.stills_stages import (
    DRAWN,
    LOADED,
    PENDING,
    RECEIPT,
    SAVED,
    DrawStills,
    StillFacts,
    save_stills,
    write_stills,
)
from gapray.catalog.media import FILE_COLUMNS, keys_with_files
from gapray.catalog.reader import Catalog, open_catalog
from gapray.catalog.rejudge import rejudge_stills
from gapray.fidelity.same_product import judge_digest
from gapray.profile import Profile, load_profile
from gapray.stills.load import still_revisions
from gapray.stills.scene import Scene, load_scenes

DEFAULT_SCENES = ("marble-kitchen", "wooden-desk", "gym-studio")
"""Those of the prototype's identity test."""


def stills(
    catalog: str | Path,
    *,
    scenes: Sequence[str] = DEFAULT_SCENES,
    per_scene: int = 1,
    profile: str | Profile = "classic",
    products: Sequence[str] | None = None,
    limit: int | None = None,
    address: str | None = None,
    on_progress: Callable[[StillsSummary], None] | None = None,
) -> StillsSummary:
    """Draw every product of a catalogue into scenes, and judge whether it stayed the same product.

    A run that was killed is gone on with by calling it again: pictures that are there are skipped, and only judged again when
    the gate was changed.

    Args:
        catalog: Folder or fsspec URI.
        scenes: Names, YAML files or folders of such files, see `gapray.stills.scene.load_scenes`.
        per_scene: Pictures of each product in each scene, with seeds 0, 1, …; `best_stills` names the best.
        profile: A profile's name, or one made by `gapray.profile.load_profile`.
        products: Only these.
        limit: At most so many products, in the order of their names.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part was written.

    Raises:
        GaprayError: When the run as a whole cannot be done. A product that cannot be drawn is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    loaded = load_scenes(list(scenes))
    target = absolute_uri(str(catalog))
    opened = open_catalog(target)
    opened.folder.check_writable()
    run_id = new_run_id()
    facts = StillFacts(run_id, target, chosen, still_revisions(chosen.stills), judge_digest(chosen.packaging))
    todo, finished, there = pending_stills(opened, facts, loaded, per_scene=per_scene, products=products, limit=limit)
    rejudged = rejudge_stills(opened, chosen.stills.min_same, there, run_id)
    after = opened.newest("stills", "rejects")
    summary = StillsSummary(run_id, target, products=finished + todo.num_rows, finished=finished, rejudged=rejudged)
    for product_id, warnings in _warnings_of(todo).items():
        summary.warn(product_id, warnings)
    with recorded(
        summary, opened.folder, profile=chosen, models=facts.revisions, source=target, on_progress=on_progress
    ) as recorder:
        declared = partial(stills_pipeline, facts=facts, after=after)
        run_pipeline(recorder, todo, opened.folder, chosen.run, declared, address=address)
    return summary


def pending_stills(
    catalog: Catalog,
    facts: StillFacts,
    scenes: Sequence[Scene],
    *,
    per_scene: int,
    products: Sequence[str] | None,
    limit: int | None,
) -> tuple[pa.Table, int, set[str]]:
    """What is to be drawn, and what is there.

    Returns:
        A row a product and scene with the pictures that the catalogue lacks; how many such rows lack none; and the keys of the
        wanted pictures that are there.

    Raises:
        CatalogError: `catalog.product_not_found` for a name in `products`.
    """
    current = wanted_products(catalog, products, limit)
    made = catalog.table("stills", columns=["key", FILE_COLUMNS["stills"]])
    there = set(keys_with_files(catalog.folder, "stills", made).to_pylist())
    rows: list[Row] = []
    kept: set[str] = set()
    for product in current.to_pylist():
        for scene in scenes:
            keys = {seed: facts.key(product["key"], scene, seed) for seed in range(per_scene)}
            lacking = {seed: key for seed, key in keys.items() if key not in there}
            kept |= there.intersection(keys.values())
            if lacking:
                rows.append(
                    {
                        "product_id": product["product_id"],
                        "product_key": product["key"],
                        "seed": 0,
                        "product": product,
                        "scene": scene.model_dump_json(),
                        "seeds": list(lacking),
                        "keys": list(lacking.values()),
                    }
                )
    finished = current.num_rows * len(scenes) - len(rows)
    if not rows:
        return PENDING.empty_table(), finished, kept
    shaped = [PENDING.field(name) for name in PENDING.names if name != "part"]
    table = pa.Table.from_pylist(rows, schema=pa.schema([*shaped, pa.field("seed", pa.int64())]))
    return with_parts(table, catalog).select(PENDING.names).cast(PENDING), finished, kept


def _warnings_of(pending: pa.Table) -> dict[str, list[dict[str, str]] | None]:
    """Return each product's warnings, from rows of `PENDING`."""
    rows = pending.select(["product_id", "product"]).to_pylist()
    return {row["product_id"]: row["product"]["warnings"] for row in rows}


def stills_pipeline(cluster: Mapping[str, float], *, facts: StillFacts, after: datetime | None = None) -> Pipeline:
    """Pending pictures -> files and rows in a catalogue.

    Args:
        cluster: Ray resources by name, which it fills.
        facts: Of the run.
        after: Of the newest part that the catalogue has.

    Raises:
        ResourceError: `resource.insufficient`: a generator that needs a GPU, and none is there.
    """
    workers = plan_render(facts.profile, facts.vram_gb, cluster, backend=facts.profile.stills.backend)
    count = workers.render_workers
    draw = {"facts": facts, "gpu": workers.gpu, "threads": workers.threads}
    return Pipeline(
        (
            # Views from their part of the catalogue, still compressed: short tasks.
            Stage("stills.load", load, PENDING, LOADED, {"catalog": facts.catalog}, count),
            # Generator and judge: loaded once an actor, which has a whole GPU where there are any.
            Stage("stills.draw", DrawStills, LOADED, DRAWN, draw, count, workers.cpus, workers.gpu),
            # JPEG and the upload: on the CPU, while the next scene is drawn.
            Stage("stills.save", save_stills, DRAWN, SAVED, {"facts": facts}, count),
        ),
        Stage("stills.write", write_stills, SAVED, RECEIPT, {"catalog": facts.catalog, "after": after}),
        rows_per_block=1,  # what a kill costs is what one actor was drawing
        rows_per_part=facts.profile.run.videos_per_part,
    )
