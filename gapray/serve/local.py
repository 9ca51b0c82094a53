"""All workers in one process, without Ray: for tests, RunPod's handler and benchmarks of the server's overhead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gapray.fidelity.comparison import Comparison
from gapray.fidelity.shown import NormalizedView
from gapray.gap.package import GapPackage
from gapray.serve.generator import Generator, RenderedTurn
from gapray.serve.jobs import GenerationParams, Job
from gapray.serve.packager import ForeignInputs, Packager
from gapray.serve.scorer import Scorer
from gapray.serve.settings import ServeSettings
from gapray.serve.threads import in_thread

if TYPE_CHECKING:
    from gapray.serve.stylist import Stylist


class LocalWorkers:
    """`Workers` in threads of this process; each worker handles one call at a time.

    Args:
        settings: The server's settings.
        device: ``cpu`` or ``cuda``. Defaults to a GPU if there is one.
        is_current: Whether an attempt still owns its job; see `Artifacts.is_current`.
    """

    def __init__(
        self,
        settings: ServeSettings,
        *,
        device: str | None = None,
        is_current: Callable[[str, int], bool] | None = None,
    ) -> None:
        self._packager = Packager(settings, device=device, is_current=is_current)
        self._generator = Generator(settings, device=device)
        self._scorer = Scorer(settings, device=device)
        self._settings, self._device, self._is_current = settings, device, is_current
        self._locks = {name: threading.Lock() for name in ("packager", "generator", "scorer", "stylist")}

    @cached_property
    def _stylist(self) -> Stylist:
        """The stylist, loaded for the first still: a process that only makes videos never loads it."""
        from gapray.serve.stylist import Stylist

        return Stylist(self._settings, device=self._device, is_current=self._is_current)

    async def _run(self, worker: str, call: Callable[..., Any], *args: Any) -> Any:
        """Call a worker in a thread, one call at a time."""

        def locked() -> Any:
            with self._locks[worker]:
                return call(*args)

        return await in_thread(None, locked)

    async def package(self, job: Job) -> GapPackage:
        """Run `Packager.package`."""
        result: GapPackage = await self._run("packager", self._packager.package, job)
        return result

    async def store_package(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """Run `Packager.store_package`."""
        result: dict[str, Any] = await self._run("packager", self._packager.store_package, job, package)
        return result

    async def draw(self, params: GenerationParams, package: GapPackage) -> RenderedTurn:
        """Run `Generator.draw`."""
        result: RenderedTurn = await self._run("generator", self._generator.draw, params, package)
        return result

    async def encode(self, job: Job, package: GapPackage, turn: RenderedTurn) -> dict[str, Any]:
        """Run `Packager.encode`."""
        result: dict[str, Any] = await self._run("packager", self._packager.encode, job, package, turn)
        return result

    async def compare(self, job: Job, package: GapPackage, turn: RenderedTurn) -> Comparison:
        """Run `Packager.compare`."""
        result: Comparison = await self._run("packager", self._packager.compare, job, package, turn)
        return result

    async def prepare_foreign(self, job: Job) -> ForeignInputs:
        """Run `Packager.prepare_foreign`."""
        result: ForeignInputs = await self._run("packager", self._packager.prepare_foreign, job)
        return result

    async def style(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """Run `Stylist.style`."""
        # A lambda, so that the first still loads the model in its thread and not on the event loop.
        result: dict[str, Any] = await self._run("stylist", lambda: self._stylist.style(job, package))
        return result

    async def judge(self, comparison: Comparison) -> dict[str, Any]:
        """Run `Scorer.judge`."""
        result: dict[str, Any] = await self._run("scorer", self._scorer.judge, comparison)
        return result

    async def judge_foreign(
        self, clip: list[NormalizedView], photos: list[NormalizedView], others: list[list[NormalizedView]]
    ) -> dict[str, Any]:
        """Run `Scorer.judge_foreign`."""
        result: dict[str, Any] = await self._run("scorer", self._scorer.judge_foreign, clip, photos, others)
        return result
