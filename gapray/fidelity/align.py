"""Which angle does each frame of a foreign video show? Circular, monotone dynamic time warping.

A turntable video of unknown start, direction and speed is laid along the circle of true angles so that the mean cost is
least. The path may start anywhere, runs one way round, never back, never too fast, and never stands still for long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import turned

STILL_SHARE = 1 / 3
"""No more of the frames may stay at one angle."""
SPEED_LIMIT = 3.0
"""A frame may advance this many times the mean step of one whole turn, and at least two angles."""
STRAY_DEG = 45.0
"""A frame whose own best angle lies farther from its aligned one is a violation."""

TELLING = 0.9
"""An angle is shown when its best frame costs less than this share of what the mean frame costs there."""


@dataclass(frozen=True)
class Alignment:
    """T frames laid along A angles."""

    angles: tuple[int, ...]
    """Index of the angle that each frame shows."""
    direction: int
    """+1 when the frames run with the angles, -1 against them."""
    cost: float
    """Mean over the frames."""
    span_deg: float
    """How much of the circle was shown, 0 … 360: angles at which the video looks more like them than elsewhere."""
    violations: int
    """Frames that look much more like an angle elsewhere."""
    unmatched: tuple[int, ...]
    """Angles that no frame shows."""


def align(cost: NDArray[np.float64], azimuths_deg: NDArray[np.float64]) -> Alignment:
    """Lay frames along angles.

    Args:
        cost: [T, A]: of frame t showing angle a; T >= 2, A >= 3.
        azimuths_deg: [A], ascending.

    Raises:
        ValueError: The shape is none of these.
    """
    frames, angles = cost.shape
    if frames < 2 or angles < 3:
        raise ValueError(f"{frames} frames and {angles} angles cannot be aligned")
    paths = {+1: _path(cost), -1: [angles - 1 - place for place in _path(cost[:, ::-1])]}
    means = {
        way: float(cost[np.arange(frames), [place % angles for place in path]].mean()) for way, path in paths.items()
    }
    way = min(means, key=lambda one: means[one])
    path = paths[way]
    chosen = tuple(place % angles for place in path)
    shown = {angle for angle in set(chosen) if _tells(cost[:, angle], np.array(chosen) == angle)}
    # Angles that a fast turn steps over are seen too.
    shown |= {
        place % angles
        for one, other in pairwise(path)
        if one % angles in shown and other % angles in shown
        for place in range(min(one, other), max(one, other))
    }
    span = float(_widths(azimuths_deg)[sorted(shown)].sum())
    own = azimuths_deg[cost.argmin(1)]
    astray = np.abs(turned(own, azimuths_deg[list(chosen)])) > STRAY_DEG
    return Alignment(chosen, way, means[way], span, int(astray.sum()), tuple(sorted(set(range(angles)) - set(chosen))))


def _tells(column: NDArray[np.float64], here: NDArray[np.bool_]) -> bool:
    """Whether the frames laid at an angle fit it better than the video's other frames do: a frozen video shows nothing."""
    return bool(column[here].min() < TELLING * column.mean())


def _widths(azimuths_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees of the circle that each angle stands for; they sum to 360."""
    after = np.diff(np.append(azimuths_deg, azimuths_deg[0] + 360))
    return np.asarray((after + np.roll(after, 1)) / 2, np.float64)


def _path(cost: NDArray[np.float64]) -> list[int]:
    """The cheapest path that only goes up; places count on past the end of the circle."""
    frames, angles = cost.shape
    places = 3 * angles
    fastest = max(2, math.ceil(SPEED_LIMIT * angles / frames))
    longest = max(1, math.ceil(STILL_SHARE * frames) - 1)
    local = np.tile(cost, (1, 3))
    # total[p, r]: the cheapest way to be at p, having stood there for r frames more than the first.
    total = np.full((places, longest + 1), np.inf)
    total[:angles, 0] = local[0, :angles]
    came_step = np.zeros((frames, places), np.int64)
    came_run = np.zeros((frames, places), np.int64)
    for frame in range(1, frames):
        best_run, best = total.argmin(1), total.min(1)
        moved = np.full((fastest, places), np.inf)
        for step in range(1, fastest + 1):
            moved[step - 1, step:] = best[:-step]
        came_step[frame] = moved.argmin(0) + 1
        before = np.clip(np.arange(places) - came_step[frame], 0, None)
        came_run[frame] = best_run[before]
        stood = np.full_like(total, np.inf)
        stood[:, 1:] = total[:, :-1]
        stood[:, 0] = moved.min(0)
        total = stood + local[frame][:, None]
    place, run = np.unravel_index(int(total.argmin()), total.shape)
    path = [int(place)]
    for frame in range(frames - 1, 0, -1):
        if run:
            run -= 1
        else:
            step = came_step[frame, place]
            run = came_run[frame, place]
            place -= step
        path.append(int(place))
    return path[::-1]
