"""How many generators the queue is worth. Runs in Serve's controller, which is the only one that may wake zero replicas."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

from gapray.serve.store import JobStore

_ASK_S = 1.0
_asked: dict[str, tuple[float, int]] = {}


def replicas_for_queue(ctx: Any, *, jobs_url: str, ongoing: int) -> tuple[int, dict[str, Any]]:
    """Replicas for the jobs that wait or are at work, whether or not the dispatcher could hand them on yet.

    Args:
        ctx: Serve's `AutoscalingContext`.
        jobs_url: Of the jobs' database.
        ongoing: Clips at once in one replica.
    """
    now = time.monotonic()
    at, jobs = _asked.get(jobs_url, (-math.inf, 0))
    if now - at > _ASK_S:
        try:
            counts = _store(jobs_url).counts()
            jobs = counts["queued"] + counts["running"]
        except Exception:
            # The database is away: stay as we are rather than take workers down.
            return ctx.target_num_replicas, {}
        _asked[jobs_url] = now, jobs
    wanted = math.ceil(jobs / max(1, ongoing))
    return max(ctx.capacity_adjusted_min_replicas, min(ctx.capacity_adjusted_max_replicas, wanted)), {}


@cache
def _store(jobs_url: str) -> JobStore:
    return JobStore(jobs_url)
