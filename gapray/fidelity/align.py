"""Find which angle each frame of a foreign video shows, by circular, monotone dynamic time warping.

A turntable video of unknown start, direction and speed is matched to the circle of true angles so that the mean cost is
smallest. The path may start anywhere; it runs in one direction, never back, never too fast, and never pauses for long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference

MAX_STILL_FRACTION = 1 / 3
"""Fraction of the frames that may stay at one angle, at most."""
SPEED_LIMIT = 3.0
"""A frame may advance by at most this many times the mean step of one full turn, and always by two angles."""
STRAY_DEG = 45.0
"""A frame whose best-matching angle is farther than this from its aligned one is a violation."""

DISTINCTIVE_COST_RATIO = 0.9
"""An angle is shown when its best frame costs less than this fraction of the mean frame's cost at that angle."""


@dataclass(frozen=True)
class Alignment:
    """Alignment of T frames to A angles."""

    angles: tuple[int, ...]
    """Index of the angle that each frame shows."""
    direction: int
    """+1 when the frames run in the order of the angles, -1 when they run against it."""
    cost: float
    """Mean cost over the frames."""
    span_deg: float
    """How much of the circle was shown, 0 … 360: angles that the frames aligned to them match better than the other frames do."""
    violations: int
    """Frames that match an angle elsewhere much better."""
    unmatched: tuple[int, ...]
    """Indices of the angles that no frame shows."""


def align(cost: NDArray[np.float64], azimuths_deg: NDArray[np.float64]) -> Alignment:
    """Align frames to angles.

    Args:
        cost: float64 [T, A]: the cost of frame t showing angle a; T >= 2, A >= 3.
        azimuths_deg: [A], ascending.

    Raises:
        ValueError: There are fewer than two frames or three angles.
    """
    frames, angles = cost.shape
    if frames < 2 or angles < 3:
        raise ValueError(f"{frames} frames and {angles} angles cannot be aligned")
    paths = {+1: _path(cost), -1: [angles - 1 - position for position in _path(cost[:, ::-1])]}
    means = {
        direction: float(cost[np.arange(frames), [position % angles for position in path]].mean())
        for direction, path in paths.items()
    }
    direction = min(means, key=lambda candidate: means[candidate])
    path = paths[direction]
    chosen = tuple(position % angles for position in path)
    shown = {angle for angle in set(chosen) if _is_distinctive(cost[:, angle], np.array(chosen) == angle)}
    # Angles that a fast turn steps over count as shown too.
    shown |= {
        position % angles
        for start, end in pairwise(path)
        if start % angles in shown and end % angles in shown
        for position in range(min(start, end), max(start, end))
    }
    span = float(_widths(azimuths_deg)[sorted(shown)].sum())
    best = azimuths_deg[cost.argmin(1)]
    astray = np.abs(angle_difference(best, azimuths_deg[list(chosen)])) > STRAY_DEG
    unmatched = tuple(sorted(set(range(angles)) - set(chosen)))
    return Alignment(chosen, direction, means[direction], span, int(astray.sum()), unmatched)


def _is_distinctive(column: NDArray[np.float64], aligned: NDArray[np.bool_]) -> bool:
    """Whether the frames aligned to an angle match it better than the video's other frames do; a frozen video shows nothing."""
    return bool(column[aligned].min() < DISTINCTIVE_COST_RATIO * column.mean())


def _widths(azimuths_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees of the circle that each angle represents; they sum to 360."""
    after = np.diff(np.append(azimuths_deg, azimuths_deg[0] + 360))
    return np.asarray((after + np.roll(after, 1)) / 2, np.float64)


def _path(cost: NDArray[np.float64]) -> list[int]:
    """The cheapest path that only moves forwards, as one position a frame; positions keep counting past the end of the circle."""
    frames, angles = cost.shape
    positions = 3 * angles
    max_step = max(2, math.ceil(SPEED_LIMIT * angles / frames))
    max_wait = max(1, math.ceil(MAX_STILL_FRACTION * frames) - 1)
    local = np.tile(cost, (1, 3))
    # total[p, r]: the lowest cost of being at p after waiting there for r frames beyond the first.
    total = np.full((positions, max_wait + 1), np.inf)
    total[:angles, 0] = local[0, :angles]
    came_step = np.zeros((frames, positions), np.int64)
    came_wait = np.zeros((frames, positions), np.int64)
    for frame in range(1, frames):
        best_wait, best = total.argmin(1), total.min(1)
        moved = np.full((max_step, positions), np.inf)
        for step in range(1, max_step + 1):
            moved[step - 1, step:] = best[:-step]
        came_step[frame] = moved.argmin(0) + 1
        before = np.clip(np.arange(positions) - came_step[frame], 0, None)
        came_wait[frame] = best_wait[before]
        waited = np.full_like(total, np.inf)
        waited[:, 1:] = total[:, :-1]
        waited[:, 0] = moved.min(0)
        total = waited + local[frame][:, None]
    position, wait = np.unravel_index(int(total.argmin()), total.shape)
    path = [int(position)]
    for frame in range(frames - 1, 0, -1):
        if wait:
            wait -= 1
        else:
            step = came_step[frame, position]
            wait = came_wait[frame, position]
            position -= step
        path.append(int(position))
    return path[::-1]
