"""A product in its own geometry: photos in one frame, a camera, a hull."""

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
"""The hull's field is larger than the product by this factor."""


@dataclass(frozen=True)
class OrbitScene:
    """Everything that frames are rendered from, in one square frame of `size` x `size` pixels."""

    size: int
    azimuths_deg: tuple[float, ...]
    photos: Tensor
    """float32 [V, 3, S, S], 0 … 1."""
    colour: Tensor
    """As `photos`, but beyond the mask the colour of its nearest pixel is repeated."""
    alpha: Tensor
    """float32 [V, S, S], 0 … 1."""
    camera: OrbitCamera
    hull: Hull
    view_z: Tensor
    """float32 [V, S, S], view z of the hull's front in each view, `NOTHING` beside it."""


@dataclass(frozen=True)
class OrbitFrame:
    """One drawn frame of S x S pixels, by any engine."""

    colour: Tensor
    """[3, S, S], 0 … 1, not multiplied by alpha."""
    alpha: Tensor
    """[S, S], 0 … 1."""
    view_z: Tensor
    """[S, S], view z of the surface [half frames], `NOTHING` beside the product."""
    visibility: Tensor
    """[S, S], 0 … 1: how certainly the photos saw what the colour shows."""


@dataclass(frozen=True)
class FramedPhotos:
    """The photos placed in the frame, before anything is known about the camera."""

    size: int
    azimuths_deg: tuple[float, ...]
    photos: Tensor
    """float32 [V, 3, S, S], 0 … 1."""
    colour: Tensor
    """As `photos`, but beyond the mask the colour of its nearest pixel is repeated."""
    alpha: Tensor
    """float32 [V, S, S], 0 … 1."""
    masks: NDArray[np.uint8]
    """uint8 [V, S, S]: `alpha` as bytes."""


def frame_photos(
    photos: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    azimuths: tuple[float, ...],
    placements: Sequence[Placement],
    size: int,
    device: str,
) -> FramedPhotos:
    """Place photos and masks in the frame."""
    rgb = np.stack([to_frame(photo, at, size) for photo, at in zip(photos, placements, strict=True)])
    cut = np.stack([to_frame(mask, at, size) for mask, at in zip(masks, placements, strict=True)])
    colour = np.stack([extended(image, mask) for image, mask in zip(rgb, cut, strict=True)])
    alpha = torch.tensor(cut, device=device).float() / 255
    return FramedPhotos(size, azimuths, _planes(rgb, device), _planes(colour, device), alpha, cut)


def carved_scene(framed: FramedPhotos, fit: Fit, voxels: int) -> OrbitScene:
    """The scene with the plain hull under a camera."""
    camera = OrbitCamera(fit.elevation_deg, fit.inverse_distance, fit.axis_x, fit.axis_y, fit.direction)
    silhouettes = silhouettes_of(framed.masks, framed.azimuths_deg, framed.alpha.device)
    hull = carve(silhouettes, camera, reach=_reach(framed.masks, camera), voxels=voxels)
    bare = OrbitScene(
        framed.size, framed.azimuths_deg, framed.photos, framed.colour, framed.alpha, camera, hull, view_z=framed.alpha
    )
    return seen_from_views(bare)


def silhouettes_of(
    masks: NDArray[np.uint8], azimuths: Sequence[float], device: str | torch.device
) -> list[tuple[Tensor, float]]:
    """Signed distances of masks [V, S, S] in the frame, with their azimuths, in the form that `carve` takes."""
    return [
        (torch.tensor(signed_distance(mask), device=device), azimuth)
        for mask, azimuth in zip(masks, azimuths, strict=True)
    ]


def _planes(images: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 [V, S, S, 3] -> float32 [V, 3, S, S], 0 … 1."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255


def seen_from_views(scene: OrbitScene) -> OrbitScene:
    """The scene with the view z of its current hull in each view."""
    fronts = [front(scene.hull, scene.camera, azimuth, scene.size // 2)[0] for azimuth in scene.azimuths_deg]
    return replace(scene, view_z=torch.stack([enlarged(filled(near), scene.size) for near in fronts]))


def unshifted(scene: OrbitScene, framed: FramedPhotos, fit: Fit) -> OrbitScene:
    """The scene with its photos as first placed, without the fit's shifts and scales; depths move with them.

    Its hull stays in the shifted frame.
    """
    u, v = frame_grid(framed.size, framed.alpha.device)
    moved = [
        # Not bilinear: there is no surface between a surface and the empty space beside it.
        sample(near[None], (u - du) / math.exp(log_scale), (v - dv) / math.exp(log_scale), mode="nearest")[0]
        for near, (du, dv, log_scale) in zip(scene.view_z, fit.shifts, strict=True)
    ]
    view_z = torch.stack([filled(near) for near in moved])
    return replace(scene, photos=framed.photos, colour=framed.colour, alpha=framed.alpha, view_z=view_z)


def outline_distances(scene: OrbitScene) -> Tensor:
    """Distance to the hull's outline in each view, [V, S, S] pixels; positive inside."""
    seen = [front(scene.hull, scene.camera, azimuth, scene.size // 2)[1] for azimuth in scene.azimuths_deg]
    return torch.stack([enlarged(distance, scene.size) for distance in seen])


def _reach(masks: NDArray[np.uint8], camera: OrbitCamera) -> tuple[float, float]:
    """Half extents that enclose the product: horizontal, vertical [half frames].

    The lowest or highest point of any view is in front of the axis or on it, seen from there. So it is at most as low or as
    high as the point of the axis that is seen at the same height.
    """
    boxes = np.array([mask_box(mask >= 128) for mask in masks]) / masks.shape[-1] * 2 - 1
    elevation = math.radians(camera.elevation_deg)
    slant = camera.inverse_distance * math.sin(elevation)
    heights = camera.axis_y - np.array([boxes[:, 2].min(), boxes[:, 3].max()])
    on_axis = heights / np.maximum(math.cos(elevation) + heights * slant, 0.2)
    up = float(np.abs(on_axis).max())
    # Things far from the camera look smaller: the lower end when it looks down.
    across = float(np.abs(boxes[:, :2] - camera.axis_x).max()) * (1 + abs(slant) * up)
    return SPARE * across, SPARE * up + (SPARE - 1) * across


def filled(view_z: Tensor, rings: int = 3) -> Tensor:
    """Extend the surface a few pixels beyond its rim, so that the outline's soft pixels have a depth."""
    for _ in range(rings):
        grown = functional.max_pool2d(view_z[None], 3, 1, 1)[0]
        view_z = torch.where(view_z > NOTHING / 2, view_z, grown)
    return view_z


def enlarged(image: Tensor, size: int) -> Tensor:
    """[s, s] -> [size, size], bilinear."""
    return functional.interpolate(image[None, None], (size, size), mode="bilinear", align_corners=False)[0, 0]


def extended(rgb: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Replace the colour of pixels that are not certainly product by that of the nearest one that is.

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
