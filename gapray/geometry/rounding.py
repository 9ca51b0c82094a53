"""Round off the ridges that a hull of few views has and no photo shows.

Eight silhouettes of a cylinder carve an octagonal prism: each facet touches the cylinder, each ridge stands off it. A
morphological opening of every horizontal slice rounds convex corners and leaves facets where they are. A corner of a real
box looks the same to it, but there some photo shows the corner as its outline; what the photos need is put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from gapray.geometry.camera import OrbitCamera, sample
from gapray.geometry.carve import Hull, front, lattice

FINENESS = 3
"""Slices are enlarged so much, because distances between pixel centres of a coarse slice are coarse."""
RADIUS_SHARE = 0.9
"""Radius of the opening, as a share of the slice's largest inscribed circle."""
SPARE_PX = 0.4
"""An outline may move inwards by this much before it counts as lost [frame pixels at a size of 256]."""


def rounded(hull: Hull, camera: OrbitCamera, azimuths_deg: Sequence[float], size: int) -> Hull:
    """The hull with every ridge rounded that no outline needs.

    Args:
        hull: From `gapray.geometry.carve.carve`.
        camera: Its camera.
        azimuths_deg: One a view.
        size: Of the frame whose pixels the field counts.
    """
    opened = _opened(hull, size)
    small = max(size // 2, 64)
    points = lattice(hull.reach, hull.field.shape[0], hull.field.device)
    removed = (hull.field > 0) & (opened.field <= 0)
    needed = torch.zeros_like(hull.field)
    spare = SPARE_PX * size / 256
    for azimuth in azimuths_deg:
        _, before = front(hull, camera, azimuth, small)
        _, after = front(opened, camera, azimuth, small)
        lost = ((before > spare) & (after < 0)).float()
        if not lost.any():
            continue
        u, v, _ = camera.project(points, azimuth)
        near = functional.max_pool2d(lost[None], 5, 1, 2)
        needed = torch.maximum(needed, (sample(near, u, v)[0] > 0.25) & removed)
    # Whole neighbourhoods go back, so that no step is left between what was put back and what was rounded.
    keep = functional.max_pool3d(needed[None, None], 5, 1, 2)[0, 0] > 0
    return replace(hull, field=torch.where(keep, hull.field, torch.minimum(hull.field, opened.field)))


def _opened(hull: Hull, size: int) -> Hull:
    """Opening of each horizontal slice by a disc; distances are kept in frame pixels."""
    voxels = hull.field.shape[0]
    fine = voxels * FINENESS
    pixels = 2 * hull.reach[0] / fine * size / 2  # frame pixels in a step of the enlarged slice
    slices: NDArray[np.float32] = (hull.field - hull.level).permute(1, 0, 2).cpu().numpy()
    result = np.full_like(slices, float(hull.field.min()))
    for index, one in enumerate(slices):
        if one.max() <= 0:
            continue
        inside = (cv2.resize(one, (fine, fine), interpolation=cv2.INTER_LINEAR) > 0).astype(np.uint8)
        depth = _distance(inside)
        radius = RADIUS_SHARE * float(depth.max())
        reach = _distance((depth < radius).astype(np.uint8))
        result[index] = cv2.resize((radius - reach) * pixels, (voxels, voxels), interpolation=cv2.INTER_AREA)
    field = torch.tensor(result, device=hull.field.device).permute(1, 0, 2) + hull.level
    return replace(hull, field=torch.minimum(hull.field, field))


def _distance(inside: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel from the nearest 0, in pixels.

    OpenCV's square roots differ in the last bit with how its threads happened to share the rows (5.0). Squared distances are
    integers: rounded to them, the same hull comes out each time, and with it the same video.
    """
    rough = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(np.square(rough))), np.float32)
