"""`gapray score`: videos in, scores and verdicts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.record import recorded
from gapray.batch.render import wanted_products, with_parts
from gapray.batch.resources import MASK_CPU, MASK_THREADS, plan_score
from gapray.batch.run import carry_out
from gapray.batch.runs import ScoreSummary, absolute, new_run_id
from gapray.batch.score_stages import (
    MATERIAL,
    PENDING_SCORE,
    SCORE_RECEIPT,
    SCORED,
    TRUTH,
    Compare,
    Judge,
    LeaveOut,
    ScoreFacts,
    gather,
    write_scores,
)
from gapray.batch.truth import Truth, read_truth
from gapray.capture.discover import DiscoverOptions
from gapray.catalog.reader import PACKAGE_COLUMNS, Catalog, open_catalog
from gapray.catalog.rejudge import rejudge_videos
from gapray.config import Profile, load_profile
from gapray.fidelity.trunks import load_backbone
from gapray.models.cards import cards
from gapray.models.load import revisions
from gapray.packaging.build import model_names


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
    with recorded(
        summary,
        opened.folder,
        profile=chosen,
        models=facts.models,
        source=str(truth or target),
        on_progress=on_progress,
    ) as recorder:
        drawn = todo.filter(pc.equal(pc.list_value_length(todo["truths"]), 0))
        declared = partial(score_pipeline, facts=facts, vram_gb=_vram_gb(drawn), draws=drawn.num_rows > 0, after=after)
        carry_out(recorder, todo, opened.folder, chosen.run, declared, address=address)
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
        ModelError: As `load_backbone` and `gapray.models.load.revisions`.
    """
    found = revisions(profile.packaging)
    names = model_names(profile.packaging, found)
    return ScoreFacts(
        new_run_id(), catalog, profile, names["mask"], names["identity"], load_backbone(profile.fidelity.net).sha256
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


def score_pipeline(
    cluster: Mapping[str, float],
    *,
    facts: ScoreFacts,
    vram_gb: float | None,
    draws: bool,
    after: datetime | None = None,
) -> Pipeline:
    """Pending scores -> scores and verdicts in a catalogue.

    Args:
        cluster: Ray resources by name, which it fills.
        facts: Of the run.
        vram_gb: What the hungriest of the videos' generators asks for; None = no network at all.
        draws: Whether views have to be left out and drawn anew: only where no hidden photo is at hand.
        after: Of the newest part that the catalogue has.
    """
    workers = plan_score(facts.profile, vram_gb, cluster, draws=draws)
    # H.264 and JPEG decoding: short tasks, no model.
    stages = [Stage("score.gather", gather, PENDING_SCORE, MATERIAL, {"facts": facts}, workers.compare_workers)]
    if workers.draw:
        leave_out = {"facts": facts, "gpu": workers.draw.gpu, "threads": workers.draw.threads}
        stages.append(
            Stage(
                "score.leave_out",
                LeaveOut,
                MATERIAL,
                MATERIAL,
                leave_out,
                workers.draw.render_workers,
                workers.draw.cpus,
                workers.draw.gpu,
            )
        )
    judge = {"facts": facts, "gpu": workers.gpu, "threads": MASK_THREADS}
    stages += [
        # Silhouettes of truth and frames by the packages' own network.
        Stage(
            "score.compare",
            Compare,
            MATERIAL,
            MATERIAL,
            {"facts": facts, "threads": MASK_THREADS},
            workers.compare_workers,
            MASK_CPU,
        ),
        # LPIPS: all pairs of a video in batches of 64, on a share of a GPU.
        Stage("score.judge", Judge, MATERIAL, SCORED, judge, workers.judge_workers, gpu=workers.gpu),
    ]
    return Pipeline(
        tuple(stages),
        Stage("score.write", write_scores, SCORED, SCORE_RECEIPT, {"catalog": facts.catalog, "after": after}),
        rows_per_block=1,
        rows_per_part=facts.profile.run.videos_per_part,
    )
