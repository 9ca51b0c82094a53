"""Depth from silhouettes: the visual hull (Laurentini 1994) of a capture set, seen from each of its views.

A first version: orthographic cameras at one given elevation, the turning axis at the mean of the silhouettes' centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.geometry.camera import camera_axes

GRID = 96
"""Voxels along each side of the cube that encloses the product."""
SLACK_PX = 1
"""Silhouettes are widened by this many grid pixels before carving, because a too small one carves for good."""
CROPPED_SHARE = 0.97
"""Boxes that fill this share of the picture mean that each photo was cropped to its own product."""


@dataclass(frozen=True)
class _Frame:
    """Where the product's cube lies in one photo: centre and half side in pixels."""

    x: float
    y: float
    half: float


def hull_nearness(
    masks: Sequence[NDArray[np.bool_]], azimuths_deg: Sequence[float], elevation_deg: float
) -> list[NDArray[np.float32]]:
    """How near the hull's front is in each view.

    Args:
        masks: One silhouette a view, bool [H, W] each, none empty; sizes may differ.
        azimuths_deg: One azimuth a view, degrees.
        elevation_deg: The camera's elevation, the same for all views, degrees.

    Returns:
        float32 [H, W] a view: distance of the front surface from the turning axis towards the camera, in half sides of
        the enclosing cube (about -1 … 1, larger is nearer), on one scale for all views. Inside a mask every pixel has a
        value; pixels that the carved hull does not reach take their nearest neighbour's. Outside it is 0.

    Raises:
        ValueError: The lengths differ, or a mask is empty.
    """
    if len(masks) != len(azimuths_deg):
        raise ValueError(f"{len(masks)} masks for {len(azimuths_deg)} azimuths")
    frames = _frames(masks)
    grids = [_to_grid(mask, frame) for mask, frame in zip(masks, frames, strict=True)]
    axes = [camera_axes(azimuth, elevation_deg) for azimuth in azimuths_deg]
    points = _carve(grids, axes)
    return [
        _from_grid(_front(points, rotation, grid), mask, frame)
        for grid, rotation, mask, frame in zip(grids, axes, masks, frames, strict=True)
    ]


def _frames(masks: Sequence[NDArray[np.bool_]]) -> list[_Frame]:
    boxes = []
    for mask in masks:
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if not columns.size:
            raise ValueError("a mask is empty")
        boxes.append((columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    box = np.array(boxes, dtype=float)
    sides = np.array([mask.shape for mask in masks], dtype=float)
    centre_x, centre_y = box[:, :2].mean(1), box[:, 2:].mean(1)
    width, height = box[:, 1] - box[:, 0], box[:, 3] - box[:, 2]
    cropped = np.maximum(width / sides[:, 1], height / sides[:, 0]) > CROPPED_SHARE
    if np.ptp(sides, axis=0).any() or cropped.mean() > 0.5:
        # Each photo has a frame of its own. A turning product keeps its height, so heights give the scale.
        half = 0.5 * height * max(1.0, float((width / height).max()))
        return [_Frame(x, y, h) for x, y, h in zip(centre_x, centre_y, half, strict=True)]
    axis_x, axis_y = float(centre_x.mean()), float(centre_y.mean())
    reach_x = np.abs(box[:, :2] - axis_x).max()
    reach_y = np.abs(box[:, 2:] - axis_y).max()
    return [_Frame(axis_x, axis_y, float(max(reach_x, reach_y)))] * len(masks)


def _affine(frame: _Frame) -> NDArray[np.float64]:
    """Photo pixels -> grid pixels (pixel centres at integers in both)."""
    scale = GRID / (2 * frame.half)
    return np.array(
        [
            [scale, 0.0, (0.5 - frame.x) * scale + GRID / 2 - 0.5],
            [0.0, scale, (0.5 - frame.y) * scale + GRID / 2 - 0.5],
        ]
    )


def _to_grid(mask: NDArray[np.bool_], frame: _Frame) -> NDArray[np.bool_]:
    soft = mask.astype(np.float32)
    shrink = GRID / (2 * frame.half)
    if shrink < 1:
        soft = cv2.GaussianBlur(soft, (0, 0), 0.4 / shrink)
    grid = cv2.warpAffine(soft, _affine(frame), (GRID, GRID), flags=cv2.INTER_LINEAR)
    return np.asarray(grid > 0.5)


def _carve(grids: list[NDArray[np.bool_]], axes: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Centres [N, 3] of the voxels that lie inside every silhouette."""
    side = ((np.arange(GRID) + 0.5) / GRID * 2 - 1).astype(np.float32)
    inside = np.ones((GRID, GRID, GRID), bool)  # [y, z, x]
    kernel = np.ones((2 * SLACK_PX + 1, 2 * SLACK_PX + 1), np.uint8)
    z, x = side[:, None], side[None, :]
    for grid, rotation in zip(grids, axes, strict=True):
        wide = cv2.dilate(grid.astype(np.uint8), kernel) > 0
        right, up, _ = rotation.astype(np.float32)
        column = _index(right[0] * x + right[2] * z)
        row = _index(-(up[0] * x + up[2] * z) - up[1] * side[:, None, None])
        inside &= wide[row, column[None]]
    y_at, z_at, x_at = np.nonzero(inside)
    return np.stack([side[x_at], side[y_at], side[z_at]], 1)


def _index(coordinate: NDArray[np.float32]) -> NDArray[np.intp]:
    """Grid pixel of a coordinate in -1 … 1, clipped to the grid."""
    index: NDArray[np.intp] = np.clip((coordinate + 1) * (GRID / 2), 0, GRID - 1).astype(np.intp)
    return index


def _front(points: NDArray[np.float32], rotation: NDArray[np.float64], grid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Nearness [GRID, GRID] of the hull's front; every pixel has a value, filled from its nearest hit."""
    seen = points @ rotation.T.astype(np.float32)
    nearest = np.full(GRID * GRID, -np.inf, np.float32)
    np.maximum.at(nearest, _index(-seen[:, 1]) * GRID + _index(seen[:, 0]), seen[:, 2])
    front = nearest.reshape(GRID, GRID)
    hit = np.isfinite(front) & grid
    if not hit.any():
        return np.zeros_like(front)
    _, labels = cv2.distanceTransformWithLabels(
        (~hit).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value_of_label = np.zeros(int(labels.max()) + 1, np.float32)
    value_of_label[labels[hit]] = front[hit]
    return np.asarray(cv2.medianBlur(value_of_label[labels].astype(np.float32), 3))


def _from_grid(front: NDArray[np.float32], mask: NDArray[np.bool_], frame: _Frame) -> NDArray[np.float32]:
    height, width = mask.shape
    back = cv2.invertAffineTransform(_affine(frame))
    full = cv2.warpAffine(front, back, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(mask, full, 0).astype(np.float32)
