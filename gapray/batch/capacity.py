"""Current and maximum resources of a cluster. On an autoscaling cluster a run is planned for the maximum and starts small."""

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
from gapray.errors import ResourceError
from gapray.profile import RunSettings

POLL_S = 0.5


@dataclass(frozen=True)
class Capacity:
    """Ray resources of a cluster, by name."""

    current: Mapping[str, float]
    maximum: Mapping[str, float] = field(default_factory=dict)
    """With all nodes that the autoscaler may add; equal to `current` for a cluster of fixed size."""

    @property
    def elastic(self) -> bool:
        """Whether the autoscaler may add nodes."""
        return any(self.maximum.get(name, 0) > self.current.get(name, 0) for name in ("CPU", "GPU"))

    def pool(self, workers: int, *, concurrent_calls: int = 1) -> ray.data.ActorPoolStrategy:
        """Return a pool of actors: fixed in size, or growing with the backlog on an elastic cluster.

        Args:
            workers: Maximum number of actors.
            concurrent_calls: Batches that one actor processes concurrently; with 2 it unpacks one while it computes the other.
        """
        sizes = {"min_size": 1, "max_size": workers, "initial_size": 1} if self.elastic else {"size": workers}
        concurrency = {"max_concurrent_calls_per_actor": concurrent_calls} if concurrent_calls > 1 else {}
        return ray.data.ActorPoolStrategy(**sizes, **concurrency)


def capacity(run: RunSettings) -> Capacity:
    """Return the capacity of the cluster that this process is connected to.

    Ray's open-source autoscalers do not report their limits (2.60: `get_max_resources_from_cluster_config` reads a record that
    only `GcsClient.report_cluster_config` fills, which nothing in the wheel calls), so `run.max_cpus` and `run.max_gpus` do.
    """
    current = ray.cluster_resources()
    reported = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    configured = {"CPU": run.max_cpus or 0, "GPU": run.max_gpus or 0}
    names = {*current, *reported, *(name for name, amount in configured.items() if amount)}
    sources = (current, reported, configured)
    return Capacity(current, {name: float(max(source.get(name, 0) for source in sources)) for name in names})


@contextmanager
def reserved_resources(pipeline: Pipeline, capacity: Capacity, wait_s: float) -> Iterator[None]:
    """Check that a pipeline fits; on an autoscaling cluster, request the nodes that its first workers need and wait for them.

    The request stands until the block ends.

    Args:
        pipeline: Planned for `capacity.maximum`.
        capacity: Capacity of the cluster.
        wait_s: Longest wait for nodes [s].

    Raises:
        ResourceError: `resource.insufficient`: the pipeline cannot fit, or the nodes did not come in time.
    """
    check_resources(pipeline.needs(), capacity.maximum)
    if not capacity.elastic:
        yield
        return
    minimum = pipeline.smallest().needs()
    # Requested in small bundles, so that any mix of nodes will do; Ray Data requests more as work queues up.
    request_resources(bundles=_bundles(minimum))
    try:
        _wait_for_nodes(minimum, wait_s)
        yield
    finally:
        request_resources(bundles=[])


def _bundles(needs: Mapping[str, float]) -> list[dict[str, Any]]:
    gpus = [{"GPU": 1, "CPU": 1}] * int(-(-needs.get("GPU", 0.0) // 1))
    return gpus + [{"CPU": 1}] * max(0, int(-(-needs["CPU"] // 1)) - len(gpus))


def _wait_for_nodes(needs: Mapping[str, float], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        available = ray.cluster_resources()
        missing = {name: amount for name, amount in needs.items() if amount > available.get(name, 0) + 1e-9}
        if not missing:
            return
        if time.monotonic() > deadline:
            listed = ", ".join(f"{amount:g} {name}" for name, amount in missing.items())
            raise ResourceError("resource.insufficient", f"no node came within {wait_s:g} s; still needed: {listed}")
        log("debug", "waiting for nodes", missing=missing)
        time.sleep(POLL_S)
