"""All workers in one process, without Ray: for tests, RunPod's handler, and to measure what the server adds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gapray.fidelity.comparison import Comparison
from gapray.fidelity.shown import NormalizedView
from gapray.gap.package import GapPackage
from gapray.serve.engine import Generator, Laid, Packager, Scorer, Turn
from gapray.serve.jobs import Job, Making
from gapray.serve.settings import ServeSettings

if TYPE_CHECKING:
    from gapray.serve.stylist import Stylist


class LocalWorkers:
    """One call of each worker at a time, in threads.

    Args:
        settings: Of the server.
        device: ``cpu`` or ``cuda``; default: a GPU when there is one.
        holds: As `gapray.serve.artifacts.Artifacts.holds`.
    """

    def __init__(
        self, settings: ServeSettings, *, device: str | None = None, holds: Callable[[str, int], bool] | None = None
    ) -> None:
        self._packager = Packager(settings, device=device, holds=holds)
        self._generator = Generator(settings, device=device)
        self._scorer = Scorer(settings, device=device)
        self._settings, self._device, self._holds = settings, device, holds
        self._locks = {name: threading.Lock() for name in ("packager", "generator", "scorer", "stylist")}

    @cached_property
    def _stylist(self) -> Stylist:
        """Loaded when the first still is wanted: a server of videos alone never pays for it."""
        from gapray.serve.stylist import Stylist

        return Stylist(self._settings, device=self._device, holds=self._holds)

    async def _in_turn(self, who: str, call: Callable[..., Any], *args: Any) -> Any:
        def locked() -> Any:
            with self._locks[who]:
                return call(*args)

        return await asyncio.to_thread(locked)

    async def package(self, job: Job) -> GapPackage:
        """See `Workers`."""
        found: GapPackage = await self._in_turn("packager", self._packager.package, job)
        return found

    async def store_package(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """See `Workers`."""
        found: dict[str, Any] = await self._in_turn("packager", self._packager.store_package, job, package)
        return found

    async def draw(self, making: Making, package: GapPackage) -> Turn:
        """See `Workers`."""
        found: Turn = await self._in_turn("generator", self._generator.draw, making, package)
        return found

    async def encode(self, job: Job, package: GapPackage, turn: Turn) -> dict[str, Any]:
        """See `Workers`."""
        found: dict[str, Any] = await self._in_turn("packager", self._packager.encode, job, package, turn)
        return found

    async def compare(self, job: Job, package: GapPackage, turn: Turn) -> Comparison:
        """See `Workers`."""
        found: Comparison = await self._in_turn("packager", self._packager.compare, job, package, turn)
        return found

    async def laid(self, job: Job) -> Laid:
        """See `Workers`."""
        found: Laid = await self._in_turn("packager", self._packager.laid, job)
        return found

    async def style(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """See `Workers`."""
        # The model is loaded by the first still, in its thread: the event loop goes on.
        found: dict[str, Any] = await self._in_turn("stylist", lambda: self._stylist.style(job, package))
        return found

    async def judge(self, comparison: Comparison) -> dict[str, Any]:
        """See `Workers`."""
        found: dict[str, Any] = await self._in_turn("scorer", self._scorer.judge, comparison)
        return found

    async def judge_foreign(
        self, clip: list[NormalizedView], photos: list[NormalizedView], others: list[list[NormalizedView]]
    ) -> dict[str, Any]:
        """See `Workers`."""
        found: dict[str, Any] = await self._in_turn("scorer", self._scorer.judge_foreign, clip, photos, others)
        return found
