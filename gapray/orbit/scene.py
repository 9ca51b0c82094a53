"""A product standing in its own geometry: photos in one frame, a camera, a hull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gapray.geometry.calibrate import Fit
from gapray.geometry.camera import OrbitCamera
from gapray.geometry.carve import NOTHING, Hull, carve, front
from gapray.geometry.frame import Placement, mask_box, to_frame
from gapray.geometry.silhouettes import signed_distance


@dataclass(frozen=True)
class Scene:
    """What frames are rendered from. Everything is in one square frame of `size` x `size` pixels."""

    size: int
    azimuths_deg: tuple[float, ...]
    photos: Tensor
    """float32 [V, 3, S, S], 0 … 1."""
    colour: Tensor
    """As `photos`, but beyond the mask the colour of its nearest pixel goes on."""
    alpha: Tensor
    """float32 [V, S, S], 0 … 1."""
    camera: OrbitCamera
    hull: Hull
    nearness: Tensor
    """float32 [V, S, S], the hull's front in each view, `NOTHING` beside it."""


def carved_scene(
    photos: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    azimuths: tuple[float, ...],
    placements: Sequence[Placement],
    fit: Fit,
    size: int,
    voxels: int,
    device: str,
) -> Scene:
    """The scene with the plain hull."""
    rgb = np.stack([to_frame(photo, at, size) for photo, at in zip(photos, placements, strict=True)])
    cut = np.stack([to_frame(mask, at, size) for mask, at in zip(masks, placements, strict=True)])
    camera = OrbitCamera(fit.elevation_deg, fit.inverse_distance, fit.axis_x, fit.axis_y, fit.direction)
    hull = carve(silhouettes_of(cut, azimuths, device), camera, reach=_reach(cut, camera), voxels=voxels)
    colour = np.stack([extended(one, mask) for one, mask in zip(rgb, cut, strict=True)])
    alpha = torch.tensor(cut, device=device).float() / 255
    bare = Scene(size, azimuths, _planes(rgb, device), _planes(colour, device), alpha, camera, hull, alpha)
    return seen_from_views(bare)


def silhouettes_of(
    cut: NDArray[np.uint8], azimuths: Sequence[float], device: str | torch.device
) -> list[tuple[Tensor, float]]:
    """Signed distances of masks in the frame, with their azimuths, as `carve` takes them."""
    return [
        (torch.tensor(signed_distance(mask), device=device), azimuth)
        for mask, azimuth in zip(cut, azimuths, strict=True)
    ]


def _planes(images: NDArray[np.uint8], device: str) -> Tensor:
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255


def seen_from_views(scene: Scene) -> Scene:
    """The scene with `nearness` of its hull as it is now."""
    fronts = [front(scene.hull, scene.camera, azimuth, scene.size // 2)[0] for azimuth in scene.azimuths_deg]
    return replace(scene, nearness=torch.stack([enlarged(filled(one), scene.size) for one in fronts]))


def outline_distances(scene: Scene) -> Tensor:
    """Distance to the hull's outline in each view, [V, S, S] pixels."""
    seen = [front(scene.hull, scene.camera, azimuth, scene.size // 2)[1] for azimuth in scene.azimuths_deg]
    return torch.stack([enlarged(one, scene.size) for one in seen])


def _reach(cut: NDArray[np.uint8], camera: OrbitCamera) -> tuple[float, float]:
    """Half extents that enclose the product, from the boxes of its masks."""
    boxes = np.array([mask_box(mask >= 128) for mask in cut]) / cut.shape[-1] * 2 - 1
    across = float(np.abs(boxes[:, :2] - camera.axis_x).max())
    up = float(np.abs(boxes[:, 2:] - camera.axis_y).max())
    return 1.1 * across, 1.1 * up + 0.1 * across


def filled(nearness: Tensor, rings: int = 3) -> Tensor:
    """Carry the surface a few pixels beyond its rim, so that the outline's soft pixels have a depth."""
    for _ in range(rings):
        grown = functional.max_pool2d(nearness[None], 3, 1, 1)[0]
        nearness = torch.where(nearness > NOTHING / 2, nearness, grown)
    return nearness


def enlarged(image: Tensor, size: int) -> Tensor:
    """[s, s] -> [size, size], bilinear."""
    return functional.interpolate(image[None, None], (size, size), mode="bilinear", align_corners=False)[0, 0]


def extended(rgb: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Replace what is not surely product by the colour of the nearest pixel that is.

    Args:
        rgb: uint8 [S, S, 3].
        mask: uint8 [S, S], not empty.
    """
    inside = (mask >= 250).astype(np.uint8)
    sure = cv2.erode(inside, np.ones((3, 3), np.uint8))
    if sure.sum() < 0.3 * (mask >= 128).sum():
        sure = (mask >= 128).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(1 - sure, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    rows, columns = np.nonzero(sure)
    at = np.zeros(int(labels.max()) + 1, np.intp)
    at[labels[rows, columns]] = rows * mask.shape[1] + columns
    return np.asarray(rgb.reshape(-1, 3)[at[labels]])
