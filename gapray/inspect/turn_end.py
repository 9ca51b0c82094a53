"""Where one turn of a film ends: the frame that looks like the first again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from gapray.errors import InputError
from gapray.resample import resized

FULL_TURN_DEG = 350.0
"""Minimum rotation that a video has to show; with less, one side is missing."""
TURN_CANDIDATES = 1500
"""Number of lengths of a turn that are tried."""
COMPARISON_SIDE = 48
"""Side of the pictures in which the return is detected [pixels]."""
MIN_DISSIMILARITY = 0.02
"""Minimum of 1 - correlation between two sides of a product; below it all sides look the same."""
RETURN_FRACTION = 0.4
"""Maximum difference between a frame and its return, as a fraction of the median difference between two frames."""
BACKWARD_FRACTION = 0.05
"""Fraction of the motion that may seem to go backwards, to allow for errors of measured speeds."""
MIRRORED_RATIO = 0.15
"""At a reversal, frames before and after it look alike: their dissimilarity, relative to that from the frame between them, is below
this. Of 4 spins and 11 scans in wide steps, the nearest without a reversal is a bottle with 0.25."""
MIRRORED_WINDOW = 0.1
"""Distance from a reversal to which frames are compared, as a fraction of all compared frames."""
MIN_MIRRORED_WINDOW = 6
"""Minimum of that distance in frames, unless the video ends before."""
Grey = NDArray[np.uint8]
Floats = NDArray[np.float64]


def frame_dissimilarity(frames: Sequence[Grey], box: tuple[int, int, int, int], covered: NDArray[np.bool_]) -> Floats:
    """1 - correlation of the box's content between any two frames, [n, n]; NaN for covered frames."""
    left, top, right, bottom = box
    small = [resized(frame[top:bottom, left:right], (COMPARISON_SIDE, COMPARISON_SIDE)) for frame in frames]
    flat = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0).ravel() for frame in small]).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    dissimilarity = np.asarray(1.0 - flat @ flat.T, np.float64)
    dissimilarity[covered], dissimilarity[:, covered] = np.nan, np.nan
    return dissimilarity


def find_reversal(angles: Floats, dissimilarity: Floats) -> int | None:
    """Index of the node at which the direction changes; None where it does not.

    Measured speeds alone are not enough: on smooth bottles in wide steps their sign is random. So the frames around a reversal
    must also look alike in mirrored order.
    """
    steady = median_filter(angles, min(5, (len(angles) - 1) // 2 * 2 + 1), mode="nearest")
    if np.abs(angles[steady < 0]).sum() <= BACKWARD_FRACTION * np.abs(angles).sum():
        return None
    count, floor = len(dissimilarity), 0.1 * float(np.nanmedian(dissimilarity))
    ratios: dict[int, float] = {}
    for twice in range(4, 2 * (count - 3) + 1):  # twice the index, because the reversal may be between two nodes
        low, high = twice // 2, (twice + 1) // 2
        reach = min(low, count - 1 - high, max(MIN_MIRRORED_WINDOW, round(MIRRORED_WINDOW * count)))
        offsets = np.arange(1, reach + 1)
        if len(offsets) < 2:
            continue
        before, after = low - offsets, high + offsets
        pair = np.array([dissimilarity[before, low], dissimilarity[high, after], dissimilarity[before, after]])
        if np.isfinite(pair).all():
            first, second, across = pair.mean(1)
            ratios[low] = min(ratios.get(low, np.inf), across / max(first, second, floor))
    best = min(ratios, key=lambda node: ratios[node], default=None)
    return best if best is not None and ratios[best] < MIRRORED_RATIO else None


def find_turn_length(dissimilarity: Floats, path: Floats) -> float:
    """The length of a turn in the path's unit: the first length after which the product looks the same again.

    Front and back of many products look alike, so a return has to be as similar as neighbouring frames are. If the video ends
    before the return, or just after it, the length is extrapolated from how fast the view changes.

    Args:
        dissimilarity: [n, n], as from `dissimilarity`.
        path: [n], accumulated rotation in any unit.

    Raises:
        InputError: `turn.unobservable` or `turn.incomplete`.
    """
    usual = float(np.nanmedian(dissimilarity))
    if usual < MIN_DISSIMILARITY:
        raise InputError("turn.unobservable", "the product looks the same from all sides")
    lengths = np.linspace(0, path[-1], TURN_CANDIDATES)
    difference = np.array([_dissimilarity_after(dissimilarity, path, length) for length in lengths])
    limit = RETURN_FRACTION * usual
    rise = int(np.argmax(difference > limit))
    near = np.maximum.accumulate(difference[: rise + 1])
    step = float(np.median(np.diff(path)[np.diff(path) > 0]))
    returns: list[tuple[float, float]] = []
    for first, end in _valleys(difference < limit, rise):
        valley, valley_lengths = difference[first : end + 1], lengths[first : end + 1]
        least = float(valley.min())
        rim = min(valley[0], valley[-1])
        turn = _valley_centre(valley, valley_lengths, least + 0.5 * (rim - least))
        if rim > least + 0.25 * (limit - least) and _is_return(least, lengths[: rise + 1], near, step, turn / 60):
            returns.append((turn, least))
    turn, least = _turn_near_end(dissimilarity, path, reach=float(lengths[rise]), limit=limit)
    # If frames are far apart, the step that closes the circle may be missing at the end.
    unseen = max((360 - FULL_TURN_DEG) / 360 * turn, 1.5 * step)
    if turn - path[-1] <= unseen and _is_return(least, lengths[: rise + 1], near, unseen):
        returns.append((turn, least))
    if not returns:
        raise InputError("turn.incomplete", "the product never looks again as it did at the start")
    best = min(least for _, least in returns)
    return next(turn for turn, least in returns if least <= 2 * best + 0.002)


def _is_return(least: float, lengths: Floats, near: Floats, *distances: float) -> bool:
    """Whether a dissimilarity is no larger than that of frames at the largest of these small distances from each other."""
    return bool(least <= 1.1 * np.interp(max(distances), lengths, near) + 0.001)


def _turn_near_end(dissimilarity: Floats, path: Floats, *, reach: float, limit: float) -> tuple[float, float]:
    """The length of a turn that ends within `reach` of the video's end, and the smallest dissimilarity seen there.

    It is the length for which frames at the beginning and at the end are as dissimilar as frames at equal distances within the
    beginning or within the end: the view changes faster on some sides than on others.
    """
    early, late = np.flatnonzero(path <= reach), np.flatnonzero(path >= path[-1] - reach)
    pair_distances, pair_values = [], []
    for group in (early, late):
        rows, columns = np.triu_indices(len(group), 1)
        pair_distances.append(path[group[columns]] - path[group[rows]])
        pair_values.append(dissimilarity[group[rows], group[columns]])
    distances, values = np.concatenate(pair_distances), np.concatenate(pair_values)
    finite = np.isfinite(values)
    edges = np.linspace(0, reach, 13)
    bins = [values[finite & (distances > low) & (distances <= high)] for low, high in pairwise(edges)]
    usable = [
        (high - reach / 24, float(np.median(content)))
        for high, content in zip(edges[1:], bins, strict=True)
        if len(content)
    ]
    curve_x = np.array([0.0, *(distance for distance, _ in usable)])
    curve_y = np.maximum.accumulate([0.0, *(value for _, value in usable)])
    spans = (path[late][None] - path[early][:, None]).ravel()
    seen = dissimilarity[np.ix_(early, late)].ravel()
    inside = np.isfinite(seen) & (spans > path[-1] / 2)
    if not inside.any():
        return np.inf, np.inf
    spans, seen = spans[inside], np.minimum(seen[inside], limit)
    turns = np.linspace(path[-1] - reach, path[-1] + reach, 801)
    errors = [
        float(np.abs(np.minimum(np.interp(np.abs(turn - spans), curve_x, curve_y), limit) - seen).mean())
        for turn in turns
    ]
    return float(turns[int(np.argmin(errors))]), float(seen.min())


def _valleys(low: NDArray[np.bool_], after: int) -> list[tuple[int, int]]:
    """First and last index of each run of True that starts after `after`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], low.astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if a > after]


def _valley_centre(valley: Floats, positions: Floats, height: float) -> float:
    """Position halfway between the two sides of a valley at a height, which is more robust than its lowest point."""
    low = np.flatnonzero(valley <= height)
    return float(positions[low[0]] + positions[low[-1]]) / 2


def _dissimilarity_after(dissimilarity: Floats, path: Floats, length: float) -> float:
    """Median dissimilarity of frames that are `length` apart on the path; infinite if there are none."""
    ends = path + length
    inside = np.flatnonzero(ends <= path[-1] + 1e-9)
    if len(inside) < 2:
        return np.inf
    index = np.interp(ends[inside], path, np.arange(len(path)))
    low = np.minimum(index.astype(int), len(path) - 2)
    fraction = index - low
    values = (1 - fraction) * dissimilarity[inside, low] + fraction * dissimilarity[inside, low + 1]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.inf
