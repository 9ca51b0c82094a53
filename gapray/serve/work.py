"""One job from start to result: which worker does what, in which order. The same on a cluster and in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from gapray.errors import GaprayError, as_gapray_error
from gapray.serve.artifacts import Artifacts, content_type
from gapray.serve.jobs import Job, Making
from gapray.serve.remedies import in_fields

if TYPE_CHECKING:  # the dispatcher moves these about without loading what makes them
    from gapray.fidelity.comparison import Comparison
    from gapray.fidelity.shown import NormalizedView
    from gapray.gap.package import GapPackage
    from gapray.serve.engine import Laid, Turn

Report = Callable[[str, int], Awaitable[None]]
"""Stage, percent."""


class Workers(Protocol):
    """Where the steps of a job are done."""

    async def package(self, job: Job) -> GapPackage:
        """See `Packager.package`."""
        ...

    async def store_package(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """See `Packager.store_package`."""
        ...

    async def draw(self, making: Making, package: GapPackage) -> Turn:
        """See `Generator.draw`."""
        ...

    async def encode(self, job: Job, package: GapPackage, turn: Turn) -> dict[str, Any]:
        """See `Packager.encode`."""
        ...

    async def compare(self, job: Job, package: GapPackage, turn: Turn) -> Comparison:
        """See `Packager.compare`."""
        ...

    async def laid(self, job: Job) -> Laid:
        """See `Packager.laid`."""
        ...

    async def style(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """See `Stylist.style`."""
        ...

    async def judge(self, comparison: Comparison) -> dict[str, Any]:
        """See `Scorer.judge`."""
        ...

    async def judge_foreign(
        self, clip: list[NormalizedView], photos: list[NormalizedView], others: list[list[NormalizedView]]
    ) -> dict[str, Any]:
        """See `Scorer.judge_foreign`."""
        ...


async def make(job: Job, workers: Workers, report: Report) -> dict[str, Any]:
    """Do a job.

    Returns:
        Its result: `files`, and `video`, `package`, `images` or `scores`, with the seconds of each stage.

    Raises:
        GaprayError: When nothing can be delivered. A video whose scoring fails is delivered, and its `scores` hold the error.
    """
    clock = _Clock()
    if job.kind == "score":
        await report("package", 5)
        laid = await workers.laid(job)
        clock.lap("package")
        await report("score", 60)
        scores = await workers.judge_foreign(laid.clip, laid.photos, laid.others)
        clock.lap("score")
        told = {"warnings": list(laid.warnings), "azimuths_by": laid.azimuths_by}
        return {"files": {}, "scores": scores, "seconds": clock.laps, **told}
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
        result["scores"] = await _scored(job, workers, package, turn)
        clock.lap("score")
    return result | {"seconds": clock.laps}


async def _scored(job: Job, workers: Workers, package: GapPackage, turn: Turn) -> dict[str, Any]:
    try:
        return await workers.judge(await workers.compare(job, package, turn))
    except Exception as error:
        known = ours(error)
        if known is None:
            raise
        return {"error": {"code": known.code, "message": told(known)}}


def ours(error: BaseException) -> GaprayError | None:
    """The gapray error that `error` is or, from another process, carries."""
    for one in (error, getattr(error, "cause", None), error.__cause__):
        if isinstance(one, GaprayError):
            return one
    return None


async def make_nothing(job: Job, artifacts: Artifacts, report: Report) -> dict[str, Any]:
    """The null engine: the same way through store, artifacts and APIs, with a grey turn at its end."""
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
    told = {"backend": "null", "warnings": ["the null engine draws nothing"], "seconds": {}}
    return {"files": files, "images": images} | told


class _Clock:
    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.laps[stage] = round(now - self._last, 3)
        self._last = now


def told(error: GaprayError) -> str:
    """A message for clients: of a defect only that it is one."""
    return "the server failed at this" if error.code == "internal.error" else in_fields(error.message)


def failure_of(error: BaseException) -> GaprayError:
    """What a client is told of an error; the trace stays in the log."""
    known = ours(error)
    if known is not None:
        return known
    return as_gapray_error(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
