"""How many generators or stylists the queue is worth. Runs in Serve's controller, which alone may wake zero replicas."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from gapray.serve.jobs import Kind
from gapray.serve.settings import JOBS_URL, revealed
from gapray.serve.store import JobStore

log = logging.getLogger("gapray.serve")
_ASK_S = 1.0
_MOST_PAUSE_S = 30.0
"""A database that fails is asked again after one second, two, four … so many at most [s]."""
_OLD_S = 30.0
"""A number of jobs this old decides nothing [s]."""


class QueuePolicy:
    """Replicas for the jobs of one kind that wait or are at work, whether or not the dispatcher could hand them on yet.

    Jobs of other kinds need none of them, and must wake none: it may have to bring a GPU node.

    Serve calls it several times a second in the event loop of its controller, so it answers from memory: a thread asks the
    database. While that does not answer, the number of replicas stays as it is.

    A class, because Serve 2.60 passes `policy_kwargs` to classes only. Bounds and delays are Serve's own.

    Args:
        jobs_url: Of the jobs' database. Serve logs and shows it: a password in it is hidden, and found in the controller's
            environment.
        ongoing: Jobs at once in one replica.
        kind: Of job that these replicas work on.
    """

    def __init__(self, jobs_url: str, ongoing: int, kind: Kind = "video") -> None:
        self._url, self._ongoing, self._kind = jobs_url, max(1, ongoing), kind
        self._store: JobStore | None = None
        self._asking: threading.Thread | None = None
        self._next, self._pause_s = -math.inf, _ASK_S
        self._jobs, self._known = 0, -math.inf

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Called by Serve with its `AutoscalingContext`."""
        now = time.monotonic()
        if now >= self._next and (self._asking is None or not self._asking.is_alive()):
            self._asking = threading.Thread(target=self._ask, name="gapray-queue", daemon=True)
            self._asking.start()
        if now - self._known > _OLD_S:
            return ctx.target_num_replicas, {}
        return math.ceil(self._jobs / self._ongoing), {}

    def _ask(self) -> None:
        try:
            if self._store is None:
                self._store = JobStore(revealed(self._url, JOBS_URL))
            counts = self._store.counts(kind=self._kind)
            self._jobs, self._known, self._pause_s = counts["queued"] + counts["running"], time.monotonic(), _ASK_S
            self._next = self._known + _ASK_S
        except Exception as error:
            log.warning("the queue is not known: %s: %s", type(error).__name__, error)
            self._next = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S)
