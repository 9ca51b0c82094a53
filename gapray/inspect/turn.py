"""Grey frames of a turntable -> the azimuth of each. Pure: pictures and times in, degrees out.

A point of a turning product moves, in the picture of a still camera, by ``(u, v)``. How far it moves sideways depends on its
unknown depth, but how far it moves up does not: about an axis that is seen at column x0, from e above the horizon,

    v = -w (x - x0) (sin e + (y / f) cos e),

w the angle turned (differentiate the perspective projection; x, y, f in pixels from the principal point). So the vertical part
of the motion gives the speed of the table up to one factor for the whole video, whatever the product's shape, and the factor
follows from the product's return: after one turn it looks as it did.
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
from scipy.ndimage import median_filter
from scipy.optimize import minimize

from gapray.errors import InputError
from gapray.resample import resized

FULL_TURN_DEG = 350.0
"""A video that shows less has a side that nobody filmed."""
POINTS = 500
"""Followed from frame to frame at most."""
STEP_PX = 3.0
"""Frames are compared so far apart that points move about so much: less is noise, more is lost."""
NODES = 600
"""Frames compared at most."""
STILL_PX = 0.2
"""What moves less stands still."""
OUTLINE_SHARE = 0.45
"""Points slower than this share of the fast ones lie on outlines, which stay where they are while the surface turns away."""
CHI_SQUARE_MEDIAN = 0.455
"""Median of chi-square with one degree of freedom."""
RIPPLE = 0.15
"""Share by which the speed of a table is expected to differ from its mean (one sigma)."""
STEPPED_RIPPLE = 0.05
"""The same where one photo was taken after each step of a motor."""
STEPPED_DEG = 4.5
"""Frames that lie farther apart than this are such photos: a turn filmed so would last two seconds."""
RIPPLE_DEG = 40.0
"""The speed changes over about so many degrees."""
SPEED_ERROR = 0.06
"""Share by which one measured speed may be wrong whatever its noise says."""
WAYS = 1500
"""Lengths of a turn that are tried."""
LOOK = 48
"""Side of the pictures in which the return is looked for [pixels]."""
PLAIN = 0.02
"""1 - correlation of a product with itself turned; below, nothing can be told apart."""
RETURN_SHARE = 0.4
"""A return differs from the first look by at most this share of the usual difference between two sides."""
BACK_SHARE = 0.05
"""Share of the way that may seem to lead back, for errors of measured speeds."""
MIRRORED_SHARE = 0.15
"""Where a turn changes its direction, frames before and after it are alike: less unlike than this share of how unlike each is to
the frame between them. Of 4 spins and 11 scans in wide steps a bottle comes nearest to it without turning back, with 0.25."""
MIRRORED_OVER = 0.1
MIRRORED_LEAST = 6
"""…as far from there as this share of all frames, or so many, or to an end of the video."""
RIM_WIDTH = 0.04
"""Width of the picture's rim, as a share of its shorter side."""
RIM_GREY = 25
"""Grey levels by which a pixel of the rim differs where something comes in."""
RIM_COVERED = 0.03
"""Share of the rim that then differs."""
RIM_OFTEN = 0.3
"""Share of the frames above which it is no hand."""

_Grey = NDArray[np.uint8]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Turn:
    """What a video shows of a turning product."""

    azimuth_deg: _Floats
    """[F], not wrapped, 0 at the first frame; grows where the camera seems to walk counter-clockwise seen from above."""
    covered: NDArray[np.bool_]
    """[F], something reaches into the picture: a hand."""

    @property
    def span_deg(self) -> float:
        """Degrees that are shown."""
        return float(np.ptp(self.azimuth_deg))

    @property
    def direction(self) -> int:
        """+1: azimuths grow in time."""
        return 1 if self.azimuth_deg[-1] >= self.azimuth_deg[0] else -1


def find_turn(frames: Sequence[_Grey], times: _Floats) -> Turn:
    """Find how the product turns.

    Args:
        frames: F grey pictures uint8 [h, w] of one size, upright; 200 to 400 pixels on the longer side are right.
        times: [F], seconds, growing.

    Raises:
        InputError: `turn.no_motion` when nothing turns; `turn.turns_back` when it changes its direction; `turn.incomplete` when
            less than `FULL_TURN_DEG` is shown or the product never looks again as it did; `turn.unobservable` when it looks the same from everywhere.
    """
    nodes = _nodes(frames)
    pairs = list(pairwise(nodes))
    steps = [_followed(frames[before], frames[after]) for before, after in pairs]
    moving = np.array([_moves(step) for step in steps], bool)
    if moving.sum() < 8:
        raise InputError("turn.no_motion", "nothing turns in this video")
    box = _box([step for step, moves in zip(steps, moving, strict=True) if moves], frames[0].shape)
    covered = _covered(frames)
    free = np.array([not covered[before : after + 1].any() for before, after in pairs])
    seconds = np.diff(times[nodes])
    angles, information, sign = _speeds([step for step, moves in zip(steps, moving, strict=True) if moves])
    rate, weight = angles / seconds[moving], information * seconds[moving] ** 2 * free[moving]
    unlike = _unlike([frames[node] for node in nodes], box, covered[nodes])
    if (back := _turns_back(angles, unlike)) is not None:
        raise InputError(
            "turn.turns_back", f"{times[nodes[back]] - times[0]:.1f} s into the video the product turns back"
        )
    around, path = float(len(angles)), np.zeros(len(nodes))
    for _ in range(2):  # the second time with the length of a turn known
        speed = np.zeros(len(pairs))
        ripple = STEPPED_RIPPLE if nodes[1] == 1 and around < 360 / STEPPED_DEG else RIPPLE
        evened = _evened(rate, weight, around * RIPPLE_DEG / 360, ripple)
        speed[moving] = np.maximum(evened, 0.0) * seconds[moving]
        path = np.concatenate([[0.0], np.cumsum(speed)])
        turn = _return(unlike, path)
        around = len(angles) * min(1.0, turn / path[-1])
    azimuths = np.interp(times, times[nodes], sign * 360.0 * path / turn)
    return Turn(azimuths, covered)


def _nodes(frames: Sequence[_Grey]) -> list[int]:
    """Frames to compare: `STEP_PX` apart, whatever the frame rate."""
    count = len(frames)
    moved = []
    for index in np.linspace(0, max(0, count - 2), min(24, max(0, count - 1))).astype(int):
        far = _lengths(_followed(frames[index], frames[index + 1]))
        far = far[far > STILL_PX / 2]
        moved.append(float(np.percentile(far, 75)) if len(far) > 5 else 0.0)
    usual = float(np.median(moved)) if moved else 0.0
    step = int(np.clip(round(STEP_PX / max(usual, 1e-3)), 1, max(1, count // 40)))
    return list(range(0, count, max(step, -(-count // NODES))))


def _followed(before: _Grey, after: _Grey) -> _Floats:
    """[N, 4]: where corners of the first picture are, and how far each moves; those alone that lead back when followed back."""
    found = cv2.goodFeaturesToTrack(before, POINTS, 0.01, 3, blockSize=5)
    if found is None:
        return np.zeros((0, 4))
    there, good, _ = _follow(before, after, found)
    back, again, _ = _follow(after, before, there)
    kept = (good[:, 0] > 0) & (again[:, 0] > 0) & (np.abs(found - back).max((1, 2)) < 0.5)
    return np.concatenate([found[kept, 0], (there - found)[kept, 0]], 1).astype(np.float64)


_follow = partial(cv2.calcOpticalFlowPyrLK, nextPts=None, winSize=(15, 15), maxLevel=3, criteria=(3, 30, 0.01))


def _lengths(step: _Floats) -> _Floats:
    return np.hypot(step[:, 2], step[:, 3])


def _moves(step: _Floats) -> bool:
    return len(step) > 0 and float((_lengths(step) > STILL_PX).mean()) > 0.05


def _box(steps: Sequence[_Floats], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what turns: of the usual step's moving points, not of the widest."""
    sides = []
    for step in steps:
        moving = step[_lengths(step) > STILL_PX]
        if len(moving) >= 8:
            sides.append([*np.percentile(moving[:, :2], 2, axis=0), *np.percentile(moving[:, :2], 98, axis=0)])
    if not sides:
        return 0, 0, shape[1], shape[0]
    low, high = np.percentile(np.array(sides), 10, axis=0), np.percentile(np.array(sides), 90, axis=0)
    spare = 0.05 * max(high[2] - low[0], high[3] - low[1])
    left, top = (max(0, int(low[axis] - spare)) for axis in (0, 1))
    right, bottom = (min(shape[1 - axis], int(high[axis + 2] + spare) + 1) for axis in (0, 1))
    return left, top, right, bottom


def _covered(frames: Sequence[_Grey]) -> NDArray[np.bool_]:
    """[F], whether the rim of the picture differs from what it usually is: a hand has to cross it."""
    height, width = frames[0].shape
    rim = np.ones((height, width), bool)
    wide = max(2, round(RIM_WIDTH * min(height, width)))
    rim[wide:-wide, wide:-wide] = False
    some = np.linspace(0, len(frames) - 1, min(len(frames), 60)).astype(int)
    usual = np.median(np.stack([frames[index][rim] for index in some]), axis=0)
    result = np.zeros(len(frames), bool)
    for index, frame in enumerate(frames):
        off = frame[rim] - usual
        result[index] = (np.abs(off - np.median(off)) > RIM_GREY).mean() > RIM_COVERED
    # Where it often differs, the product itself reaches it, and nothing can be said.
    return result if result.mean() < RIM_OFTEN else np.zeros(len(frames), bool)


def _speeds(steps: Sequence[_Floats]) -> tuple[_Floats, _Floats, int]:
    """Angle of each step up to one factor, its information (1 / variance), and the direction of the azimuths.

    A robust fit of ``v = w d(x, y) + b`` to each step, d one function for all of them: axis, elevation and roll of the camera
    are what leaves least unexplained.
    """
    kept = [step[_lengths(step) > max(STILL_PX, OUTLINE_SHARE * _fast(step))] for step in steps]
    most = max(len(step) for step in kept)
    x, y, u, v, there = (np.zeros((len(kept), most)) for _ in range(5))
    for index, step in enumerate(kept):
        count = len(step)
        x[index, :count], y[index, :count], u[index, :count], v[index, :count] = step.T
        there[index, :count] = 1.0
    inside = there > 0
    half = max(1.0, float(np.ptp(np.percentile(x[inside], [5, 95]))) / 2)
    across, up = (x - np.median(x[inside])) / half, (y - np.median(y[inside])) / half

    middle = np.maximum(0, inside.sum(1) - 1) // 2

    def solve(camera: _Floats, rounds: int) -> tuple[float, _Floats, _Floats]:
        axis, mixed, roll = camera
        lever = (across - axis) * (np.cos(mixed) + 0.3 * np.sin(mixed) * up)
        seen = v + np.clip(roll, -0.15, 0.15) * u
        weight = there
        for _ in range(rounds):
            total, first, seconds = weight.sum(1) + 1e-9, (weight * lever).sum(1), (weight * lever**2).sum(1)
            value, both = (weight * seen).sum(1), (weight * lever * seen).sum(1)
            spread = total * seconds - first**2 + 1e-9
            angle = (total * both - first * value) / spread
            left = seen - angle[:, None] * lever - ((value - angle * first) / total)[:, None]
            ranked = np.sort(np.where(inside, np.abs(left), np.inf), axis=1)
            noise = np.clip(1.4826 * ranked[np.arange(len(ranked)), middle], 0.08, 3.0)
            weight = there / (1 + (left / (1.5 * noise[:, None])) ** 2) ** 2
        unexplained = float(np.log1p((left[inside] / 0.15) ** 2).mean())
        return unexplained, angle, spread / total / noise**2

    grid = [np.array([axis, mixed, 0.0]) for axis in np.linspace(-0.5, 0.5, 5) for mixed in np.pi * np.arange(8) / 8]
    start = min(grid, key=lambda camera: solve(camera, 3)[0])
    simplex = start + np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.03]])
    found = minimize(
        lambda camera: solve(camera, 4)[0],
        start,
        method="Nelder-Mead",
        options={"maxfev": 120, "xatol": 1e-3, "fatol": 1e-5, "initial_simplex": simplex},
    )
    _, angle, information = solve(found.x, 6)
    # What is seen is the front of the product: where that goes left, the camera seems to walk to the right, counter-clockwise.
    sign = -1 if (there * u * (np.abs(across - found.x[0]) < 0.5)).sum() > 0 else 1
    return angle * (1.0 if (angle * information).sum() >= 0 else -1.0), information, sign


def _fast(step: _Floats) -> float:
    return float(np.percentile(_lengths(step), 90)) if len(step) else 0.0


def _evened(rate: _Floats, information: _Floats, reach: float, ripple: float) -> _Floats:
    """The likeliest speeds: near the measured ones where those are sure, near their mean and smooth where they are not.

    Least squares of measurements, second differences and distance from the mean, measurements that fit badly counting less.
    """
    count = len(rate)
    # How much neighbours really differ says how large the errors are; a step's own points err together.
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


def _unlike(frames: Sequence[_Grey], box: tuple[int, int, int, int], covered: NDArray[np.bool_]) -> _Floats:
    """[n, n], 1 - correlation of what turns, between any two frames; NaN for covered ones."""
    left, top, right, bottom = box
    small = [resized(one[top:bottom, left:right], (LOOK, LOOK)) for one in frames]
    flat = np.stack([cv2.GaussianBlur(one, (0, 0), 1.0).ravel() for one in small]).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    unlike = np.asarray(1.0 - flat @ flat.T, np.float64)
    unlike[covered], unlike[:, covered] = np.nan, np.nan
    return unlike


def _turns_back(angles: _Floats, unlike: _Floats) -> int | None:
    """The node at which the direction changes, None where it does not.

    Measured speeds alone do not tell: on smooth bottles in wide steps their sign is chance. So frames around that place must
    also look alike in mirrored order.
    """
    steady = median_filter(angles, min(5, (len(angles) - 1) // 2 * 2 + 1), mode="nearest")
    if np.abs(angles[steady < 0]).sum() <= BACK_SHARE * np.abs(angles).sum():
        return None
    count, floor = len(unlike), 0.1 * float(np.nanmedian(unlike))
    ratios: dict[int, float] = {}
    for half in range(4, 2 * (count - 3) + 1):  # of twice the place: it may lie between two nodes
        reach = min(half // 2, count - 1 - (half + 1) // 2, max(MIRRORED_LEAST, round(MIRRORED_OVER * count)))
        apart = np.arange(1, reach + 1)
        if len(apart) < 2:
            continue
        before, after = half // 2 - apart, (half + 1) // 2 + apart
        pair = np.array([unlike[before, half // 2], unlike[(half + 1) // 2, after], unlike[before, after]])
        if np.isfinite(pair).all():
            first, second, across = pair.mean(1)
            ratios[half // 2] = min(ratios.get(half // 2, np.inf), across / max(first, second, floor))
    place = min(ratios, key=lambda node: ratios[node], default=None)
    return place if place is not None and ratios[place] < MIRRORED_SHARE else None


def _return(unlike: _Floats, path: _Floats) -> float:
    """The length of a turn in the path's unit: the first way after which the product looks as it did.

    Front and back of many products are alike: a return has to look as like the first time as neighbouring frames look like
    each other. Where the video ends before the return, or just after it, its place follows from how looks change with the way.
    """
    usual = float(np.nanmedian(unlike))
    if usual < PLAIN:
        raise InputError("turn.unobservable", "the product looks the same from all sides")
    ways = np.linspace(0, path[-1], WAYS)
    difference = np.array([_after(unlike, path, way) for way in ways])
    limit = RETURN_SHARE * usual
    rise = int(np.argmax(difference > limit))
    near = np.maximum.accumulate(difference[: rise + 1])
    step = float(np.median(np.diff(path)[np.diff(path) > 0]))
    found: list[tuple[float, float]] = []
    for first, end in _valleys(difference < limit, rise):
        valley, there = difference[first : end + 1], ways[first : end + 1]
        alike = float(valley.min())
        rim = min(valley[0], valley[-1])
        turn = _middle(valley, there, alike + 0.5 * (rim - alike))
        if rim > alike + 0.25 * (limit - alike) and _as_near(alike, ways[: rise + 1], near, step, turn / 60):
            found.append((turn, alike))
    turn, alike = _at_the_end(unlike, path, reach=float(ways[rise]), limit=limit)
    # Where frames lie far apart the last step may be the one that closes the circle.
    unseen = max((360 - FULL_TURN_DEG) / 360 * turn, 1.5 * step)
    if turn - path[-1] <= unseen and _as_near(alike, ways[: rise + 1], near, unseen):
        found.append((turn, alike))
    if not found:
        raise InputError("turn.incomplete", "the product never looks again as it did at the start")
    best = min(alike for _, alike in found)
    return next(turn for turn, alike in found if alike <= 2 * best + 0.002)


def _as_near(alike: float, ways: _Floats, near: _Floats, *least: float) -> bool:
    """Whether a difference is no larger than that of frames which lie so little apart."""
    return bool(alike <= 1.1 * np.interp(max(least), ways, near) + 0.001)


def _at_the_end(unlike: _Floats, path: _Floats, *, reach: float, limit: float) -> tuple[float, float]:
    """A turn that ends within `reach` of the video's end, and the least difference seen there.

    Of all lengths the one for which frames of the beginning and of the end are as unlike as frames of the beginning, or of the
    end, that lie so far apart: looks change faster on some sides than on others.
    """
    early, late = np.flatnonzero(path <= reach), np.flatnonzero(path >= path[-1] - reach)
    apart, values = [], []
    for group in (early, late):
        rows, columns = np.triu_indices(len(group), 1)
        apart.append(path[group[columns]] - path[group[rows]])
        values.append(unlike[group[rows], group[columns]])
    far, known = np.concatenate(apart), np.concatenate(values)
    good = np.isfinite(known)
    edges = np.linspace(0, reach, 13)
    bins = [known[good & (far > low) & (far <= high)] for low, high in pairwise(edges)]
    usable = [(high - reach / 24, float(np.median(one))) for high, one in zip(edges[1:], bins, strict=True) if len(one)]
    at = np.array([0.0, *(way for way, _ in usable)])
    rising = np.maximum.accumulate([0.0, *(value for _, value in usable)])
    way = (path[late][None] - path[early][:, None]).ravel()
    seen = unlike[np.ix_(early, late)].ravel()
    inside = np.isfinite(seen) & (way > path[-1] / 2)
    if not inside.any():
        return np.inf, np.inf
    way, seen = way[inside], np.minimum(seen[inside], limit)
    turns = np.linspace(path[-1] - reach, path[-1] + reach, 801)
    misses = [
        float(np.abs(np.minimum(np.interp(np.abs(turn - way), at, rising), limit) - seen).mean()) for turn in turns
    ]
    return float(turns[int(np.argmin(misses))]), float(seen.min())


def _valleys(low: NDArray[np.bool_], after: int) -> list[tuple[int, int]]:
    """First and last index of each run of True behind `after`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], low.astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if a > after]


def _middle(valley: _Floats, there: _Floats, height: float) -> float:
    """Between the two sides of a valley at a height: surer than its lowest point."""
    low = np.flatnonzero(valley <= height)
    return float(there[low[0]] + there[low[-1]]) / 2


def _after(unlike: _Floats, path: _Floats, way: float) -> float:
    """How unlike frames are that lie `way` apart: the median; infinite where none do."""
    there = path + way
    inside = np.flatnonzero(there <= path[-1] + 1e-9)
    if len(inside) < 2:
        return np.inf
    place = np.interp(there[inside], path, np.arange(len(path)))
    low = np.minimum(place.astype(int), len(path) - 2)
    share = place - low
    values = (1 - share) * unlike[inside, low] + share * unlike[inside, low + 1]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.inf
