"""The steps of a job, from start to result, over the workers' protocol: the same on a cluster and in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from gapray.errors import GaprayError, as_gapray_error
from gapray.serve.artifacts import Artifacts, content_type
from gapray.serve.jobs import GenerationParams, Job
from gapray.serve.remedies import as_request_fields

if TYPE_CHECKING:  # the dispatcher passes these on without importing the workers
    from gapray.fidelity.comparison import Comparison
    from gapray.fidelity.shown import NormalizedView
    from gapray.gap.package import GapPackage
    from gapray.serve.generator import RenderedTurn
    from gapray.serve.packager import ForeignInputs

Report = Callable[[str, int], Awaitable[None]]
"""Reports progress: called with the stage's name and the percentage done."""


class Workers(Protocol):
    """Carries out the steps of a job. The methods are those of `Packager`, `Generator`, `Scorer` and `Stylist`."""

    async def package(self, job: Job) -> GapPackage:
        """Package a job's photos (`Packager.package`)."""
        ...

    async def store_package(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """Store a package as a zip, and return the job's result (`Packager.store_package`)."""
        ...

    async def draw(self, params: GenerationParams, package: GapPackage) -> RenderedTurn:
        """Render the frames of a turn (`Generator.draw`)."""
        ...

    async def encode(self, job: Job, package: GapPackage, turn: RenderedTurn) -> dict[str, Any]:
        """Encode and store a turn, and return the job's result (`Packager.encode`)."""
        ...

    async def compare(self, job: Job, package: GapPackage, turn: RenderedTurn) -> Comparison:
        """Cut out frames and photos for scoring (`Packager.compare`)."""
        ...

    async def prepare_foreign(self, job: Job) -> ForeignInputs:
        """Cut out a foreign video and the photos of its product (`Packager.prepare_foreign`)."""
        ...

    async def style(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """Draw, judge and store stills, and return the job's result (`Stylist.style`)."""
        ...

    async def judge(self, comparison: Comparison) -> dict[str, Any]:
        """Score one comparison (`Scorer.judge`)."""
        ...

    async def judge_foreign(
        self, clip: list[NormalizedView], photos: list[NormalizedView], others: list[list[NormalizedView]]
    ) -> dict[str, Any]:
        """Align and score a foreign video (`Scorer.judge_foreign`)."""
        ...


async def run_job(job: Job, workers: Workers, report: Report) -> dict[str, Any]:
    """Run a job's steps.

    Returns:
        The job's result: `files`, one of `video`, `package`, `images` and `scores`, and the `seconds` of each stage.

    Raises:
        GaprayError: Nothing can be delivered. A video whose scoring fails is delivered; its `scores` then hold the error.
    """
    clock = _Clock()
    if job.kind == "score":
        await report("package", 5)
        inputs = await workers.prepare_foreign(job)
        clock.lap("package")
        await report("score", 60)
        scores = await workers.judge_foreign(inputs.clip, inputs.photos, inputs.others)
        clock.lap("score")
        return {
            "files": {},
            "scores": scores,
            "seconds": clock.laps,
            "warnings": list(inputs.warnings),
            "azimuths_by": inputs.azimuths_by,
        }
    await report("package", 5)
    package = await workers.package(job)
    clock.lap("package")
    if job.kind == "package":
        return await workers.store_package(job, package) | {"seconds": clock.laps}
    if job.kind == "image":
        await report("render", 40)
        result = await workers.style(job, package)
        clock.lap("render")
        return result | {"seconds": clock.laps}
    await report("render", 30)
    turn = await workers.draw(job.making, package)
    clock.lap("render")
    await report("encode", 80)
    result = await workers.encode(job, package, turn)
    clock.lap("encode")
    if job.making.score:
        await report("score", 90)
        result["scores"] = await _score(job, workers, package, turn)
        clock.lap("score")
    return result | {"seconds": clock.laps}


async def _score(job: Job, workers: Workers, package: GapPackage, turn: RenderedTurn) -> dict[str, Any]:
    """Return a video's scores, or ``{"error": …}`` if scoring fails."""
    try:
        return await workers.judge(await workers.compare(job, package, turn))
    except Exception as error:
        known = find_gapray_error(error)
        if known is None:
            raise
        return {"error": {"code": known.code, "message": client_message(known)}}


def find_gapray_error(error: BaseException) -> GaprayError | None:
    """Return `error` if it is a gapray error, or the one that it wraps: Ray wraps errors of other processes."""
    for candidate in (error, getattr(error, "cause", None), error.__cause__):
        if isinstance(candidate, GaprayError):
            return candidate
    return None


async def run_null_engine(job: Job, artifacts: Artifacts, report: Report) -> dict[str, Any]:
    """Answer a job with grey pictures: store, artifacts and APIs are used as always, but no model."""
    from gapray.serve.making import SPRITE_COLUMNS, preset_for
    from gapray.serve.null import grey_turn
    from gapray.video.encode import export
    from gapray.video.provenance import Provenance

    await report("render", 50)
    if job.making.still:
        return await _grey_stills(job, artifacts)
    turn = grey_turn()
    count, side = turn.shape[:2]
    preset = preset_for(job.making.model_copy(update={"width": None, "height": None}), count)
    files = export(turn, preset, Provenance(job.making.product_id, "compositeCapture", {"backend": "null"}))
    for name, data in files.items():
        await asyncio.to_thread(artifacts.put, f"{job.folder}/{name}", data)
    return {
        "files": {name: {"bytes": len(data), "type": content_type(name)} for name, data in files.items()},
        "video": {
            "name": preset.files[0].name,
            "frames": count,
            "fps": preset.files[0].fps,
            "seconds": count / preset.files[0].fps,
            "width": side,
            "height": side,
            "azimuths_deg": [360 * index / count for index in range(count)],
            "sprite_columns": SPRITE_COLUMNS,
            "backend": "null",
        },
        "warnings": ["the null engine draws nothing"],
        "seconds": {},
    }


async def _grey_stills(job: Job, artifacts: Artifacts) -> dict[str, Any]:
    from gapray.serve.null import grey_turn
    from gapray.video.encode import encoded_still
    from gapray.video.provenance import Provenance

    assert job.making.still
    files: dict[str, Any] = {}
    images = []
    grey = grey_turn()[0]
    for index in range(job.making.still.count):
        name = f"still-{index}.png"
        data = encoded_still(grey, name, 95, Provenance(job.making.product_id, "compositeCapture", {"backend": "null"}))
        await asyncio.to_thread(artifacts.put, f"{job.folder}/{name}", data)
        files[name] = {"bytes": len(data), "type": content_type(name)}
        size = {"width": grey.shape[1], "height": grey.shape[0]}
        images.append({"name": name, "seed": job.making.seed + index, "pasted": False, **size})
    return {
        "files": files,
        "images": images,
        "backend": "null",
        "warnings": ["the null engine draws nothing"],
        "seconds": {},
    }


class _Clock:
    """Measures the seconds of each stage of a job."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Record the time since the last lap under the stage's name."""
        now = time.monotonic()
        self.laps[stage] = round(now - self._last, 3)
        self._last = now


def client_message(error: GaprayError) -> str:
    """Return an error's message for clients; details of internal errors are left out."""
    return "the server failed at this" if error.code == "internal.error" else as_request_fields(error.message)


def to_gapray_error(error: BaseException) -> GaprayError:
    """Return the error that a client is shown for `error`; the traceback stays in the log."""
    known = find_gapray_error(error)
    if known is not None:
        return known
    return as_gapray_error(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
