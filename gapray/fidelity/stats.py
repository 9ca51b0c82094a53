"""Means with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
"""Bootstrap samples."""


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float
    count: int
    """Number of values."""


def bootstrap(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval (Efron 1979) over independent values, such as objects: never over frames.

    Args:
        values: One for each object; at least one.
        level: Confidence level, 0 … 1.
        seed: Seed of the 10,000 resamples.
    """
    data = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.quantile(data[drawn].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(data.mean()), float(low), float(high), len(data))
