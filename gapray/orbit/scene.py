"""A product standing in its own geometry: photos in one frame, a camera, a hull."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gapray.geometry.calibrate import Fit
from gapray.geometry.camera import OrbitCamera, frame_grid, sample
from gapray.geometry.carve import NOTHING, Hull, carve, front
from gapray.geometry.frame import Placement, mask_box, to_frame
from gapray.geometry.silhouettes import signed_distance

SPARE = 1.08
"""The hull's field is so much larger than the product."""


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


@dataclass(frozen=True)
class OrbitFrame:
    """One drawn frame, S x S pixels, by whichever engine."""

    colour: Tensor
    """[3, S, S], 0 … 1."""
    alpha: Tensor
    """[S, S], 0 … 1."""
    nearness: Tensor
    """[S, S], the surface [half frames], `NOTHING` beside the product."""
    visibility: Tensor
    """[S, S], 0 … 1: how much of the colour the photos saw."""


@dataclass(frozen=True)
class Laid:
    """The photos in the frame, before anything is known of the camera."""

    size: int
    azimuths_deg: tuple[float, ...]
    photos: Tensor
    """As of `Scene`."""
    colour: Tensor
    alpha: Tensor
    cut: NDArray[np.uint8]
    """uint8 [V, S, S], `alpha` in bytes."""


def laid_out(
    photos: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    azimuths: tuple[float, ...],
    placements: Sequence[Placement],
    size: int,
    device: str,
) -> Laid:
    """Bring photos and masks into the frame."""
    rgb = np.stack([to_frame(photo, at, size) for photo, at in zip(photos, placements, strict=True)])
    cut = np.stack([to_frame(mask, at, size) for mask, at in zip(masks, placements, strict=True)])
    colour = np.stack([extended(image, mask) for image, mask in zip(rgb, cut, strict=True)])
    alpha = torch.tensor(cut, device=device).float() / 255
    return Laid(size, azimuths, _planes(rgb, device), _planes(colour, device), alpha, cut)


def carved_scene(laid: Laid, fit: Fit, voxels: int) -> Scene:
    """The scene with the plain hull of a camera."""
    camera = OrbitCamera(fit.elevation_deg, fit.inverse_distance, fit.axis_x, fit.axis_y, fit.direction)
    silhouettes = silhouettes_of(laid.cut, laid.azimuths_deg, laid.alpha.device)
    hull = carve(silhouettes, camera, reach=_reach(laid.cut, camera), voxels=voxels)
    bare = Scene(laid.size, laid.azimuths_deg, laid.photos, laid.colour, laid.alpha, camera, hull, nearness=laid.alpha)
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


def unshifted(scene: Scene, laid: Laid, fit: Fit) -> Scene:
    """The scene with its photos as they were laid out, without the fit's shifts and scales; depths move along.

    Its hull stands in the shifted frame still.
    """
    u, v = frame_grid(laid.size, laid.alpha.device)
    moved = [
        # Not bilinear: between a surface and the nothing beside it lies no surface.
        sample(near[None], (u - du) / math.exp(log_scale), (v - dv) / math.exp(log_scale), mode="nearest")[0]
        for near, (du, dv, log_scale) in zip(scene.nearness, fit.shifts, strict=True)
    ]
    nearness = torch.stack([filled(near) for near in moved])
    return replace(scene, photos=laid.photos, colour=laid.colour, alpha=laid.alpha, nearness=nearness)


def outline_distances(scene: Scene) -> Tensor:
    """Distance to the hull's outline in each view, [V, S, S] pixels."""
    seen = [front(scene.hull, scene.camera, azimuth, scene.size // 2)[1] for azimuth in scene.azimuths_deg]
    return torch.stack([enlarged(one, scene.size) for one in seen])


def _reach(cut: NDArray[np.uint8], camera: OrbitCamera) -> tuple[float, float]:
    """Half extents that enclose the product: horizontal, vertical [half frames].

    What is lowest or highest in any view stands before the axis or on it, seen from there, so that it is at most as low or as
    high as the point of the axis that is seen at the same height.
    """
    boxes = np.array([mask_box(mask >= 128) for mask in cut]) / cut.shape[-1] * 2 - 1
    elevation = math.radians(camera.elevation_deg)
    slant = camera.inverse_distance * math.sin(elevation)
    heights = camera.axis_y - np.array([boxes[:, 2].min(), boxes[:, 3].max()])
    on_axis = heights / np.maximum(math.cos(elevation) + heights * slant, 0.2)
    up = float(np.abs(on_axis).max())
    # Far from the camera things look smaller: the lower end when it looks down.
    across = float(np.abs(boxes[:, :2] - camera.axis_x).max()) * (1 + abs(slant) * up)
    return SPARE * across, SPARE * up + (SPARE - 1) * across


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
