"""Round off the ridges of a hull from few views that no photo shows.

Eight silhouettes of a cylinder carve an octagonal prism: each facet touches the cylinder, each ridge stands off it. A
morphological opening of every horizontal slice rounds convex corners and leaves facets where they are. A corner of a real
box looks the same to the opening, but some photo shows it as part of the outline; what the photos need is restored.
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
"""Slices are enlarged by this factor, because distances between the pixel centres of a coarse slice are coarse."""
RADIUS_FRACTION = 0.9
"""Radius of the opening, as a fraction of the slice's largest inscribed circle."""
SPARE_PX = 0.4
"""An outline may move inwards by this much before it counts as lost [frame pixels at a size of 256]."""


def rounded(hull: Hull, camera: OrbitCamera, azimuths_deg: Sequence[float], size: int) -> Hull:
    """Round every ridge of the hull that no outline needs.

    Args:
        hull: From `gapray.geometry.carve.carve`.
        camera: The hull's camera.
        azimuths_deg: One azimuth a view.
        size: Side of the frame in whose pixels the field is measured.
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
    # Whole neighbourhoods are restored, so that no step is left between restored and rounded parts.
    keep = functional.max_pool3d(needed[None, None], 5, 1, 2)[0, 0] > 0
    return replace(hull, field=torch.where(keep, hull.field, torch.minimum(hull.field, opened.field)))


def _opened(hull: Hull, size: int) -> Hull:
    """Open each horizontal slice with a disc; distances stay in frame pixels."""
    voxels = hull.field.shape[0]
    fine = voxels * FINENESS
    pixels = 2 * hull.reach[0] / fine * size / 2  # frame pixels in a step of the enlarged slice
    slices: NDArray[np.float32] = (hull.field - hull.level).permute(1, 0, 2).cpu().numpy()
    result = np.full_like(slices, float(hull.field.min()))
    for index, plane in enumerate(slices):
        if plane.max() <= 0:
            continue
        inside = (cv2.resize(plane, (fine, fine), interpolation=cv2.INTER_LINEAR) > 0).astype(np.uint8)
        depth = _distance(inside)
        radius = RADIUS_FRACTION * float(depth.max())
        reach = _distance((depth < radius).astype(np.uint8))
        result[index] = cv2.resize((radius - reach) * pixels, (voxels, voxels), interpolation=cv2.INTER_AREA)
    field = torch.tensor(result, device=hull.field.device).permute(1, 0, 2) + hull.level
    return replace(hull, field=torch.minimum(hull.field, field))


def _distance(inside: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel from the nearest 0, in pixels.

    The last bit of OpenCV's square roots depends on how its threads divide up the rows (OpenCV 5.0). Squared distances are
    integers: rounding to them gives the same hull every time, and with it the same video.
    """
    rough = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(np.square(rough))), np.float32)
