"""Which captured views each frame is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference, nearest_angle

KEY_TOLERANCE_DEG = 0.5
"""A frame this close to a captured azimuth shows that photo."""


def neighbours(offsets_deg: Mapping[int, float]) -> tuple[int, int, float]:
    """Find the captured views on either side of a frame.

    Args:
        offsets_deg: View -> its azimuth minus the frame's, degrees.

    Returns:
        View at or before the frame, view at or after it, and the frame's position between the two, 0 … 1.
    """
    before = {view: (-offset) % 360 for view, offset in offsets_deg.items()}
    after = {view: offset % 360 for view, offset in offsets_deg.items()}
    low, high = min(before, key=before.__getitem__), min(after, key=after.__getitem__)
    gap = before[low] + after[high]
    return low, high, before[low] / gap if gap else 0.0


def view_weights(frames_deg: Sequence[float], views_deg: Sequence[float]) -> NDArray[np.float32]:
    """Weight of each view in each frame: linear in angle between the two neighbours.

    Args:
        frames_deg: Azimuth of each frame.
        views_deg: Azimuth of each view, at least one, all different modulo 360.

    Returns:
        float32 [frames, views]; each row sums to 1 and has at most two entries above 0.
    """
    weights = np.zeros((len(frames_deg), len(views_deg)), np.float32)
    for frame, azimuth in enumerate(frames_deg):
        low, high, fraction = neighbours({view: captured - azimuth for view, captured in enumerate(views_deg)})
        weights[frame, low] += 1 - fraction
        weights[frame, high] += fraction
    return weights


def key_views(frames_deg: Sequence[float], views_deg: Sequence[float]) -> tuple[int | None, ...]:
    """Index of the view that each key frame shows; None for in-between frames."""
    keys: list[int | None] = []
    for azimuth in frames_deg:
        nearest = nearest_angle(views_deg, azimuth)
        off = abs(angle_difference(views_deg[nearest], azimuth))
        keys.append(nearest if off <= KEY_TOLERANCE_DEG else None)
    return tuple(keys)


def even_orbit(frames: int) -> tuple[float, ...]:
    """Azimuths of one full turn in equal steps, starting at 0."""
    return tuple(360.0 * index / frames for index in range(frames))
