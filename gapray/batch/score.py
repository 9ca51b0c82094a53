"""`gapray score`: videos in, scores and verdicts out, by Ray Data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from gapray.batch.capacity import Capacity, capacity, room_for
from gapray.batch.dataset import lasting, read_manifest
from gapray.batch.record import recorded
from gapray.batch.render import wanted_products, with_parts
from gapray.batch.resources import LIGHT_CPU, MASK_CPU, MASK_THREADS, ScorePlan, plan_score
from gapray.batch.runs import ScoreSummary, absolute, new_run_id, published
from gapray.batch.score_stages import PENDING_SCORE, TRUTH, Compare, Judge, LeaveOut, ScoreFacts, gather, write_scores
from gapray.batch.truth import Truth, read_truth
from gapray.capture.discover import DiscoverOptions
from gapray.catalog.reader import PACKAGE_COLUMNS, Catalog, open_catalog
from gapray.catalog.rejudge import rejudge_videos
from gapray.catalog.storage import Folder
from gapray.config import Profile, load_profile
from gapray.errors import FileError, writing
from gapray.fidelity.trunks import load_trunk
from gapray.models.cards import cards
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.ray_session import connected


def score(
    catalog: str | Path,
    *,
    profile: str | Profile = "classic",
    truth: str | Path | None = None,
    options: DiscoverOptions = DiscoverOptions(),
    products: Sequence[str] | None = None,
    address: str | None = None,
    on_progress: Callable[[ScoreSummary], None] | None = None,
) -> ScoreSummary:
    """Score every video of a catalogue against photos that its generator never saw.

    A run that was killed is gone on with by calling it again: what is scored is skipped, and only judged again when the gate
    was changed.

    Args:
        catalog: Folder or fsspec URI.
        profile: A profile's name, or one made by `gapray.config.load_profile`: how scores are measured (mask network, LPIPS,
            gate). What drew a video is read from the video's own record.
        truth: Photos at more angles than the packages have, laid out as the source of `gapray.package`. A product that has
            none there is scored by leaving views out and drawing them anew.
        options: How names in `truth` become azimuths.
        products: Only the videos of these.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part was written.

    Raises:
        GaprayError: When the run as a whole cannot be done. A video that cannot be scored is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    target = absolute(str(catalog))
    opened = open_catalog(target)
    opened.folder.check_writable()
    facts = score_facts(target, chosen)
    given = read_truth(None if truth is None else absolute(str(truth)), options)
    todo, finished = pending_scores(opened, facts, given.photos, products)
    rejudged = rejudge_videos(opened, chosen.fidelity.gate, facts.run_id)
    after = opened.newest("verdicts", "rejects")
    summary = ScoreSummary(
        facts.run_id, target, products=finished + todo.num_rows, finished=finished, rejudged=rejudged
    )
    if truth is not None:
        summary.truth_unused = _unused(opened, given, chosen.fidelity.angle_tolerance_deg)
    with (
        tempfile.TemporaryDirectory(prefix="gapray-") as scratch,
        recorded(
            summary,
            opened.folder,
            profile=chosen,
            models=facts.models,
            source=str(truth or target),
            on_progress=on_progress,
        ) as recorder,
    ):
        if todo.num_rows:
            manifest = Path(scratch) / "scores.parquet"
            with writing(FileError, "file.write_failed", manifest):
                pq.write_table(todo, manifest)
            drawing = todo.filter(pc.equal(pc.list_value_length(todo["truths"]), 0))
            with (
                connected(address),
                recorder.on_cluster(),
                published(manifest, opened.folder, facts.run_id) as uri,
            ):
                cluster = capacity(chosen.run)
                plan = plan_score(chosen, _vram_gb(drawing), cluster.most, draws=drawing.num_rows > 0)
                with room_for(plan, cluster, chosen.run.wait_for_nodes_s):
                    for receipts in _receipts(uri, opened.folder, facts, plan, cluster, after):
                        recorder.add(receipts)
    return summary


def _unused(opened: Catalog, given: Truth, tolerance_deg: float) -> list[str]:
    """What of the truth no score of this catalogue is made with, a line each."""
    videos, packages = (
        opened.table(name, columns=["product_id", "azimuths_deg"]).to_pylist() for name in ("videos", "products")
    )
    frames: dict[str, list[float]] = {}
    for row in videos:
        frames.setdefault(row["product_id"], []).extend(row["azimuths_deg"])
    own = {row["product_id"]: row["azimuths_deg"] for row in packages}
    return [*given.unused(frames), *given.unmatched(own, frames, tolerance_deg)]


def score_facts(catalog: str, profile: Profile) -> ScoreFacts:
    """What a scoring run needs to know, weights located first: without the right trunk there is no run.

    Raises:
        ModelError: As `load_trunk` and `gapray.models.load.revisions`.
    """
    found = revisions(profile.packaging)
    names = model_names(profile.packaging, found)
    return ScoreFacts(
        new_run_id(), catalog, profile, names["mask"], names["identity"], load_trunk(profile.fidelity.net).sha256
    )


def pending_scores(
    catalog: Catalog,
    facts: ScoreFacts,
    photos: dict[str, list[dict[str, Any]]],
    products: Sequence[str] | None = None,
) -> tuple[pa.Table, int]:
    """Videos that lack these scores; and how many have them.

    Raises:
        CatalogError: `catalog.product_not_found` for a name in `products`.
    """
    columns = ["product_id", "product_key", "key", "seed", "backend", "profile", "preset", "models"]
    columns += ["files", "frames", "azimuths_deg"]
    videos = catalog.table("videos", columns=columns).rename_columns({"key": "video_key"})
    if products is not None:
        wanted = wanted_products(catalog, products, None)["product_id"]
        videos = videos.filter(pc.is_in(videos["product_id"], value_set=wanted.combine_chunks()))
    truths = [photos.get(product, []) for product in videos["product_id"].to_pylist()]
    keys = pa.array(map(facts.key, videos["video_key"].to_pylist(), truths), pa.string())
    named = [[{name: one[name] for name in ("uri", "azimuth_deg")} for one in photos] for photos in truths]
    videos = videos.append_column("key", keys).append_column("truths", pa.array(named, pa.list_(TRUTH)))
    there = pc.unique(catalog.table("verdicts", columns=["key"])["key"])
    lacking = videos.filter(pc.invert(pc.is_in(keys, value_set=there)))
    packages = catalog.table("products", columns=PACKAGE_COLUMNS)
    place = pc.index_in(lacking["product_id"], value_set=packages["product_id"].combine_chunks())
    lacking = lacking.append_column("product", packages.to_struct_array().take(place.combine_chunks()))
    todo = with_parts(lacking, catalog).select(PENDING_SCORE.names).cast(PENDING_SCORE)
    todo = todo.sort_by([(name, "ascending") for name in ("backend", "profile", "product_id", "seed")])
    return todo, videos.num_rows - lacking.num_rows


def _vram_gb(videos: pa.Table) -> float | None:
    """The most GPU memory that any video's backend asks for, by the models in its row; None = no network at all."""
    sets = {tuple(model.partition("@")[0] for model in models) for models in videos["models"].to_pylist()}
    known = {name: card.vram_gb or 0.0 for name, card in cards().items()}
    return max((sum(known.get(name, 0.0) for name in names) for names in sets if names), default=None)


def _receipts(
    manifest: str, folder: Folder, facts: ScoreFacts, plan: ScorePlan, cluster: Capacity, after: datetime | None
) -> Iterator[pa.Table]:
    """The pipeline: one table of receipts for each part that has been committed."""
    one = {"batch_format": "pyarrow", "batch_size": 1}
    videos = read_manifest(manifest, folder, facts.profile.run, cluster)
    videos = videos.repartition(target_num_rows_per_block=1)
    # H.264 and JPEG decoding: short CPU tasks, no model.
    videos = videos.map_batches(
        gather,
        fn_kwargs={"facts": facts},
        compute=ray.data.TaskPoolStrategy(max(1, plan.compare_workers)),
        num_cpus=LIGHT_CPU,
        **one,
    )
    if plan.draw:
        # The generator again, for views that are left out: only where no hidden photo is at hand.
        videos = videos.map_batches(
            lasting(LeaveOut),
            fn_constructor_kwargs={"facts": facts, "gpu": plan.draw.gpu, "threads": plan.draw.threads},
            compute=cluster.pool(plan.draw.render_workers),
            num_cpus=plan.draw.cpus,
            **({"num_gpus": plan.draw.gpu.num_gpus} if plan.draw.gpu else {}),
            **one,
        )
    # Silhouettes of truth and frames by the packages' own network.
    videos = videos.map_batches(
        lasting(Compare),
        fn_constructor_kwargs={"facts": facts, "threads": MASK_THREADS},
        compute=cluster.pool(plan.compare_workers),
        num_cpus=MASK_CPU,
        **one,
    )
    # LPIPS: all pairs of a video in batches of 64, on a share of a GPU.
    scored = videos.map_batches(
        lasting(Judge),
        fn_constructor_kwargs={"facts": facts, "gpu": plan.gpu, "threads": MASK_THREADS},
        compute=cluster.pool(plan.judge_workers),
        num_cpus=LIGHT_CPU,
        **({"num_gpus": plan.gpu.num_gpus} if plan.gpu else {}),
        **one,
    )
    receipts = scored.map_batches(
        write_scores,
        fn_kwargs={"catalog": facts.catalog, "after": after},
        batch_size=facts.profile.run.videos_per_part,
        batch_format="pyarrow",
        num_cpus=LIGHT_CPU,
    )
    yield from receipts.iter_batches(batch_size=None, batch_format="pyarrow")
