"""What a run tells Prometheus, by way of Ray's own exporter (which puts ``ray_`` before each name).

`cluster/prometheus` and `cluster/grafana` ask for these names; a test keeps the three equal.
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
    """One time series family."""

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()
    """Upper edges of a histogram's buckets."""


METRICS: dict[str, Metric] = {
    "gapray_products_total": Metric(
        "counter", "Products that a run brought to an end, by what became of them.", ("kind", "state")
    ),
    "gapray_views_total": Metric("counter", "Views packaged, frames drawn, pairs scored.", ("kind",)),
    "gapray_rejects_total": Metric("counter", "Products refused, by code (docs/errors.md).", ("kind", "code")),
    "gapray_queue_depth": Metric("gauge", "Products of a run that are not done yet.", ("kind",)),
    "gapray_stage_seconds": Metric("histogram", "Seconds a product spends in a stage.", ("stage",), _SECONDS),
    "gapray_gpu_seconds_total": Metric(
        "counter", "Seconds of a whole GPU that a stage held while it worked.", ("stage",)
    ),
    "gapray_model_load_seconds": Metric(
        "histogram", "Seconds until a stage's networks are ready.", ("stage",), _SECONDS
    ),
    "gapray_lpips": Metric(
        "histogram",
        "LPIPS of our frames, captured angles and those in between apart.",
        ("kind",),
        (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8),
    ),
}


def count(name: str, amount: float, **tags: str) -> None:
    """Add to a counter; nothing where no Ray runs."""
    if amount > 0:
        _tell(name, "inc", amount, tags)


def level(name: str, value: float, **tags: str) -> None:
    """Set a gauge; nothing where no Ray runs."""
    _tell(name, "set", value, tags)


def observe(name: str, value: float, **tags: str) -> None:
    """Put a value into a histogram; nothing where no Ray runs."""
    _tell(name, "observe", value, tags)


def _tell(name: str, verb: str, value: float, tags: Mapping[str, str]) -> None:
    if ray.is_initialized():
        getattr(_made(name), verb)(value, tags=dict(tags))


@cache
def _made(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge, Histogram

    metric = METRICS[name]
    if metric.kind == "histogram":
        return Histogram(name, metric.description, boundaries=list(metric.boundaries), tag_keys=metric.tags)
    return {"counter": Counter, "gauge": Gauge}[metric.kind](name, metric.description, tag_keys=metric.tags)
