"""How many generators the queue is worth. Runs in Serve's controller, which alone may wake zero replicas."""

from __future__ import annotations

import math
import time
from typing import Any

from gapray.serve.store import JobStore

_ASK_S = 1.0


class QueuePolicy:
    """Replicas for the videos that wait or are at work, whether or not the dispatcher could hand them on yet.

    Jobs of other kinds need no generator, and must wake none: it may have to bring a GPU node.

    A class, because Serve 2.60 passes `policy_kwargs` to classes only. Bounds and delays are Serve's own.

    Args:
        jobs_url: Of the jobs' database.
        ongoing: Clips at once in one replica.
    """

    def __init__(self, jobs_url: str, ongoing: int) -> None:
        self._store = JobStore(jobs_url)
        self._ongoing = max(1, ongoing)
        self._asked = -math.inf
        self._jobs = 0

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Called by Serve with its `AutoscalingContext` several times a second."""
        if time.monotonic() - self._asked > _ASK_S:
            try:
                counts = self._store.counts(kind="video")
            except Exception:
                # The database is away: stay as we are rather than take workers down.
                return ctx.target_num_replicas, {}
            self._jobs = counts["queued"] + counts["running"]
            self._asked = time.monotonic()
        return math.ceil(self._jobs / self._ongoing), {}
