import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from gapray.fidelity.metrics import identity_cosine, psnr, silhouette_iou, ssim
from gapray.fidelity.motion import flicker, loop_gap, turn_steps
from gapray.fidelity.stats import bootstrap

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_psnr_of_a_known_error():
    dark = np.zeros((8, 8, 3), np.uint8)
    assert psnr(dark, dark + 1) == pytest.approx(20 * np.log10(255))
    assert psnr(dark, dark) == 100


def test_ssim_equals_scikit_image():
    other = np.clip(IMAGE.astype(int) + rng.integers(-30, 31, IMAGE.shape), 0, 255).astype(np.uint8)
    expected = structural_similarity(
        IMAGE, other, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(IMAGE, other) == pytest.approx(expected, abs=1e-12)
    assert ssim(IMAGE, IMAGE) == pytest.approx(1)


@given(st.integers(0, 40), st.integers(1, 20))
def test_iou_of_shifted_squares(shift, side):
    first, second = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    first[:side, :side] = 255
    second[:side, shift : shift + side] = 255
    shared = max(0, side - shift)
    assert silhouette_iou(first, second) == pytest.approx(shared / (2 * side - shared))
    assert silhouette_iou(second, first) == silhouette_iou(first, second)


def test_cosine_uses_only_the_first_512_components():
    a, b = np.zeros(517, np.float32), np.zeros(517, np.float32)
    a[0] = b[0] = 2
    a[512:] = 9
    assert identity_cosine(a, b) == pytest.approx(1)
    assert identity_cosine(a, -b) == pytest.approx(-1)


def turning(frames=12):
    y, x = np.mgrid[:96, :96].astype(np.float32)
    made = []
    for index in range(frames):
        angle = 2 * np.pi * index / frames
        # A smooth texture that moves round a small circle: consecutive frames are explained by flow.
        at_x, at_y = x + 2 * np.cos(angle), y + 2 * np.sin(angle)
        grey = 128 + 50 * np.sin(at_x / 5) + 50 * np.cos(at_y / 7)
        made.append(np.repeat(grey[..., None], 3, 2).clip(0, 255).astype(np.uint8))
    return np.stack(made)


def test_flicker_detects_pulsing_brightness():
    steady = turning()
    masks = np.full(steady.shape[:3], 255, np.uint8)
    pumping = np.clip(steady * np.where(np.arange(12) % 2, 1.0, 0.85)[:, None, None, None], 0, 255).astype(np.uint8)
    assert flicker(steady, masks) < 0.02 < flicker(pumping, masks)
    assert flicker(steady, masks * 0) == 0


def test_loop_gap_detects_a_seam(lpips_alex):
    def gap(frames):
        return loop_gap(lpips_alex.distances(turn_steps(frames)))

    whole = turning()
    assert gap(whole) == pytest.approx(1, abs=0.5)
    half = np.concatenate([whole[:1], whole[:1], whole[:1], cv2.blur(whole[6], (9, 9))[None]])
    assert gap(half) > gap(whole)
    assert gap(np.repeat(whole[:1], 5, 0)) == 0


def test_bootstrap_interval_contains_the_mean():
    found = bootstrap([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5 and found.count == 4
    assert found.low < 2.5 < found.high
    assert bootstrap([2.0, 2.0]).high == 2.0
    assert bootstrap([1.0, 5.0]) == bootstrap([1.0, 5.0])
