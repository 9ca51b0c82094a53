"""Prediction of a run's duration, bottleneck and cost from measured stage times and a cluster's CPUs and GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gapray.catalog.runs import StageCost
from gapray.cluster.shape import NodeGroup
from gapray.errors import CatalogError, ResourceError

WORKER_SETTINGS = {
    "package.decode": "decode_workers",
    "package.mask": "mask_workers",
    "package.describe": "describe_workers",
    "package.encode": "encode_workers",
    "render.draw": "render_workers",
}
"""Stage -> the setting of its number of workers, in `RunSettings`."""


@dataclass(frozen=True)
class StagePlan:
    """Prediction of one stage on the cluster."""

    stage: str
    seconds: float
    """Time that one product takes one worker [s]."""
    workers: int
    products_a_second: float
    """Throughput of all workers together."""
    bound_by: str
    """`CPU` or `GPU`."""


@dataclass(frozen=True)
class ClusterPlan:
    """Prediction of a whole run. Package, render and score run one after another; the stages of each run concurrently."""

    products: int
    cpus: float
    gpus: float
    hour_price: float | None
    """Price of all nodes per hour; None if a group has no price."""
    stages: tuple[StagePlan, ...]
    hours_by_kind: Mapping[str, float]
    bottleneck: str
    """In the longest pipeline, the stage that uses most of the limiting resource."""
    measured: str
    """Description of where the stage times come from."""

    @property
    def hours(self) -> float:
        """Duration of the whole run without the start of nodes [h]."""
        return sum(self.hours_by_kind.values())

    @property
    def cost(self) -> float | None:
        """Cost of the whole run, in the currency of the prices; None if a group has no price."""
        return None if self.hour_price is None else self.hours * self.hour_price

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, hours and cost as plain data for ``--json``."""
        return asdict(self) | {"hours": self.hours, "cost": self.cost}

    def settings(self) -> dict[str, Any]:
        """Return settings for a ``--config`` file of the run: numbers of workers, and the cluster's maximum size."""
        workers = {
            WORKER_SETTINGS[stage.stage]: stage.workers for stage in self.stages if stage.stage in WORKER_SETTINGS
        }
        return {"run": {**workers, "max_cpus": max(1, int(self.cpus)), "max_gpus": int(self.gpus)}}


def plan_run(
    costs: Mapping[str, StageCost], products: int, groups: Sequence[NodeGroup], *, measured: str
) -> ClusterPlan:
    """Predict a run on a cluster, with its cores and GPUs distributed so that all stages of a pipeline have the same throughput.

    A pipeline's throughput is the smaller of cores / (core-seconds per product) and GPUs / (GPU-seconds per product). Each stage
    gets a part of its resource in proportion to its time.

    Args:
        costs: Stage (``kind.step``) -> cost of one product.
        products: Number of products.
        groups: Node groups of the cluster, which are counted at their maximum size.
        measured: Description of where the costs come from.

    Raises:
        CatalogError: `catalog.run_not_found` if no stage was measured.
        ResourceError: `resource.insufficient` if stages need a GPU or a CPU and no group has one.
    """
    if not costs:
        raise CatalogError("catalog.run_not_found", f"no stage was timed by {measured}")
    cpus, gpus = (sum(getattr(group, name) * group.max_nodes for group in groups) for name in ("cpus", "gpus"))
    prices = [None if group.hour_price is None else group.hour_price * group.max_nodes for group in groups]
    stages: list[StagePlan] = []
    hours: dict[str, float] = {}
    heaviest: dict[str, str] = {}
    for kind in dict.fromkeys(stage.partition(".")[0] for stage in costs):
        own = {stage: cost for stage, cost in costs.items() if stage.startswith(kind + ".")}
        on_gpu = {stage: cost.seconds * cost.gpus for stage, cost in own.items() if cost.gpus}
        on_cpu = {stage: cost.seconds * cost.cores for stage, cost in own.items() if not cost.gpus}
        if on_gpu and not gpus:
            raise ResourceError("resource.insufficient", f"{', '.join(on_gpu)} need a GPU and the cluster has none")
        if on_cpu and not cpus:
            raise ResourceError("resource.insufficient", f"{', '.join(on_cpu)} need a CPU and the cluster has none")
        throughput = min(
            cpus / sum(on_cpu.values()) if sum(on_cpu.values()) else math.inf,
            gpus / sum(on_gpu.values()) if sum(on_gpu.values()) else math.inf,
        )
        gpu_bound = on_gpu and (not on_cpu or throughput == gpus / (sum(on_gpu.values()) or math.inf))
        limiting = on_gpu if gpu_bound else on_cpu
        hours[kind], heaviest[kind] = products / throughput / 3600, max(limiting, key=limiting.__getitem__)
        for stage, cost in own.items():
            work, per_worker = (on_gpu, cost.gpus) if cost.gpus else (on_cpu, cost.cores)
            amount = (gpus if cost.gpus else cpus) * work[stage] / (sum(work.values()) or 1.0)
            workers = max(1, round(amount / per_worker)) if per_worker else 1
            rate = workers / cost.seconds if cost.seconds else math.inf
            stages.append(StagePlan(stage, cost.seconds, workers, rate, "GPU" if cost.gpus else "CPU"))
    return ClusterPlan(
        products=products,
        cpus=cpus,
        gpus=gpus,
        hour_price=None if None in prices else sum(price or 0.0 for price in prices),
        stages=tuple(stages),
        hours_by_kind=hours,
        bottleneck=heaviest[max(hours, key=hours.__getitem__)],
        measured=measured,
    )
