"""Time every stage on a few products of a source, in this process: what `gapray plan` multiplies."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from gapray.batch.render import pending_videos
from gapray.batch.render_stages import Draw, VideoFacts, load, save, write_videos
from gapray.batch.resources import MASK_THREADS, RENDER_THREADS, GpuShare, plan_render, plan_stages, threads_kept
from gapray.batch.rows import PLANNED
from gapray.batch.runs import new_run_id
from gapray.batch.score import pending_scores, score_facts
from gapray.batch.score_stages import Compare, Judge, LeaveOut, gather, write_scores
from gapray.batch.stages import Describe, Encode, Mask, decode, write
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts
from gapray.catalog.runs import StageCost
from gapray.catalog.storage import Folder
from gapray.config import Profile
from gapray.errors import InputError
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.video.load import video_revisions

Row = Mapping[str, Any]


def calibrate(rows: Iterator[Row], profile: Profile, *, products: int = 2, preset: str = "web") -> dict[str, StageCost]:
    """Package, render and score a few products for real, into a folder that is thrown away.

    The first product warms everything up and is not counted.

    Args:
        rows: Of a manifest; those with an error are passed over.
        profile: As for the run.
        products: To be timed.
        preset: As for the run.

    Returns:
        Stage -> cost. `cores` is CPU time over wall time, so that a network's own threads are counted.

    Raises:
        InputError: `capture.no_photos` when no product can be used.
        GaprayError: What kept a stage from working, such as `resource.insufficient` for a generator without its GPU.
    """
    chosen = list(islice((row for row in rows if row["error_code"] is None), products + 1))
    if not chosen:
        raise InputError("capture.no_photos", "the source has no product that could be timed")
    with threads_kept(), tempfile.TemporaryDirectory(prefix="gapray-plan-") as scratch:
        clock = _Clock()
        stages = _stages(Path(scratch) / "catalog", profile, preset)
        for index, row in enumerate(chosen):
            clock.counting = index > 0 or len(chosen) == 1
            for run_one in stages:
                run_one(row, clock)
        return clock.costs(max(1, len(chosen) - 1))


class _Clock:
    """Wall and CPU seconds by stage."""

    def __init__(self) -> None:
        self.counting = False
        self._wall: defaultdict[str, float] = defaultdict(float)
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._gpus: dict[str, float] = {}

    def time(self, stage: str, work: Callable[[pa.Table], pa.Table], table: pa.Table) -> pa.Table:
        wall, cpu = time.monotonic(), time.process_time()
        result = work(table)
        if self.counting:
            self._wall[stage] += time.monotonic() - wall
            self._cpu[stage] += time.process_time() - cpu
            share = getattr(work, "gpu", None)
            self._gpus[stage] = share.num_gpus if share else 0.0
        if "error_code" in result.column_names:
            for code, message in zip(
                *(result[name].to_pylist() for name in ("error_code", "error_message")), strict=True
            ):
                if code:
                    raise InputError(code, f"while timing {stage}: {message}")
        return result

    def costs(self, products: int) -> dict[str, StageCost]:
        return {
            stage: StageCost(wall / products, max(0.1, self._cpu[stage] / wall) if wall else 1.0, self._gpus[stage])
            for stage, wall in self._wall.items()
        }


def _stages(catalog: Path, profile: Profile, preset: str) -> list[Callable[[Row, _Clock], None]]:
    """Package, render and score one product each, networks loaded once."""
    target, folder = str(catalog), Folder.at(str(catalog))
    hashes = revisions(profile.packaging)
    facts = RunFacts(
        new_run_id(), profile.packaging.digest(hashes), profile.name, model_names(profile.packaging, hashes)
    )
    gpu = _gpu(profile)
    resources = {"CPU": 2.0} | ({"GPU": 1.0} if gpu else {})
    share = plan_stages(profile, resources).describe_gpu
    mask = Mask(settings=profile.packaging, facts=facts, threads=MASK_THREADS, gpu=None)
    describe = Describe(settings=profile.packaging, facts=facts, batch=profile.run.network_batch, gpu=share)
    encode = Encode(settings=profile.packaging, facts=facts)
    videos = VideoFacts(new_run_id(), target, profile, preset, video_revisions(profile.video, profile.orbit))
    drawing = plan_render(profile, videos.vram_gb, resources)
    draw = Draw(facts=videos, gpu=drawing.gpu, threads=RENDER_THREADS)
    scoring = score_facts(target, profile)
    leave_out = LeaveOut(facts=scoring, gpu=drawing.gpu, threads=RENDER_THREADS)
    compare = Compare(facts=scoring, threads=MASK_THREADS)
    judge = Judge(facts=scoring, gpu=gpu, threads=MASK_THREADS)
    if gpu:
        # Each stage has kept this process to its own share; here all of them are one process.
        GpuShare(profile.run.device_gb, profile.run.device_gb).cap_this_process()

    def package_one(row: Row, clock: _Clock) -> None:
        planned = {"known_key": None, "depth_scale": None, "depth_shift": None}
        table = pa.Table.from_pylist([{**row, **planned}], schema=PLANNED)
        steps: list[tuple[str, Callable[[pa.Table], pa.Table]]] = [
            ("decode", lambda one: decode(one, settings=profile.packaging, settings_hash=facts.settings)),
            ("mask", mask),
            ("describe", describe),
            ("encode", encode),
            ("write", lambda one: write(one, catalog=target, after=None)),
        ]
        for name, step in steps:
            table = clock.time(f"package.{name}", step, table)

    def render_one(row: Row, clock: _Clock) -> None:
        table, _ = pending_videos(Catalog(folder), videos, seeds=1, products=[str(row["product_id"])], limit=None)
        steps: list[tuple[str, Callable[[pa.Table], pa.Table]]] = [
            ("load", lambda one: load(one, catalog=target)),
            ("draw", draw),
            ("save", lambda one: save(one, facts=videos)),
            ("write", lambda one: write_videos(one, catalog=target, after=None)),
        ]
        for name, step in steps:
            table = clock.time(f"render.{name}", step, table)

    def score_one(row: Row, clock: _Clock) -> None:
        table, _ = pending_scores(Catalog(folder), scoring, {})
        steps: list[tuple[str, Callable[[pa.Table], pa.Table]]] = [
            ("gather", lambda one: gather(one, facts=scoring)),
            ("leave_out", leave_out),
            ("compare", compare),
            ("judge", judge),
            ("write", lambda one: write_scores(one, catalog=target, after=None)),
        ]
        for name, step in steps:
            table = clock.time(f"score.{name}", step, table)

    return [package_one, render_one, score_one]


def _gpu(profile: Profile) -> GpuShare | None:
    import torch

    return GpuShare(4.0, profile.run.device_gb) if torch.cuda.is_available() else None
