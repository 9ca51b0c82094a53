"""Flat batches for networks: views of one shape, at most so many at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def equal_shapes(views: Sequence[NDArray[np.uint8]], size: int) -> Iterator[list[int]]:
    """Indices of `views` in batches of at most `size`, all of one shape in a batch."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, view in enumerate(views):
        by_shape[view.shape].append(index)
    for indices in by_shape.values():
        for start in range(0, len(indices), size):
            yield indices[start : start + size]
