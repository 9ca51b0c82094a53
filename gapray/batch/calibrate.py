"""Measure the cost of every stage on a few products of a source, in this process, for `gapray plan`."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from gapray.batch.local import resources, run_locally
from gapray.batch.package import package_pipeline
from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.render import pending_videos, render_pipeline
from gapray.batch.render_stages import VideoFacts
from gapray.batch.rows import PLANNED
from gapray.batch.runs import new_run_id
from gapray.batch.score import pending_scores, score_facts, score_pipeline
from gapray.batch.trace import StageFunction
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts
from gapray.catalog.runs import StageCost
from gapray.catalog.storage import Folder
from gapray.errors import InputError
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.profile import Profile
from gapray.video.load import video_revisions

Row = Mapping[str, Any]


def calibrate(rows: Iterator[Row], profile: Profile, *, products: int = 2, preset: str = "web") -> dict[str, StageCost]:
    """Package, render and score a few products into a temporary catalogue, and measure each stage.

    The first product is a warm-up and is not counted.

    Args:
        rows: Rows of a manifest; rows with an error are skipped.
        profile: Profile of the planned run.
        products: Number of products to time.
        preset: Export preset of the planned run.

    Returns:
        Stage -> cost. `cores` is CPU time over wall time, so that a network's own threads are counted.

    Raises:
        InputError: `capture.no_photos` if no product is usable.
        GaprayError: A stage failed, for example `resource.insufficient` for a generator without a GPU.
    """
    chosen = list(islice((row for row in rows if row["error_code"] is None), products + 1))
    if not chosen:
        raise InputError("capture.no_photos", "the source has no product that could be timed")
    with tempfile.TemporaryDirectory(prefix="gapray-plan-") as scratch:
        timer = _StageTimer()
        for pipeline, pending in _runs(str(Path(scratch) / "catalog"), profile, preset):
            single = replace(pipeline, rows_per_block=1, rows_per_part=1)
            rows, gb = map(pending, chosen), profile.run.device_gb
            with closing(run_locally(single, rows, device_gb=gb, wrap=timer.timed)) as parts:
                for index in range(len(chosen)):
                    timer.counting = index > 0 or len(chosen) == 1
                    next(parts, None)  # a product that an earlier run rejected has nothing pending
        return timer.costs(max(1, len(chosen) - 1))


class _StageTimer:
    """Measures wall and CPU time by stage [s]."""

    def __init__(self) -> None:
        self.counting = False
        self._wall: defaultdict[str, float] = defaultdict(float)
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._gpus: dict[str, float] = {}

    def timed(self, stage: Stage, function: StageFunction) -> StageFunction:
        """Wrap a stage's function to measure its time.

        The wrapped function raises `InputError` with the code of the first row that failed.
        """

        def wrapper(table: pa.Table) -> pa.Table:
            wall, cpu = time.monotonic(), time.process_time()
            result = function(table)
            if self.counting:
                self._wall[stage.name] += time.monotonic() - wall
                self._cpu[stage.name] += time.process_time() - cpu
                self._gpus[stage.name] = stage.gpu.num_gpus if stage.gpu else 0.0
            if "error_code" in result.column_names:
                for code, message in zip(
                    *(result[name].to_pylist() for name in ("error_code", "error_message")), strict=True
                ):
                    if code:
                        raise InputError(code, f"while timing {stage.name}: {message}")
            return result

        return wrapper

    def costs(self, products: int) -> dict[str, StageCost]:
        """Return the mean cost of one product in each stage."""
        return {
            stage: StageCost(wall / products, max(0.1, self._cpu[stage] / wall) if wall else 1.0, self._gpus[stage])
            for stage, wall in self._wall.items()
        }


def _runs(catalog: str, profile: Profile, preset: str) -> list[tuple[Pipeline, Callable[[Row], pa.Table]]]:
    """Return the pipelines of package, render and score, each with a function from a manifest row to its pending rows."""
    folder, here = Folder.at(catalog), resources()
    hashes = revisions(profile.packaging)
    settings = profile.packaging.digest(hashes)
    facts = RunFacts(new_run_id(), settings, profile.name, model_names(profile.packaging, hashes))
    videos = VideoFacts(new_run_id(), catalog, profile, preset, video_revisions(profile.video, profile.orbit))
    scores = score_facts(catalog, profile)

    def planned(row: Row) -> pa.Table:
        return pa.Table.from_pylist([{"known_key": None, "depth_scale": None, "depth_shift": None, **row}], PLANNED)

    def unrendered(row: Row) -> pa.Table:
        return pending_videos(Catalog(folder), videos, seeds=1, products=[str(row["product_id"])], limit=None)[0]

    def unscored(row: Row) -> pa.Table:
        return pending_scores(Catalog(folder), scores, {}, [str(row["product_id"])])[0]

    return [
        (package_pipeline(here, profile=profile, facts=facts, catalog=catalog), planned),
        (render_pipeline(here, facts=videos), unrendered),
        (score_pipeline(here, facts=scores, vram_gb=videos.vram_gb, draws=True), unscored),
    ]
