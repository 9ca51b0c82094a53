"""The dispatcher: leases jobs, runs them and delivers webhooks.

Independent of Ray: it is given the function that runs a job.
"""

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
from gapray.serve.deletion import Sweeper, delete_job
from gapray.serve.jobs import Job
from gapray.serve.settings import ServeSettings
from gapray.serve.store import JobStore, PendingWebhook
from gapray.serve.tables import UNAVAILABLE
from gapray.serve.webhooks import deliver
from gapray.serve.work import Report, client_message, to_gapray_error

log = logging.getLogger("gapray.serve")

RunJob = Callable[[Job, Report], Awaitable[dict[str, Any]]]
"""Runs a job and returns its result."""
_TIDY_S = 60.0
"""Pause between removals of expired and deleted jobs [s]."""
_SWEEP_S = 600.0
"""Longest pause between sweeps for files without a job [s]."""
_RETRY_S = 1.0
"""Pause after a failure of the database or the artifact store [s]."""
_DEAD_AFTER_S = 60.0
"""Time without a successful step after which the dispatcher counts as stuck [s]."""
DELIVERIES = 10
"""Webhooks that are delivered concurrently."""


class WorkerLostError(Exception):
    """A worker died while it ran a job; the job is given to another worker."""


class Dispatcher:
    """Runs the background loops that process jobs. Several dispatchers may run: leases keep them apart.

    Args:
        store: The jobs.
        artifacts: Their files.
        settings: The server's settings.
        run: Runs one job.
    """

    def __init__(self, store: JobStore, artifacts: Artifacts, settings: ServeSettings, run: RunJob) -> None:
        self._store, self._artifacts, self._settings, self._run = store, artifacts, settings, run
        self._sweeper = Sweeper(store, artifacts, settings.jobs.orphan_s)
        self._worker = f"dispatcher-{uuid.uuid4().hex[:12]}"
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._loops: list[asyncio.Task[None]] = []
        # Not asyncio's default threads, which lease jobs and renew leases: slow receivers could occupy all of them.
        self._webhook_threads = ThreadPoolExecutor(DELIVERIES, "webhook")
        self._deliveries: dict[asyncio.Future[None], PendingWebhook] = {}
        self._last_success = time.monotonic()

    def start(self) -> None:
        """Start the loops in the running event loop."""
        rules = self._settings.jobs
        self._loops = [
            asyncio.create_task(self._forever(self._lease, rules.poll_s)),
            asyncio.create_task(self._forever(self._heartbeat, rules.lease_s / 4)),
            asyncio.create_task(self._forever(self._notify, max(rules.poll_s, 0.25))),
            asyncio.create_task(self._forever(self._tidy, _TIDY_S)),
            asyncio.create_task(self._forever(self._sweep, min(_SWEEP_S, rules.orphan_s / 2))),
        ]

    def check(self) -> None:
        """Check that the loops are alive and that the database was reached within the last minute.

        Raises:
            RuntimeError: A loop has ended, or no step has succeeded for a minute.
        """
        if any(loop.done() for loop in self._loops) or time.monotonic() - self._last_success > _DEAD_AFTER_S:
            raise RuntimeError("the dispatcher is stuck")

    @property
    def running(self) -> int:
        """Number of jobs that are running."""
        return len(self._running)

    async def stop(self) -> None:
        """Stop at once, and release the running jobs."""
        for loop in self._loops:
            loop.cancel()
        self._webhook_threads.shutdown(wait=False, cancel_futures=True)
        held = list(self._running.values())
        for job, task in held:
            task.cancel()
            with suppress(Exception):
                await asyncio.to_thread(self._store.release, job.id, job.attempt)

    async def _forever(self, step: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while True:
            try:
                await step()
                self._last_success = time.monotonic()
            except Exception as error:
                # The database or the bucket is unavailable: leases expire, nothing is lost, and work resumes when it is back.
                log.warning("dispatcher: %s: %s", type(error).__name__, error)
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(pause_s)

    async def _lease(self) -> None:
        rules = self._settings.jobs
        free = rules.running - len(self._running)
        if free <= 0:
            return
        leased = await asyncio.to_thread(
            self._store.lease, self._worker, max_jobs=free, lease_s=rules.lease_s, attempts=rules.attempts
        )
        for job in leased:
            log.info("job %s attempt %d begins", job.id, job.attempt)
            self._running[job.id] = job, asyncio.create_task(self._process(job))

    async def _process(self, job: Job) -> None:
        """Run a leased job and record its outcome."""

        async def report(stage: str, percent: int) -> None:
            with suppress(*UNAVAILABLE):  # progress may be lost; a job's outcome may not
                await asyncio.to_thread(self._store.progress, job.id, job.attempt, stage, percent)

        try:
            async with asyncio.timeout(job.timeout_s or self._settings.jobs.timeout_s):
                result = await self._run(job, report)
            done = await self._record(self._store.complete, job.id, job.attempt, result)
            log.info("job %s attempt %d %s", job.id, job.attempt, "completed" if done else "came too late")
        except asyncio.CancelledError:
            raise
        except TimeoutError:
            limit = job.timeout_s or self._settings.jobs.timeout_s
            await self._record(
                self._store.fail, job.id, job.attempt, "job.timed_out", f"the job took longer than {limit:g} s"
            )
        except WorkerLostError as error:
            log.warning("job %s attempt %d lost its worker: %s", job.id, job.attempt, error)
            await self._record(self._store.release, job.id, job.attempt)
        except Exception as error:
            known = to_gapray_error(error)
            if known.code == "internal.error":
                log.exception("job %s attempt %d failed", job.id, job.attempt)
            failure = job.id, job.attempt, known.code, client_message(known)
            if known.code == "job.out_of_memory":  # another job in the same worker may have used the memory
                fail = partial(self._store.fail_or_retry, attempts=self._settings.jobs.attempts)
                await self._record(fail, *failure)
            else:
                await self._record(self._store.fail, *failure)
        finally:
            # A later attempt of the same job may have started meanwhile.
            if job.id in self._running and self._running[job.id][0].attempt == job.attempt:
                del self._running[job.id]

    async def _record(self, call: Callable[..., bool], *args: Any) -> bool:
        """Record an outcome in the database, retrying while it is unavailable: the work is done and must not be lost.

        Raises:
            Exception: An error that retrying cannot solve.
        """
        while True:
            try:
                return await asyncio.to_thread(call, *args)
            except UNAVAILABLE as error:
                log.warning("dispatcher: %s: %s", type(error).__name__, error)
                await asyncio.sleep(_RETRY_S)

    async def _heartbeat(self) -> None:
        held = {job.id: job.attempt for job, _ in self._running.values()}
        lost = await asyncio.to_thread(self._store.heartbeat, self._worker, held, self._settings.jobs.lease_s)
        for job_id in lost:
            if job_id in self._running and self._running[job_id][0].attempt == held[job_id]:
                # The job was cancelled or deleted, or another worker has it now.
                self._running[job_id][1].cancel()

    async def _notify(self) -> None:
        """Start the deliveries of webhooks that are due, each in a thread of its own."""
        in_flight = list(self._deliveries.values())
        for webhook in await asyncio.to_thread(self._store.due_webhooks, DELIVERIES, in_flight=in_flight):
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(
                self._webhook_threads, deliver, webhook, self._store, self._artifacts, self._settings
            )
            self._deliveries[future] = webhook
            future.add_done_callback(self._delivered)

    def _delivered(self, future: asyncio.Future[None]) -> None:
        webhook = self._deliveries.pop(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            # The database is unavailable: the webhook's lease expires, and it is tried again.
            log.warning("webhook %s: %s: %s", webhook.id, type(error).__name__, error)

    async def _tidy(self) -> None:
        for job_id in await asyncio.to_thread(self._store.due_for_removal):
            await asyncio.to_thread(delete_job, self._store, self._artifacts, job_id)

    async def _sweep(self) -> None:
        await asyncio.to_thread(self._sweeper.sweep)
