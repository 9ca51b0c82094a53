"""How long a run will take, what bounds it and what it costs: measured stage times over a cluster file's CPUs and GPUs."""

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
"""Stages whose number of workers is a setting of a run."""


@dataclass(frozen=True)
class StagePlan:
    """One stage on the cluster."""

    stage: str
    seconds: float
    """A product takes one worker."""
    workers: int
    products_a_second: float
    bound_by: str
    """`CPU` or `GPU`."""


@dataclass(frozen=True)
class Plan:
    """A whole run; package, render and score run one after another, the stages of each at once."""

    products: int
    cpus: float
    gpus: float
    hour_price: float | None
    """Price of all nodes; None when a group has no price."""
    stages: tuple[StagePlan, ...]
    hours_by_kind: Mapping[str, float]
    bottleneck: str
    """The stage that takes the largest share of what its pipeline is bound by, in the longest pipeline."""
    measured: str
    """Where the seconds come from."""

    @property
    def hours(self) -> float:
        """Hours of the whole run, starts of nodes not counted."""
        return sum(self.hours_by_kind.values())

    @property
    def cost(self) -> float | None:
        """In the price's currency."""
        return None if self.hour_price is None else self.hours * self.hour_price

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self) | {"hours": self.hours, "cost": self.cost}

    def settings(self) -> dict[str, Any]:
        """A ``--config`` file for the run: workers in proportion to their stages' work, and what the cluster may grow to."""
        workers = {WORKER_SETTINGS[one.stage]: one.workers for one in self.stages if one.stage in WORKER_SETTINGS}
        return {"run": {**workers, "max_cpus": max(1, int(self.cpus)), "max_gpus": int(self.gpus)}}


def planned(costs: Mapping[str, StageCost], products: int, groups: Sequence[NodeGroup], *, measured: str) -> Plan:
    """Spread the cores of a cluster over stages so that all keep the same pace.

    A pipeline's pace is the smaller of cores / (core-seconds of a product) and GPUs / (GPU-seconds of a product); each stage
    gets the share of its resource that its seconds are of the sum.

    Args:
        costs: Stage (``kind.name``) -> what one product takes.
        products: To work on.
        groups: Of the cluster, all at their largest.
        measured: For the reader.

    Raises:
        CatalogError: `catalog.run_not_found` when no stage was measured.
        ResourceError: `resource.insufficient` when stages need a GPU or a CPU and no group has one.
    """
    if not costs:
        raise CatalogError("catalog.run_not_found", f"no stage was timed by {measured}")
    cpus, gpus = (sum(getattr(group, name) * group.most for group in groups) for name in ("cpus", "gpus"))
    prices = [None if group.hour_price is None else group.hour_price * group.most for group in groups]
    stages: list[StagePlan] = []
    hours: dict[str, float] = {}
    heaviest: dict[str, str] = {}
    for kind in dict.fromkeys(stage.partition(".")[0] for stage in costs):
        mine = {stage: cost for stage, cost in costs.items() if stage.startswith(kind + ".")}
        on_gpu = {stage: cost.seconds * cost.gpus for stage, cost in mine.items() if cost.gpus}
        on_cpu = {stage: cost.seconds * cost.cores for stage, cost in mine.items() if not cost.gpus}
        if on_gpu and not gpus:
            raise ResourceError("resource.insufficient", f"{', '.join(on_gpu)} need a GPU and the cluster has none")
        if on_cpu and not cpus:
            raise ResourceError("resource.insufficient", f"{', '.join(on_cpu)} need a CPU and the cluster has none")
        pace = min(
            cpus / sum(on_cpu.values()) if sum(on_cpu.values()) else math.inf,
            gpus / sum(on_gpu.values()) if sum(on_gpu.values()) else math.inf,
        )
        tight = on_gpu if on_gpu and (not on_cpu or pace == gpus / (sum(on_gpu.values()) or math.inf)) else on_cpu
        hours[kind], heaviest[kind] = products / pace / 3600, max(tight, key=tight.__getitem__)
        for stage, cost in mine.items():
            share, width = (on_gpu, cost.gpus) if cost.gpus else (on_cpu, cost.cores)
            amount = (gpus if cost.gpus else cpus) * share[stage] / (sum(share.values()) or 1.0)
            workers = max(1, round(amount / width)) if width else 1
            rate = workers / cost.seconds if cost.seconds else math.inf
            stages.append(StagePlan(stage, cost.seconds, workers, rate, "GPU" if cost.gpus else "CPU"))
    return Plan(
        products=products,
        cpus=cpus,
        gpus=gpus,
        hour_price=None if None in prices else sum(price or 0.0 for price in prices),
        stages=tuple(stages),
        hours_by_kind=hours,
        bottleneck=heaviest[max(hours, key=hours.__getitem__)],
        measured=measured,
    )
