import cv2
import numpy as np
import pytest
import torch

from gapray.geometry.camera import OrbitCamera
from gapray.geometry.carve import NOTHING, carve, carved_by_fronts, front, mended
from gapray.geometry.depth_fusion import trusted_fronts
from gapray.geometry.rounding import rounded
from gapray.geometry.silhouettes import REACH_PX, signed_distance
from tests.geometry import scenes

CAMERA = OrbitCamera(15, 0.2, 0.02, -0.05)
REACH = (0.85, 0.85)


def silhouettes(masks, azimuths=scenes.EIGHT):
    return [(torch.tensor(signed_distance(mask)), azimuth) for mask, azimuth in zip(masks, azimuths, strict=True)]


def iou(inside, mask):
    found, true = (inside > 0).numpy(), mask > 127
    return (found & true).sum() / (found | true).sum()


def test_signed_distance_counts_pixels_from_the_outline():
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 10:30] = 255
    distance = signed_distance(mask)
    assert distance[20, 10] == pytest.approx(0.5) and distance[20, 9] == pytest.approx(-0.5)
    assert distance[20, 12] == pytest.approx(2.5, abs=0.1) and distance[20, 5] == pytest.approx(-4.5, abs=0.1)
    assert distance.min() >= -REACH_PX and distance.max() <= REACH_PX


@pytest.mark.parametrize("solid", [scenes.box, scenes.cylinder, scenes.letter])
def test_the_hull_shows_the_product_at_angles_that_no_photo_has(solid):
    masks, _, _ = scenes.shoot(solid, CAMERA)
    hull = carve(silhouettes(masks), CAMERA, reach=REACH, voxels=96)
    for azimuth in (0.0, 22.5, 100.0):
        mask, view_z, _ = scenes.look(solid, CAMERA, azimuth)
        seen, inside = front(hull, CAMERA, azimuth, 96)
        assert iou(inside, mask) > 0.93
        both = (mask > 0) & (seen.numpy() > NOTHING / 2)
        assert (seen.numpy()[both] - view_z[both]).mean() > -0.02  # a hull is never behind its product
        assert np.median(np.abs(seen.numpy()[both] - view_z[both])) < 0.1


def test_a_photo_that_cuts_the_product_does_not_carve_beyond_its_edge():
    camera = OrbitCamera(0, 0, 0, 0.55)
    masks, _, _ = scenes.shoot(scenes.box, camera)
    assert (masks[:, -1] > 0).any()  # its foot is below the frame
    hull = carve(silhouettes(masks), camera, reach=(0.8, 0.7), voxels=64)
    assert float(hull.at(torch.tensor([0.0, -0.5, 0.0]))) > 0


def test_rounding_takes_ridges_off_a_cylinder_and_none_off_a_box():
    for solid, expected in ((scenes.cylinder, True), (scenes.box, False)):
        masks, _, _ = scenes.shoot(solid, CAMERA, size=128)
        hull = carve(silhouettes(masks), CAMERA, reach=REACH, voxels=96)
        smooth = rounded(hull, CAMERA, scenes.EIGHT, 128)
        truth, _, _ = scenes.look(solid, CAMERA, 22.5, 128)
        before, after = (iou(front(shape, CAMERA, 22.5, 128)[1], truth) for shape in (hull, smooth))
        if expected:
            assert 1 - after < 0.75 * (1 - before)
        else:
            assert after > before - 0.004


def test_rounding_does_not_depend_on_the_number_of_threads():
    """Regression: OpenCV's distances do, in the last bit, so equal runs once made different videos."""
    masks, _, _ = scenes.shoot(scenes.cylinder, CAMERA, size=96)
    hull = carve(silhouettes(masks), CAMERA, reach=REACH, voxels=32)
    usual = cv2.getNumThreads()
    try:
        found = set()
        for threads in (1, 2, 3, 5, 8):
            cv2.setNumThreads(threads)
            found |= {rounded(hull, CAMERA, scenes.EIGHT, 96).field.numpy().tobytes() for _ in range(4)}
    finally:
        cv2.setNumThreads(usual)
    assert len(found) == 1


def test_one_wrong_mask_is_outvoted():
    masks, _, _ = scenes.shoot(scenes.box, CAMERA)
    wrong = masks.copy()
    rows = np.flatnonzero(wrong[2].any(1))
    wrong[2, rows[len(rows) // 2] :] = 0  # one mask lost the lower half
    lines = silhouettes(wrong)
    hull = carve(lines, CAMERA, reach=REACH, voxels=80)
    insides = torch.stack([front(hull, CAMERA, azimuth, 96)[1] for azimuth in scenes.EIGHT])
    uncovered = (insides < -1) & (torch.tensor(wrong) > 127)
    better = mended(hull, lines, CAMERA, uncovered)
    truth, _, _ = scenes.look(scenes.box, CAMERA, 22.5)
    assert iou(front(hull, CAMERA, 22.5, 96)[1], truth) < 0.7
    assert iou(front(better, CAMERA, 22.5, 96)[1], truth) > 0.9


def test_a_depth_network_shows_the_pit_that_no_outline_does():
    masks, fronts, _ = scenes.shoot(scenes.bowl, CAMERA)
    hull = carve(silhouettes(masks), CAMERA, reach=REACH, voxels=96)
    seen = torch.stack([front(hull, CAMERA, azimuth, 96)[0] for azimuth in scenes.EIGHT])
    network = torch.tensor(np.where(masks > 0, (fronts + 2) / 4, 0)).float()  # correct up to one scale and shift
    alpha = torch.tensor(masks).float() / 255
    trusted = trusted_fronts(seen, network, alpha, scenes.EIGHT, CAMERA)
    deep = carved_by_fronts(hull, trusted, scenes.EIGHT, CAMERA)
    mask, truth, _ = scenes.look(scenes.bowl, CAMERA, 15.0)
    flat, pitted = (front(carved, CAMERA, 15.0, 96)[0].numpy() for carved in (hull, deep))
    pit = (mask > 0) & (flat - truth > 0.15)
    assert pit.mean() > 0.03
    assert np.abs(pitted - truth)[pit].mean() < 0.5 * np.abs(flat - truth)[pit].mean()


def test_depth_that_views_disagree_on_is_not_trusted():
    masks, fronts, _ = scenes.shoot(scenes.box, CAMERA)
    hull = carve(silhouettes(masks), CAMERA, reach=REACH, voxels=64)
    seen = torch.stack([front(hull, CAMERA, azimuth, 96)[0] for azimuth in scenes.EIGHT])
    noise = torch.tensor(np.random.default_rng(0).random(fronts.shape), dtype=torch.float32)
    alpha = torch.tensor(masks).float() / 255
    trusted = trusted_fronts(seen, torch.where(alpha > 0, noise + 0.01, 0), alpha, scenes.EIGHT, CAMERA)
    assert not (trusted > NOTHING / 2).any()


def test_a_product_that_nearly_touches_the_photos_edge_ends_there():
    """Regression: the outline's distance was extrapolated past the edge, and a level of -2 pixels took that for product."""
    camera = OrbitCamera(0, 0, 0, 0.0)
    mask = np.zeros((96, 96), np.uint8)
    mask[40:95, 30:66] = 255  # one row of background below
    hull = carve(silhouettes([mask] * 8), camera, reach=(0.6, 1.4), voxels=64)
    for below in (-1.1, -1.2, -1.35):
        assert float(hull.at(torch.tensor([0.0, below, 0.0]))) < -2
