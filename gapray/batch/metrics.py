"""Prometheus metrics of runs, exported by Ray, which prefixes each name with ``ray_``.

`cluster/prometheus` and `cluster/grafana` query these names; a test keeps them in sync.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import ray

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class Metric:
    """Definition of one metric."""

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""


METRICS: dict[str, Metric] = {
    "gapray_products_total": Metric("counter", "Products that a run has completed, by outcome.", ("kind", "state")),
    "gapray_views_total": Metric("counter", "Views packaged, frames drawn, pairs scored.", ("kind",)),
    "gapray_rejects_total": Metric("counter", "Rejected products, by error code (docs/errors.md).", ("kind", "code")),
    "gapray_queue_depth": Metric("gauge", "Products of a run that are still pending.", ("kind",)),
    "gapray_stage_seconds": Metric("histogram", "Seconds that a product spends in a stage.", ("stage",), _SECONDS),
    "gapray_gpu_seconds_total": Metric(
        "counter", "GPU seconds that a stage held while it worked; a fraction of a GPU counts as such.", ("stage",)
    ),
    "gapray_model_load_seconds": Metric("histogram", "Seconds to load a stage's networks.", ("stage",), _SECONDS),
    "gapray_lpips": Metric(
        "histogram",
        "LPIPS of gapray's frames, by kind: captured or in-between angle.",
        ("kind",),
        (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8),
    ),
}


def count(name: str, amount: float, **tags: str) -> None:
    """Add to a counter; does nothing without Ray."""
    if amount > 0:
        _record(name, "inc", amount, tags)


def level(name: str, value: float, **tags: str) -> None:
    """Set a gauge; does nothing without Ray."""
    _record(name, "set", value, tags)


def observe(name: str, value: float, **tags: str) -> None:
    """Add a value to a histogram; does nothing without Ray."""
    _record(name, "observe", value, tags)


def _record(name: str, method: str, value: float, tags: Mapping[str, str]) -> None:
    if ray.is_initialized():
        getattr(_metric(name), method)(value, tags=dict(tags))


@cache
def _metric(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge, Histogram

    metric = METRICS[name]
    if metric.kind == "histogram":
        return Histogram(name, metric.description, boundaries=list(metric.boundaries), tag_keys=metric.tags)
    return {"counter": Counter, "gauge": Gauge}[metric.kind](name, metric.description, tag_keys=metric.tags)
