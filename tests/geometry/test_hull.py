import json

import cv2
import numpy as np
import pytest

from gapray.geometry.camera import camera_axes
from gapray.geometry.hull import hull_view_z

AZIMUTHS = [45.0 * step for step in range(8)]


def ball_masks(radius=40, size=128):
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return [(x**2 + y**2) < radius**2] * 8


def box_masks(half=(0.5, 0.7, 0.2), elevation=15.0, size=160):
    """Silhouettes of an upright box under orthographic cameras, as filled convex hulls of its corners."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    masks = []
    for azimuth in AZIMUTHS:
        seen = corners @ camera_axes(azimuth, elevation).T
        pixels = np.stack([seen[:, 0], -seen[:, 1]], 1) * size / 2.2 + size / 2
        mask = np.zeros((size, size), np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(pixels.astype(np.int32)), 1)
        masks.append(mask > 0)
    return masks


def test_a_ball_bulges_towards_every_camera():
    for mask, view_z in zip(ball_masks(), hull_view_z(ball_masks(), AZIMUTHS, 0.0), strict=True):
        rim = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((9, 9))).astype(bool)
        assert view_z[64, 64] > 0.8
        assert view_z[64, 64] > view_z[rim].max() - 0.25
        assert (view_z[~mask] == 0).all()


def test_a_flat_box_is_nearer_when_seen_edge_on():
    maps = hull_view_z(box_masks(), AZIMUTHS, 15.0)
    centre = [view_z[80, 80] for view_z in maps]
    assert centre[2] > centre[0] + 0.2
    assert centre[6] == pytest.approx(centre[2], abs=0.08)
    assert centre[4] == pytest.approx(centre[0], abs=0.08)


def test_individually_cropped_masks_are_brought_to_one_scale():
    cropped = []
    for mask in box_masks():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        cropped.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    maps = hull_view_z(cropped, AZIMUTHS, 15.0)
    assert [view_z.shape for view_z in maps] == [mask.shape for mask in cropped]
    middle = [view_z[view_z.shape[0] // 2, view_z.shape[1] // 2] for view_z in maps]
    assert middle[2] > middle[0] + 0.15


@pytest.mark.parametrize(("product", "min_correlation"), [("supplement", 0.8), ("mug", 0.4)])
def test_hull_depth_agrees_with_the_samples_true_depth(samples, product, min_correlation):
    folder = samples / "truth" / product
    camera = json.loads((folder / "camera.json").read_text())
    masks = [cv2.imread(str(folder / f"mask_{int(azimuth):03d}.png"), 0) > 0 for azimuth in AZIMUTHS]
    maps = hull_view_z(masks, AZIMUTHS, camera["elevation_deg"])
    for azimuth, mask, view_z in zip(AZIMUTHS, masks, maps, strict=True):
        depth = cv2.imread(str(folder / f"depth_{int(azimuth):03d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.corrcoef(-depth[mask].astype(float), view_z[mask])[0, 1] > min_correlation


def test_bad_masks_are_refused():
    with pytest.raises(ValueError, match="empty"):
        hull_view_z([np.zeros((8, 8), bool)], [0.0], 0.0)
    with pytest.raises(ValueError, match="azimuths"):
        hull_view_z(ball_masks(), [0.0], 0.0)
