"""Faults of photos and masks."""

from dataclasses import replace

import cv2
import numpy as np

from gapray.geometry.frame import mask_box
from training.phone import Session, cropped, cut_out, outlined, own_crop, photographed

CLEAN = Session(0, 0, 0, 0, (99, 100), 0, 0, 0, 0.5, False)
BAD = Session(0.2, 0.06, 0.03, 1.0, (60, 70), 2.0, 1.0, 1.5, 0.4, False)


def disc(size=128, radius=40):
    mask = np.zeros((size, size), np.uint8)
    return cv2.circle(mask, (size // 2 + 8, size // 2), radius, 255, -1, cv2.LINE_AA)


def scene(size=128):
    y, x = np.mgrid[:size, :size] / size
    return np.stack([x, y, 0.5 + 0.2 * np.sin(20 * x)], -1).astype(np.float32)


def test_a_careful_photo_is_nearly_the_scene_and_a_careless_one_is_not():
    truth = scene() * 255
    careful = photographed(np.random.default_rng(0), scene(), CLEAN)
    careless = np.mean([np.abs(photographed(np.random.default_rng(k), scene(), BAD) - truth).mean() for k in range(6)])
    assert np.abs(careful - truth).mean() < 3 < careless


def test_mask_errors_stay_near_the_outline():
    alpha = disc()
    assert cut_out(np.random.default_rng(0), alpha, CLEAN) is alpha
    for seed in range(20):
        mask = cut_out(np.random.default_rng(seed), alpha, BAD)
        both, either = ((mask >= 128) & (alpha >= 128)).sum(), ((mask >= 128) | (alpha >= 128)).sum()
        assert mask.dtype == np.uint8 and 0.75 < both / either < 1
        assert mask[:10, :10].max() == 0 and mask[60:68, 68:76].min() == 255


def test_frames_have_the_rim_that_the_masks_of_a_product_have_in_common():
    alpha = disc()
    assert outlined(alpha, CLEAN) is alpha
    for level, wider in ((0.25, 1), (0.75, -1)):
        session = replace(BAD, level=level)
        common = int((outlined(alpha, session) >= 128).sum())
        photos = [int((cut_out(np.random.default_rng(seed), alpha, session) >= 128).sum()) for seed in range(40)]
        assert (common - int((alpha >= 128).sum())) * wider > 0
        assert abs(np.median(photos) / common - 1) < 0.01


def test_a_mask_is_never_lost():
    wire = np.zeros((128, 128), np.uint8)
    wire[20:100, 64] = 255
    for seed in range(30):
        assert (cut_out(np.random.default_rng(seed), wire, BAD) >= 128).sum() >= 0.6 * 80


def test_an_own_crop_centres_the_product():
    mask = disc()
    place = own_crop(mask, np.random.default_rng(0))
    left, right, upper, lower = mask_box(cropped(mask, place, outside=0) >= 128)
    assert abs((left + right) / 2 - 64) <= 1 and abs((upper + lower) / 2 - 64) <= 1


def test_sessions_differ_and_are_reproducible():
    found = [Session.random(np.random.default_rng(seed)) for seed in range(200)]
    assert found[0] == Session.random(np.random.default_rng(0))
    assert 5 < sum(session.own_crops for session in found) < 50 and any(session.mask == 0 for session in found)
    assert max(session.azimuth for session in found) <= 2.0
