"""What a cluster has, and what it could grow to: a run on an autoscaling cluster is planned for the most, and begins with the least."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.data
from ray.autoscaler.sdk import request_resources

from gapray.batch.pipeline import Pipeline
from gapray.batch.resources import check_resources
from gapray.batch.trace import log
from gapray.config import RunSettings
from gapray.errors import ResourceError

POLL_S = 0.5


@dataclass(frozen=True)
class Capacity:
    """Ray resources, by name."""

    now: Mapping[str, float]
    most: Mapping[str, float] = field(default_factory=dict)
    """With every node that the autoscaler may add; as `now` where nothing scales."""

    @property
    def elastic(self) -> bool:
        """Whether nodes may come."""
        return any(self.most.get(name, 0) > self.now.get(name, 0) for name in ("CPU", "GPU"))

    def pool(self, workers: int, *, calls: int = 1) -> ray.data.ActorPoolStrategy:
        """`workers` actors: all from the start, or as many as the backlog asks for where nodes have to come first.

        Args:
            workers: At most.
            calls: What one actor takes at once: 2 lets it unpack while it computes.
        """
        sizes = {"min_size": 1, "max_size": workers, "initial_size": 1} if self.elastic else {"size": workers}
        return ray.data.ActorPoolStrategy(**sizes, **({"max_concurrent_calls_per_actor": calls} if calls > 1 else {}))


def capacity(run: RunSettings) -> Capacity:
    """Capacity of the cluster that this process is connected to.

    Ray's own autoscalers tell nobody how far they may go (2.60: only `GcsClient.report_cluster_config` fills the record that
    `get_max_resources_from_cluster_config` reads, and nothing in the open-source wheel calls it), so the settings say it.
    """
    now = ray.cluster_resources()
    told = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    asked = {"CPU": run.max_cpus or 0, "GPU": run.max_gpus or 0}
    names = {*now, *told, *(name for name, amount in asked.items() if amount)}
    return Capacity(now, {one: float(max(now.get(one, 0), told.get(one, 0), asked.get(one, 0))) for one in names})


@contextmanager
def room_for(pipeline: Pipeline, capacity: Capacity, wait_s: float) -> Iterator[None]:
    """Make sure that a pipeline can run, and on an autoscaling cluster wait for the nodes that its first workers need.

    Args:
        pipeline: Declared for `capacity.most`.
        capacity: Of the cluster.
        wait_s: Longest wait for nodes.

    Raises:
        ResourceError: `resource.insufficient`: it never fits, or no node came in time.
    """
    check_resources(pipeline.needs(), capacity.most)
    if not capacity.elastic:
        yield
        return
    least = pipeline.smallest().needs()
    # Asked for as small pieces, so that any mixture of nodes will do; Ray Data asks for more as work queues up.
    request_resources(bundles=_bundles(least))
    try:
        _wait_for(least, wait_s)
        yield
    finally:
        request_resources(bundles=[])


def _bundles(needs: Mapping[str, float]) -> list[dict[str, Any]]:
    gpus = [{"GPU": 1, "CPU": 1}] * int(-(-needs.get("GPU", 0.0) // 1))
    return gpus + [{"CPU": 1}] * max(0, int(-(-needs["CPU"] // 1)) - len(gpus))


def _wait_for(needs: Mapping[str, float], wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while True:
        there = ray.cluster_resources()
        short = {name: amount for name, amount in needs.items() if amount > there.get(name, 0) + 1e-9}
        if not short:
            return
        if time.monotonic() > end:
            missing = ", ".join(f"{amount:g} {name}" for name, amount in short.items())
            raise ResourceError("resource.insufficient", f"no node came within {wait_s:g} s; still needed: {missing}")
        log("debug", "waiting for nodes", missing=short)
        time.sleep(POLL_S)
