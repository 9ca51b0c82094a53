"""How many generators or stylists the queue is worth. Runs in Serve's controller, which alone may wake zero replicas."""

from __future__ import annotations

import math
import time
from typing import Any

from gapray.serve.jobs import Kind
from gapray.serve.store import JobStore

_ASK_S = 1.0


class QueuePolicy:
    """Replicas for the jobs of one kind that wait or are at work, whether or not the dispatcher could hand them on yet.

    Jobs of other kinds need none of them, and must wake none: it may have to bring a GPU node.

    A class, because Serve 2.60 passes `policy_kwargs` to classes only. Bounds and delays are Serve's own.

    Args:
        jobs_url: Of the jobs' database.
        ongoing: Jobs at once in one replica.
        kind: Of job that these replicas work on.
    """

    def __init__(self, jobs_url: str, ongoing: int, kind: Kind = "video") -> None:
        self._store = JobStore(jobs_url)
        self._ongoing, self._kind = max(1, ongoing), kind
        self._asked = -math.inf
        self._jobs = 0

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Called by Serve with its `AutoscalingContext` several times a second."""
        if time.monotonic() - self._asked > _ASK_S:
            try:
                counts = self._store.counts(kind=self._kind)
            except Exception:
                # The database is away: stay as we are rather than take workers down.
                return ctx.target_num_replicas, {}
            self._jobs = counts["queued"] + counts["running"]
            self._asked = time.monotonic()
        return math.ceil(self._jobs / self._ongoing), {}
