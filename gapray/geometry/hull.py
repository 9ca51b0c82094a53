"""Depth from silhouettes alone, for profiles without a depth network: each photo's view of the product's visual hull.

Fast by design: a level orthographic camera at a given elevation and a coarse hull. The orbit calibrates its own camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gapray.geometry.camera import OrbitCamera
from gapray.geometry.carve import NOTHING, carve, front
from gapray.geometry.frame import Placement, lay_out, to_frame
from gapray.geometry.silhouettes import signed_distance
from gapray.resample import cropped

SIZE = 96
"""Side of the frame [pixels]."""
VOXELS = 64
"""Voxels along each side of the hull's field."""
SLACK_PX = 1.0
"""The hull is fuller than the silhouettes by this much, because what is carved too tightly is lost for good [frame pixels]."""


@torch.no_grad()
def hull_view_z(
    masks: Sequence[NDArray[np.bool_]], azimuths_deg: Sequence[float], elevation_deg: float
) -> list[NDArray[np.float32]]:
    """View z of the hull's front in each view.

    Args:
        masks: One silhouette for each view, bool [H, W] each, none empty; sizes may differ.
        azimuths_deg: One azimuth for each view [degrees].
        elevation_deg: The camera's elevation, the same for all views [degrees].

    Returns:
        float32 [H, W] for each view: distance of the front surface from the turning axis towards the camera, in half sides
        of the frame that holds the product (about -1 … 1, larger is nearer), on one scale for all views. Every pixel inside
        a mask has a value; pixels that the hull does not reach take their nearest neighbour's. Outside it is 0.

    Raises:
        ValueError: The numbers of masks and azimuths differ, or a mask is empty.
    """
    if len(masks) != len(azimuths_deg):
        raise ValueError(f"{len(masks)} masks for {len(azimuths_deg)} azimuths")
    placements = lay_out(masks, framing="product", margin=0.05).placements
    laid = [to_frame(mask.astype(np.uint8) * 255, at, SIZE) for mask, at in zip(masks, placements, strict=True)]
    camera = OrbitCamera(elevation_deg, 0.0, 0.0, 0.0)
    silhouettes = [
        (torch.from_numpy(signed_distance(alpha)), azimuth) for alpha, azimuth in zip(laid, azimuths_deg, strict=True)
    ]
    hull = replace(carve(silhouettes, camera, reach=(1.0, 1.0), voxels=VOXELS), level=-SLACK_PX)
    return [
        _in_photo(front(hull, camera, azimuth, SIZE)[0].numpy(), mask, at)
        for mask, azimuth, at in zip(masks, azimuths_deg, placements, strict=True)
    ]


def _in_photo(view_z: NDArray[np.float32], mask: NDArray[np.bool_], at: Placement) -> NDArray[np.float32]:
    """Transfer a map from the frame back to the photo, filled up to the mask's edge."""
    missed = (view_z < NOTHING / 2).astype(np.uint8)
    if missed.all():
        return np.zeros(mask.shape, np.float32)
    _, labels = cv2.distanceTransformWithLabels(missed, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    value_of_label = np.zeros(int(labels.max()) + 1, np.float32)
    value_of_label[labels[missed == 0]] = view_z[missed == 0]
    left, _, upper, _ = at.box
    scale = SIZE / (2 * at.half)
    height, width = mask.shape
    photo = -left * scale, (width - left) * scale, -upper * scale, (height - upper) * scale
    full = cropped(value_of_label[labels], photo, (height, width), outside=None, growth="linear")
    return np.where(mask, full, 0).astype(np.float32)
