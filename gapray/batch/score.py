"""`gapray score`: scores the videos of a catalogue and judges them by the gate."""

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
from gapray.batch.resources import MASK_CPU, plan_score
from gapray.batch.run import run_pipeline
from gapray.batch.runs import ScoreSummary, absolute_uri, new_run_id
from gapray.batch.score_rows import COMPARED, GATHERED, PENDING_SCORE, SCORE_RECEIPT, SCORED, TRUTH
from gapray.batch.score_stages import Compare, DrawLeftOut, Judge, ScoreFacts, gather, write_scores
from gapray.batch.truth import TruthPhotos, read_truth
from gapray.capture.discover import DiscoverOptions
from gapray.catalog.package_rows import PACKAGE_COLUMNS
from gapray.catalog.reader import Catalog, open_catalog
from gapray.catalog.rejudge import rejudge_videos
from gapray.fidelity.trunks import load_backbone
from gapray.models.cards import cards
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.profile import Profile, load_profile


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

    Call it again to resume an interrupted run: scored videos are skipped, and only judged again if the gate has changed.

    Args:
        catalog: Folder or fsspec URI.
        profile: A profile's name, or one made by `gapray.profile.load_profile`. It determines how scores are measured (mask
            network, LPIPS, gate); the settings that drew a video are read from the video's provenance.
        truth: Photos at more angles than the packages have, with the layout of a source of `gapray.package`. A product without
            such photos is scored by leaving out some of its views and redrawing them.
        options: How file names in `truth` are converted to azimuths.
        products: Ids of the products whose videos are scored; default: all.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part has been written.

    Returns:
        Counts and rejects of the run.

    Raises:
        GaprayError: The run as a whole failed. A video that cannot be scored is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    target = absolute_uri(str(catalog))
    opened = open_catalog(target)
    opened.folder.check_writable()
    facts = score_facts(target, chosen)
    truth_photos = read_truth(None if truth is None else absolute_uri(str(truth)), options)
    todo, finished = pending_scores(opened, facts, truth_photos.photos, products)
    rejudged = rejudge_videos(opened, chosen.fidelity.gate, facts.run_id)
    after = opened.newest("verdicts", "rejects")
    summary = ScoreSummary(
        facts.run_id, target, products=finished + todo.num_rows, finished=finished, rejudged=rejudged
    )
    if truth is not None:
        summary.truth_unused = _unused_truth(opened, truth_photos, chosen.fidelity.angle_tolerance_deg)
    with recorded(
        summary,
        opened.folder,
        profile=chosen,
        models=facts.models,
        source=str(truth or target),
        on_progress=on_progress,
    ) as recorder:
        drawn = todo.filter(pc.equal(pc.list_value_length(todo["truths"]), 0))
        make_pipeline = partial(
            score_pipeline, facts=facts, vram_gb=_vram_gb(drawn), draws=drawn.num_rows > 0, after=after
        )
        run_pipeline(recorder, todo, opened.folder, chosen.run, make_pipeline, address=address)
    return summary


def _unused_truth(opened: Catalog, truth: TruthPhotos, tolerance_deg: float) -> list[str]:
    """Return lines about truth photos that no score of this catalogue uses, and why."""
    videos, packages = (
        opened.table(name, columns=["product_id", "azimuths_deg"]).to_pylist() for name in ("videos", "products")
    )
    frames: dict[str, list[float]] = {}
    for row in videos:
        frames.setdefault(row["product_id"], []).extend(row["azimuths_deg"])
    captured = {row["product_id"]: row["azimuths_deg"] for row in packages}
    return [*truth.unused(frames), *truth.unmatched(captured, frames, tolerance_deg)]


def score_facts(catalog: str, profile: Profile) -> ScoreFacts:
    """Return the settings that all scores of a run share; fails early if weights are missing.

    Raises:
        ModelError: The weights of LPIPS, of the mask network or of the identity model are missing or wrong.
    """
    names = model_names(profile.packaging, revisions(profile.packaging))
    return ScoreFacts(
        new_run_id(), catalog, profile, names["mask"], names["identity"], load_backbone(profile.fidelity.net).sha256
    )


def pending_scores(
    catalog: Catalog,
    facts: ScoreFacts,
    photos: dict[str, list[dict[str, Any]]],
    products: Sequence[str] | None = None,
) -> tuple[pa.Table, int]:
    """Return the videos without these scores, as rows of `PENDING_SCORE`, and the number of videos that have them.

    Args:
        catalog: The catalogue.
        facts: Settings of the run.
        photos: Product -> its truth photos, as `TruthPhotos.photos`.
        products: As for `score`.

    Raises:
        CatalogError: `catalog.product_not_found` for an id in `products`.
    """
    columns = ["product_id", "product_key", "key", "seed", "backend", "profile", "preset", "models"]
    columns += ["files", "frames", "azimuths_deg"]
    videos = catalog.table("videos", columns=columns).rename_columns({"key": "video_key"})
    if products is not None:
        wanted = wanted_products(catalog, products, None)["product_id"]
        videos = videos.filter(pc.is_in(videos["product_id"], value_set=wanted.combine_chunks()))
    truths = [photos.get(product, []) for product in videos["product_id"].to_pylist()]
    keys = pa.array(map(facts.key, videos["video_key"].to_pylist(), truths), pa.string())
    truth_structs = [[{name: photo[name] for name in ("uri", "azimuth_deg")} for photo in truth] for truth in truths]
    videos = videos.append_column("key", keys).append_column("truths", pa.array(truth_structs, pa.list_(TRUTH)))
    existing = pc.unique(catalog.table("verdicts", columns=["key"])["key"])
    missing = videos.filter(pc.invert(pc.is_in(keys, value_set=existing)))
    packages = catalog.table("products", columns=PACKAGE_COLUMNS)
    index = pc.index_in(missing["product_id"], value_set=packages["product_id"].combine_chunks())
    missing = missing.append_column("product", packages.to_struct_array().take(index.combine_chunks()))
    todo = with_parts(missing, catalog).select(PENDING_SCORE.names).cast(PENDING_SCORE)
    todo = todo.sort_by([(name, "ascending") for name in ("backend", "profile", "product_id", "seed")])
    return todo, videos.num_rows - missing.num_rows


def _vram_gb(videos: pa.Table) -> float | None:
    """Return the largest GPU memory that a video's models need [GB], by their cards; None = no video has a network."""
    model_sets = {tuple(model.partition("@")[0] for model in models) for models in videos["models"].to_pylist()}
    vram_gb = {name: card.vram_gb or 0.0 for name, card in cards().items()}
    return max((sum(vram_gb.get(name, 0.0) for name in names) for names in model_sets if names), default=None)


def score_pipeline(
    cluster: Mapping[str, float],
    *,
    facts: ScoreFacts,
    vram_gb: float | None,
    draws: bool,
    after: datetime | None = None,
) -> Pipeline:
    """Return the pipeline that scores pending videos and writes scores and verdicts into a catalogue.

    Args:
        cluster: Ray resources by name; the pipeline is planned to fill them.
        facts: Settings that all scores of the run share.
        vram_gb: Largest GPU memory that a video's generator needs [GB]; None = no generator has a network.
        draws: Whether views have to be left out and redrawn, because some videos have no held-out photos.
        after: `Catalog.newest` before the run; no row is written with an older `created_at`.
    """
    workers = plan_score(facts.profile, vram_gb, cluster, draws=draws)
    # Decode videos and photos: short tasks without a model.
    stages = [Stage("score.gather", gather, PENDING_SCORE, GATHERED, {"facts": facts}, workers.compare_workers)]
    if workers.draw:
        leave_out = {"facts": facts, "gpu": workers.draw.gpu, "threads": workers.draw.threads}
        stages.append(
            Stage(
                "score.leave_out",
                DrawLeftOut,
                GATHERED,
                GATHERED,
                leave_out,
                workers.draw.render_workers,
                workers.draw.cpus,
                workers.draw.gpu,
            )
        )
    judge = {"facts": facts, "gpu": workers.gpu, "threads": facts.profile.run.worker_threads}
    stages += [
        # Silhouettes of truth photos and frames, by the network that made the packages' masks.
        Stage(
            "score.compare",
            Compare,
            GATHERED,
            COMPARED,
            {"facts": facts, "threads": facts.profile.run.worker_threads},
            workers.compare_workers,
            MASK_CPU,
        ),
        # LPIPS: all pairs of a video in batches of 64, on a share of a GPU if there is one.
        Stage("score.judge", Judge, COMPARED, SCORED, judge, workers.judge_workers, gpu=workers.gpu),
    ]
    return Pipeline(
        tuple(stages),
        Stage("score.write", write_scores, SCORED, SCORE_RECEIPT, {"catalog": facts.catalog, "after": after}),
        rows_per_block=1,
        rows_per_part=facts.profile.run.videos_per_part,
    )
