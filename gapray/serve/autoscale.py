"""Autoscaling of generators and stylists by queue length. Runs in Serve's controller, which alone can scale up from zero."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from gapray.serve.jobs import Kind
from gapray.serve.settings import JOBS_URL, reveal_password
from gapray.serve.store import JobStore

log = logging.getLogger("gapray.serve")
_POLL_S = 1.0
"""Pause between two queries of the database [s]."""
_MAX_PAUSE_S = 30.0
"""Longest pause while the database fails: it doubles from `_POLL_S` with every failure [s]."""
_STALE_S = 30.0
"""Age at which a job count is no longer used [s]."""


class QueuePolicy:
    """Asks for as many replicas as the queued and running jobs of one kind need.

    Jobs are counted in the database, so that those the dispatcher could not hand on yet count too. Jobs of other kinds do not
    need these replicas, and must not start any: that may bring up a GPU node.

    Serve calls the policy several times a second in the event loop of its controller, so it answers from memory, and a thread
    queries the database. While the database does not answer, the number of replicas stays as it is.

    A class, because Serve 2.60 passes `policy_kwargs` to classes only. Bounds and delays are Serve's own.

    Args:
        jobs_url: URL of the job database. Serve logs and shows it, so a password in it is masked, and read from the
            controller's environment.
        ongoing: Jobs that one replica handles at once.
        kind: Kind of the jobs that these replicas handle.
    """

    def __init__(self, jobs_url: str, ongoing: int, kind: Kind = "video") -> None:
        self._url, self._ongoing, self._kind = jobs_url, max(1, ongoing), kind
        self._store: JobStore | None = None
        self._poller: threading.Thread | None = None
        self._next_poll, self._pause_s = -math.inf, _POLL_S
        self._jobs, self._counted_at = 0, -math.inf

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Return the target number of replicas, given Serve's `AutoscalingContext`."""
        now = time.monotonic()
        if now >= self._next_poll and (self._poller is None or not self._poller.is_alive()):
            self._poller = threading.Thread(target=self._poll, name="gapray-queue", daemon=True)
            self._poller.start()
        if now - self._counted_at > _STALE_S:
            return ctx.target_num_replicas, {}
        return math.ceil(self._jobs / self._ongoing), {}

    def _poll(self) -> None:
        try:
            if self._store is None:
                self._store = JobStore(reveal_password(self._url, JOBS_URL))
            counts = self._store.counts(kind=self._kind)
            self._jobs, self._counted_at, self._pause_s = (
                counts["queued"] + counts["running"],
                time.monotonic(),
                _POLL_S,
            )
            self._next_poll = self._counted_at + _POLL_S
        except Exception as error:
            log.warning("the queue is not known: %s: %s", type(error).__name__, error)
            self._next_poll = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)
