"""Leases jobs and has them done. Knows no Ray: what does the work is a function it is given."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from gapray.serve.artifacts import Artifacts
from gapray.serve.deletion import Sweeper, forget
from gapray.serve.jobs import Job
from gapray.serve.settings import ServeSettings
from gapray.serve.store import JobStore, Notice
from gapray.serve.tables import AWAY
from gapray.serve.webhooks import deliver
from gapray.serve.work import Report, failure_of, told

log = logging.getLogger("gapray.serve")

Do = Callable[[Job, Report], Awaitable[dict[str, Any]]]
_TIDY_S = 60.0
_SWEEP_S = 600.0
_RETRY_S = 1.0
_DEAD_AFTER_S = 60.0
DELIVERIES = 10
"""Webhooks that are delivered at a time."""


class WorkerLostError(Exception):
    """The worker died, not the job: it is given to another."""


class Dispatcher:
    """The loops that move jobs along. Several may run: leases keep them apart."""

    def __init__(self, store: JobStore, artifacts: Artifacts, settings: ServeSettings, do: Do) -> None:
        self._store, self._artifacts, self._settings, self._do = store, artifacts, settings, do
        self._sweeper = Sweeper(store, artifacts, settings.jobs.orphan_s)
        self._worker = f"dispatcher-{uuid.uuid4().hex[:12]}"
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._loops: list[asyncio.Task[None]] = []
        # Not asyncio's own threads, in which jobs are leased and kept: those of receivers may all be slow.
        self._couriers = ThreadPoolExecutor(DELIVERIES, "webhook")
        self._deliveries: dict[asyncio.Future[None], Notice] = {}
        self._last = time.monotonic()

    def start(self) -> None:
        """Begin, in the running event loop."""
        rules = self._settings.jobs
        self._loops = [
            asyncio.create_task(self._forever(self._lease, rules.poll_s)),
            asyncio.create_task(self._forever(self._beat, rules.lease_s / 4)),
            asyncio.create_task(self._forever(self._notify, max(rules.poll_s, 0.25))),
            asyncio.create_task(self._forever(self._tidy, _TIDY_S)),
            asyncio.create_task(self._forever(self._sweep, min(_SWEEP_S, rules.orphan_s / 2))),
        ]

    def check(self) -> None:
        """Raise when the loops have died or the database was not reached for a minute."""
        if any(loop.done() for loop in self._loops) or time.monotonic() - self._last > _DEAD_AFTER_S:
            raise RuntimeError("the dispatcher is stuck")

    @property
    def running(self) -> int:
        """Jobs at work."""
        return len(self._running)

    async def stop(self) -> None:
        """Stop at once; what is at work is given back."""
        for loop in self._loops:
            loop.cancel()
        self._couriers.shutdown(wait=False, cancel_futures=True)
        held = list(self._running.values())
        for job, task in held:
            task.cancel()
            with suppress(Exception):
                await asyncio.to_thread(self._store.release, job.id, job.attempt)

    async def _forever(self, step: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while True:
            try:
                await step()
                self._last = time.monotonic()
            except Exception as error:
                # The database or the bucket is away: leases run out, nothing is lost, and we go on when it is back.
                log.warning("dispatcher: %s: %s", type(error).__name__, error)
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(pause_s)

    async def _lease(self) -> None:
        rules = self._settings.jobs
        room = rules.running - len(self._running)
        if room <= 0:
            return
        taken = await asyncio.to_thread(
            self._store.lease, self._worker, most=room, lease_s=rules.lease_s, attempts=rules.attempts
        )
        for job in taken:
            log.info("job %s attempt %d begins", job.id, job.attempt)
            self._running[job.id] = job, asyncio.create_task(self._one(job))

    async def _one(self, job: Job) -> None:
        async def report(stage: str, percent: int) -> None:
            with suppress(*AWAY):  # how far a job is may stay unsaid; what becomes of it may not
                await asyncio.to_thread(self._store.progress, job.id, job.attempt, stage, percent)

        try:
            async with asyncio.timeout(job.timeout_s or self._settings.jobs.timeout_s):
                result = await self._do(job, report)
            done = await self._until_said(self._store.complete, job.id, job.attempt, result)
            log.info("job %s attempt %d %s", job.id, job.attempt, "completed" if done else "came too late")
        except asyncio.CancelledError:
            raise
        except TimeoutError:
            limit = job.timeout_s or self._settings.jobs.timeout_s
            await self._until_said(
                self._store.fail, job.id, job.attempt, "job.timed_out", f"the job took longer than {limit:g} s"
            )
        except WorkerLostError as error:
            log.warning("job %s attempt %d lost its worker: %s", job.id, job.attempt, error)
            await self._until_said(self._store.release, job.id, job.attempt)
        except Exception as error:
            known = failure_of(error)
            if known.code == "internal.error":
                log.exception("job %s attempt %d failed", job.id, job.attempt)
            failed = job.id, job.attempt, known.code, told(known)
            if known.code == "job.out_of_memory":  # which another job of the same worker may have taken
                fail = partial(self._store.fail_at_last, attempts=self._settings.jobs.attempts)
                await self._until_said(fail, *failed)
            else:
                await self._until_said(self._store.fail, *failed)
        finally:
            # A later attempt of the same job may have begun meanwhile.
            if job.id in self._running and self._running[job.id][0].attempt == job.attempt:
                del self._running[job.id]

    async def _until_said(self, call: Callable[..., bool], *args: Any) -> bool:
        """Tell the database, again and again while it is away: the work is done and must not be lost.

        Raises:
            Exception: What the database does not take, whenever it is told.
        """
        while True:
            try:
                return await asyncio.to_thread(call, *args)
            except AWAY as error:
                log.warning("dispatcher: %s: %s", type(error).__name__, error)
                await asyncio.sleep(_RETRY_S)

    async def _beat(self) -> None:
        held = {job.id: job.attempt for job, _ in self._running.values()}
        lost = await asyncio.to_thread(self._store.beat, self._worker, held, self._settings.jobs.lease_s)
        for job_id in lost:
            if job_id in self._running and self._running[job_id][0].attempt == held[job_id]:
                # Cancelled, deleted, or somebody else's by now.
                self._running[job_id][1].cancel()

    async def _notify(self) -> None:
        """Begin what can be delivered now; nobody waits for a receiver but its own thread."""
        at_work = list(self._deliveries.values())
        for notice in await asyncio.to_thread(self._store.due_notices, DELIVERIES, at_work=at_work):
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(self._couriers, deliver, notice, self._store, self._artifacts, self._settings)
            self._deliveries[done] = notice
            done.add_done_callback(self._delivered)

    def _delivered(self, done: asyncio.Future[None]) -> None:
        notice = self._deliveries.pop(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            # The database is away: its lease runs out, and it is tried again.
            log.warning("webhook %s: %s: %s", notice.id, type(error).__name__, error)

    async def _tidy(self) -> None:
        for job_id in await asyncio.to_thread(self._store.doomed):
            await asyncio.to_thread(forget, self._store, self._artifacts, job_id)

    async def _sweep(self) -> None:
        await asyncio.to_thread(self._sweeper.sweep)
