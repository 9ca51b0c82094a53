"""Batches for networks: views of equal shape, up to a maximum number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def equal_shapes(views: Sequence[NDArray[np.uint8]], size: int) -> Iterator[list[int]]:
    """Yield the indices of `views` in batches of at most `size` views of equal shape."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, view in enumerate(views):
        by_shape[view.shape].append(index)
    for indices in by_shape.values():
        for start in range(0, len(indices), size):
            yield indices[start : start + size]
