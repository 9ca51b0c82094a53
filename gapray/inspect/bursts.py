"""Detection of bursts: several photos of each view, such as exposure brackets, that numbers alone spread over the turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gapray.inspect.duplicates import Fingerprint

SIZES = (2, 3, 4, 5, 7, 9)
"""Photos per view that are looked for; cameras bracket by 3, 5, 7 or 9 exposures."""
MIN_VIEWS = 6
"""A turn of fewer views may look alike in pairs by chance, as that of a box does."""
WITHIN = 0.5
"""The largest difference within a burst is below this fraction of the smallest between two bursts. Of 16 or 24 single photos of six
sets it is at least 1.15 times that, in any grouping; of exposures at 1, 0.45 and 1.6 times the light it is 0.03 … 0.34 of it, and 0.89
for a wire rack of which the mask loses a part in the dark."""


def burst_size(prints: Sequence[Fingerprint]) -> int | None:
    """Number of successive photos that show the same view, if that is so for all of them.

    Args:
        prints: Fingerprints of the photos, in the order of their azimuths.

    Returns:
        One of `SIZES`; None if each photo is a view of its own.
    """
    count = len(prints)
    sizes = [size for size in SIZES if count % size == 0 and count // size >= MIN_VIEWS]
    if not sizes:
        return None
    steps = np.array([_difference(prints[index], prints[(index + 1) % count]) for index in range(count)])
    for size in sizes:
        last_of_burst = np.arange(count) % size == size - 1
        if steps[~last_of_burst].max() < WITHIN * steps[last_of_burst].min():
            return size
    return None


def _difference(first: Fingerprint, second: Fingerprint) -> float:
    """Mean difference of two photos of any exposure, where either shows the product [standard deviations of its colours]."""
    if first.product.shape != second.product.shape:
        return float("inf")
    either = first.product | second.product
    return float(np.abs(_standardised(first, either) - _standardised(second, either)).mean())


def _standardised(photo: Fingerprint, where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Colours relative to the product's mean and spread, which a change of exposure keeps, and the mask; float32 [pixels, 4]."""
    own = photo.colours[photo.product]
    colours = (photo.colours[where] - own.mean(0)) / np.maximum(own.std(0), 1.0)
    inside = photo.product[where][:, None]
    return np.hstack([np.clip(colours, -3, 3) * inside, 3.0 * inside]).astype(np.float32)
