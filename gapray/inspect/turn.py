"""Azimuths of the frames of a turntable video, from grey pictures and their times.

A point on a rotating product moves by ``(u, v)`` in the picture of a static camera. Its horizontal motion depends on its unknown
depth, but its vertical motion does not: for an axis seen at column x0, from elevation e,

    v = -w (x - x0) (sin e + (y / f) cos e),

where w is the angle of rotation (differentiate the perspective projection; x, y, f in pixels from the principal point). So the
vertical motion gives the speed of the table up to one factor for the whole video, whatever the product's shape, and that factor
follows from the product's return: after one full turn it looks the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from scipy.optimize import minimize

from gapray.errors import InputError
from gapray.inspect.turn_end import Floats, Grey, find_reversal, find_turn_length, frame_dissimilarity

POINTS = 500
"""Maximum number of points tracked from frame to frame."""
STEP_PX = 3.0
"""Desired motion between compared frames: smaller motions drown in noise, larger ones cannot be tracked [pixels]."""
NODES = 600
"""Maximum number of compared frames."""
STILL_PX = 0.2
"""Points that move less are static."""
OUTLINE_FRACTION = 0.45
"""Points slower than this fraction of the fast ones are on outlines, which stay in place while the surface rotates."""
CHI_SQUARE_MEDIAN = 0.455
"""Median of chi-square with one degree of freedom."""
RIPPLE = 0.15
"""Expected relative deviation of a table's speed from its mean (one sigma)."""
STEPPED_RIPPLE = 0.05
"""The same if a photo was taken after each step of a motor."""
STEPPED_DEG = 4.5
"""Steps wider than this mean photos taken between motor steps: a video of such a turn would last two seconds."""
RIPPLE_DEG = 40.0
"""Rotation over which the speed changes."""
SPEED_ERROR = 0.06
"""Relative error of a measured speed in addition to its noise."""
RIM_WIDTH = 0.04
"""Width of the picture's rim, as a fraction of its shorter side."""
RIM_GREY = 25
"""Difference of a rim pixel from its usual value if something covers it [grey levels]."""
MIN_COVERED_RIM = 0.03
"""Fraction of the rim that differs in a covered frame."""
MAX_COVERED_FRAMES = 0.3
"""If more frames than this fraction seem covered, it is not by a hand."""


@dataclass(frozen=True)
class TurntableMotion:
    """Rotation of a product in a video of F frames."""

    azimuth_deg: Floats
    """[F], unwrapped, 0 at the first frame; grows if the camera seems to move counter-clockwise seen from above."""
    covered: NDArray[np.bool_]
    """[F], whether something such as a hand reaches into the picture."""

    @property
    def span_deg(self) -> float:
        """Total rotation that the video shows."""
        return float(np.ptp(self.azimuth_deg))

    @property
    def direction(self) -> int:
        """+1 if azimuths grow with time, else -1."""
        return 1 if self.azimuth_deg[-1] >= self.azimuth_deg[0] else -1


def find_turn(frames: Sequence[Grey], times: Floats) -> TurntableMotion:
    """Measure how the product rotates.

    Args:
        frames: F grey pictures, uint8 [h, w], of one size, upright; the longer side should be 200 to 400 pixels.
        times: [F], seconds, increasing.

    Raises:
        InputError: `turn.no_motion` when nothing rotates; `turn.turns_back` when the direction changes; `turn.incomplete` when
            less than `FULL_TURN_DEG` is shown or the product never returns to its first view; `turn.unobservable` when it looks
            the same from all sides.
    """
    nodes = _nodes(frames)
    pairs = list(pairwise(nodes))
    steps = [_tracked(frames[before], frames[after]) for before, after in pairs]
    moving = np.array([_moves(step) for step in steps], bool)
    if moving.sum() < 8:
        raise InputError("turn.no_motion", "nothing turns in this video")
    box = _box([step for step, moves in zip(steps, moving, strict=True) if moves], frames[0].shape)
    covered = _covered(frames)
    free = np.array([not covered[before : after + 1].any() for before, after in pairs])
    seconds = np.diff(times[nodes])
    angles, information, sign = _speeds([step for step, moves in zip(steps, moving, strict=True) if moves])
    rate, weight = angles / seconds[moving], information * seconds[moving] ** 2 * free[moving]
    dissimilarity = frame_dissimilarity([frames[node] for node in nodes], box, covered[nodes])
    if (back := find_reversal(angles, dissimilarity)) is not None:
        raise InputError(
            "turn.turns_back", f"{times[nodes[back]] - times[0]:.1f} s into the video the product turns back"
        )
    steps_per_turn, path = float(len(angles)), np.zeros(len(nodes))
    for _ in range(2):  # the second pass knows the length of a turn
        speed = np.zeros(len(pairs))
        ripple = STEPPED_RIPPLE if nodes[1] == 1 and steps_per_turn < 360 / STEPPED_DEG else RIPPLE
        smoothed = _smoothed(rate, weight, steps_per_turn * RIPPLE_DEG / 360, ripple)
        speed[moving] = np.maximum(smoothed, 0.0) * seconds[moving]
        path = np.concatenate([[0.0], np.cumsum(speed)])
        turn = find_turn_length(dissimilarity, path)
        steps_per_turn = len(angles) * min(1.0, turn / path[-1])
    azimuths = np.interp(times, times[nodes], sign * 360.0 * path / turn)
    return TurntableMotion(azimuths, covered)


def _nodes(frames: Sequence[Grey]) -> list[int]:
    """Indices of the frames to compare, between which points move by about `STEP_PX`, whatever the frame rate."""
    count = len(frames)
    motions = []
    for index in np.linspace(0, max(0, count - 2), min(24, max(0, count - 1))).astype(int):
        lengths = _lengths(_tracked(frames[index], frames[index + 1]))
        lengths = lengths[lengths > STILL_PX / 2]
        motions.append(float(np.percentile(lengths, 75)) if len(lengths) > 5 else 0.0)
    usual = float(np.median(motions)) if motions else 0.0
    step = int(np.clip(round(STEP_PX / max(usual, 1e-3)), 1, max(1, count // 40)))
    return list(range(0, count, max(step, -(-count // NODES))))


def _tracked(before: Grey, after: Grey) -> Floats:
    """Positions x, y of corners in the first picture and their motion u, v, [N, 4] [pixels].

    Only points that can be tracked back to where they came from are kept.
    """
    corners = cv2.goodFeaturesToTrack(before, POINTS, 0.01, 3, blockSize=5)
    if corners is None:
        return np.zeros((0, 4))
    forward, forward_ok, _ = _optical_flow(before, after, corners)
    back, back_ok, _ = _optical_flow(after, before, forward)
    kept = (forward_ok[:, 0] > 0) & (back_ok[:, 0] > 0) & (np.abs(corners - back).max((1, 2)) < 0.5)
    return np.concatenate([corners[kept, 0], (forward - corners)[kept, 0]], 1).astype(np.float64)


_optical_flow = partial(cv2.calcOpticalFlowPyrLK, nextPts=None, winSize=(15, 15), maxLevel=3, criteria=(3, 30, 0.01))


def _lengths(step: Floats) -> Floats:
    return np.hypot(step[:, 2], step[:, 3])


def _moves(step: Floats) -> bool:
    return len(step) > 0 and float((_lengths(step) > STILL_PX).mean()) > 0.05


def _box(steps: Sequence[Floats], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the rotating product, by the moving points of most steps rather than of the widest one."""
    sides = []
    for step in steps:
        moving = step[_lengths(step) > STILL_PX]
        if len(moving) >= 8:
            sides.append([*np.percentile(moving[:, :2], 2, axis=0), *np.percentile(moving[:, :2], 98, axis=0)])
    if not sides:
        return 0, 0, shape[1], shape[0]
    low, high = np.percentile(np.array(sides), 10, axis=0), np.percentile(np.array(sides), 90, axis=0)
    margin = 0.05 * max(high[2] - low[0], high[3] - low[1])
    left, top = (max(0, int(low[axis] - margin)) for axis in (0, 1))
    right, bottom = (min(shape[1 - axis], int(high[axis + 2] + margin) + 1) for axis in (0, 1))
    return left, top, right, bottom


def _covered(frames: Sequence[Grey]) -> NDArray[np.bool_]:
    """Whether the rim of each picture differs from its usual appearance, [F]: a hand has to cross it."""
    height, width = frames[0].shape
    rim = np.ones((height, width), bool)
    rim_px = max(2, round(RIM_WIDTH * min(height, width)))
    rim[rim_px:-rim_px, rim_px:-rim_px] = False
    sample = np.linspace(0, len(frames) - 1, min(len(frames), 60)).astype(int)
    usual = np.median(np.stack([frames[index][rim] for index in sample]), axis=0)
    result = np.zeros(len(frames), bool)
    for index, frame in enumerate(frames):
        change = frame[rim] - usual
        result[index] = (np.abs(change - np.median(change)) > RIM_GREY).mean() > MIN_COVERED_RIM
    # If the rim often differs, the product itself reaches it, and hands cannot be detected.
    return result if result.mean() < MAX_COVERED_FRAMES else np.zeros(len(frames), bool)


def _speeds(steps: Sequence[Floats]) -> tuple[Floats, Floats, int]:
    """Angle of each step up to a common factor, its information (1 / variance), and the direction of the azimuths (+1 or -1).

    A robust fit of ``v = w d(x, y) + b`` to each step, with one function d for all of them: axis, elevation and roll of the
    camera are those with the smallest residuals.
    """
    kept = [step[_lengths(step) > max(STILL_PX, OUTLINE_FRACTION * _fast_motion(step))] for step in steps]
    max_points = max(len(step) for step in kept)
    x, y, u, v, valid = (np.zeros((len(kept), max_points)) for _ in range(5))
    for index, step in enumerate(kept):
        count = len(step)
        x[index, :count], y[index, :count], u[index, :count], v[index, :count] = step.T
        valid[index, :count] = 1.0
    inside = valid > 0
    half = max(1.0, float(np.ptp(np.percentile(x[inside], [5, 95]))) / 2)
    across, up = (x - np.median(x[inside])) / half, (y - np.median(y[inside])) / half

    middle = np.maximum(0, inside.sum(1) - 1) // 2

    def solve(camera: Floats, rounds: int) -> tuple[float, Floats, Floats]:
        axis, mixed, roll = camera
        lever = (across - axis) * (np.cos(mixed) + 0.3 * np.sin(mixed) * up)
        seen = v + np.clip(roll, -0.15, 0.15) * u
        weight = valid
        for _ in range(rounds):
            total, first, seconds = weight.sum(1) + 1e-9, (weight * lever).sum(1), (weight * lever**2).sum(1)
            value, both = (weight * seen).sum(1), (weight * lever * seen).sum(1)
            spread = total * seconds - first**2 + 1e-9
            angle = (total * both - first * value) / spread
            residual = seen - angle[:, None] * lever - ((value - angle * first) / total)[:, None]
            ranked = np.sort(np.where(inside, np.abs(residual), np.inf), axis=1)
            noise = np.clip(1.4826 * ranked[np.arange(len(ranked)), middle], 0.08, 3.0)
            weight = valid / (1 + (residual / (1.5 * noise[:, None])) ** 2) ** 2
        unexplained = float(np.log1p((residual[inside] / 0.15) ** 2).mean())
        return unexplained, angle, spread / total / noise**2

    grid = [np.array([axis, mixed, 0.0]) for axis in np.linspace(-0.5, 0.5, 5) for mixed in np.pi * np.arange(8) / 8]
    start = min(grid, key=lambda camera: solve(camera, 3)[0])
    simplex = start + np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.03]])
    best = minimize(
        lambda camera: solve(camera, 4)[0],
        start,
        method="Nelder-Mead",
        options={"maxfev": 120, "xatol": 1e-3, "fatol": 1e-5, "initial_simplex": simplex},
    )
    _, angle, information = solve(best.x, 6)
    # The camera sees the front of the product: if that moves left, the camera seems to move right, counter-clockwise.
    sign = -1 if (valid * u * (np.abs(across - best.x[0]) < 0.5)).sum() > 0 else 1
    return angle * (1.0 if (angle * information).sum() >= 0 else -1.0), information, sign


def _fast_motion(step: Floats) -> float:
    """90th percentile of the points' motion [pixels]."""
    return float(np.percentile(_lengths(step), 90)) if len(step) else 0.0


def _smoothed(rate: Floats, information: Floats, reach: float, ripple: float) -> Floats:
    """The likeliest speeds: near the measured ones where those are certain, else smooth and near their mean.

    Robust least squares of measurements, second differences and deviations from the mean.

    Args:
        rate: [N], measured speeds.
        information: [N], 1 / variance of each, up to a factor.
        reach: Number of steps over which the speed changes.
        ripple: Expected relative deviation from the mean speed.

    Raises:
        InputError: `turn.no_motion` when the mean speed is not positive.
    """
    count = len(rate)
    # The differences between neighbours show how large the errors really are: the points of one step err together.
    known = 1 / np.maximum(information, 1e-12)
    apart = np.diff(rate) ** 2 / (known[1:] + known[:-1])
    information = information / np.clip(float(np.median(apart)) / CHI_SQUARE_MEDIAN, 0.02, 10.0)
    mean = float(np.average(rate, weights=information)) if information.sum() > 0 else 1.0
    trust = np.ones(count)
    result = np.full(count, mean)
    for _ in range(10):
        if mean <= 0:
            raise InputError("turn.no_motion", "what moves in this video does not turn")
        variance = 1 / np.maximum(information, 1e-12) + (SPEED_ERROR * mean) ** 2
        known = trust / variance
        near = 1 / (ripple * mean) ** 2 / max(reach, 1.0)
        bend = near * (max(reach, 1.0) / 2) ** 4
        bands = np.zeros((3, count))
        bands[2] = known + near
        bands[2, :-2] += bend
        bands[2, 1:-1] += 4 * bend
        bands[2, 2:] += bend
        bands[1, 1:-1] -= 2 * bend
        bands[1, 2:] -= 2 * bend
        bands[0, 2:] += bend
        result = solveh_banded(bands, known * rate + near * mean)
        trust = 1 / (1 + ((rate - result) ** 2 / variance) / 4) ** 2
        mean = float(result.mean())
    return np.asarray(result, np.float64)
