"""`gapray stills`: packages and scenes in, pictures out, by Ray Data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gapray.batch.capacity import Capacity, capacity, room_for
from gapray.batch.dataset import lasting, read_manifest
from gapray.batch.record import recorded
from gapray.batch.render import wanted_products, with_parts
from gapray.batch.resources import LIGHT_CPU, RenderPlan, plan_render
from gapray.batch.rows import Row
from gapray.batch.runs import StillsSummary, absolute, new_run_id, published
from gapray.batch.stills_stages import PENDING, DrawStills, StillFacts, write_stills
from gapray.catalog.media import WITH_FILES, whole
from gapray.catalog.reader import Catalog, open_catalog
from gapray.catalog.rejudge import rejudge_stills
from gapray.catalog.storage import Folder
from gapray.config import Profile, load_profile
from gapray.errors import FileError, writing
from gapray.fidelity.same_product import judge_digest
from gapray.ray_session import connected
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
        profile: A profile's name, or one made by `gapray.config.load_profile`.
        products: Only these.
        limit: At most so many products, in the order of their names.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part was written.

    Raises:
        GaprayError: When the run as a whole cannot be done. A product that cannot be drawn is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    loaded = load_scenes(list(scenes))
    target = absolute(str(catalog))
    opened = open_catalog(target)
    opened.folder.check_writable()
    run_id = new_run_id()
    facts = StillFacts(run_id, target, chosen, still_revisions(chosen.stills), judge_digest(chosen.packaging))
    todo, finished, there = pending_stills(opened, facts, loaded, per_scene=per_scene, products=products, limit=limit)
    rejudged = rejudge_stills(opened, chosen.stills.min_same, there, run_id)
    after = opened.newest("stills", "rejects")
    summary = StillsSummary(run_id, target, products=finished + todo.num_rows, finished=finished, rejudged=rejudged)
    with (
        tempfile.TemporaryDirectory(prefix="gapray-") as scratch,
        recorded(
            summary, opened.folder, profile=chosen, models=facts.revisions, source=target, on_progress=on_progress
        ) as recorder,
    ):
        if todo.num_rows:
            manifest = Path(scratch) / "stills.parquet"
            with writing(FileError, "file.write_failed", manifest):
                pq.write_table(todo, manifest)
            with (
                connected(address),
                recorder.on_cluster(),
                published(manifest, opened.folder, run_id) as uri,
            ):
                cluster = capacity(chosen.run)
                plan = plan_render(chosen, facts.vram_gb, cluster.most, backend=chosen.stills.backend)
                with room_for(plan, cluster, chosen.run.wait_for_nodes_s):
                    for receipts in _receipts(uri, opened.folder, facts, plan, cluster, after):
                        recorder.add(receipts)
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
    made = catalog.table("stills", columns=["key", WITH_FILES["stills"]])
    there = set(whole(catalog.folder, "stills", made).to_pylist())
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


def _receipts(
    manifest: str, folder: Folder, facts: StillFacts, plan: RenderPlan, cluster: Capacity, after: datetime | None
) -> Iterator[pa.Table]:
    """The pipeline: one table of receipts for each part that has been committed."""
    pictures = read_manifest(manifest, folder, facts.profile.run, cluster)
    pictures = pictures.repartition(target_num_rows_per_block=1)
    pictures = pictures.map_batches(
        lasting(DrawStills),
        fn_constructor_kwargs={"facts": facts, "gpu": plan.gpu, "threads": plan.threads},
        compute=cluster.pool(plan.render_workers),
        num_cpus=plan.cpus,
        batch_format="pyarrow",
        batch_size=1,
        **({"num_gpus": plan.gpu.num_gpus} if plan.gpu else {}),
    )
    receipts = pictures.map_batches(
        write_stills,
        fn_kwargs={"catalog": facts.catalog, "after": after},
        batch_size=facts.profile.run.videos_per_part,
        batch_format="pyarrow",
        num_cpus=LIGHT_CPU,
    )
    yield from receipts.iter_batches(batch_size=None, batch_format="pyarrow")
