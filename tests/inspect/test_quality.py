"""Quality measurements, each of which must respond only to the defect that it is named after."""

import cv2
import numpy as np
import pytest

from gapray.inspect.quality import measure_quality


def photo(seed, height=150, light=1.0, tint=(1.0, 1.0, 1.0), blur=0.0, shift=0, side=320):
    """A speckled box in front of grey, and its mask."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 120.0)
    texture = cv2.resize(
        rng.integers(40, 200, (height // 5, 20, 3)).astype(np.float32), (100, height), interpolation=cv2.INTER_NEAREST
    )
    mask = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, 110 + shift
    width = min(100, side - left)
    image[top : top + height, left : left + width] = texture[:, :width]
    mask[top : top + height, left : left + width] = 255
    linear = (image / 255) ** 2.2 * light * np.array(tint)
    image = 255 * np.clip(linear, 0, 1) ** (1 / 2.2) + rng.normal(0, 1.0, image.shape)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return (cv2.GaussianBlur(image, (0, 0), blur) if blur else image), mask


def of(odd=None, at=3):
    pairs = [photo(index, **(odd or {}) if index == at else {}) for index in range(8)]
    return measure_quality([image for image, _ in pairs], [mask for _, mask in pairs])


def test_a_set_without_fault():
    for quality in of():
        assert quality.blur < 0.4 and 0.7 < quality.softer < 1.4 and quality.burnt == quality.black == quality.cut == 0
        assert abs(quality.exposure_ev) < 0.05 and quality.white_balance < 0.05
        assert quality.clutter < 0.01 and quality.unsure == 0


def test_blur():
    found = of({"blur": 3.0})
    assert found[3].softer > 1.5 and max(quality.softer for index, quality in enumerate(found) if index != 3) < 1.3


@pytest.mark.parametrize("stops", [-2.0, -1.0, 1.0])
def test_exposure_in_stops(stops):
    assert of({"light": 2.0**stops})[3].exposure_ev == pytest.approx(stops, abs=0.1)


def test_burnt_and_black():
    assert of({"light": 40.0})[3].burnt > 0.8
    assert of({"light": 0.0001})[3].black > 0.8


def test_white_balance_as_a_fraction():
    assert of({"tint": (1.2, 1.0, 1.0)})[3].white_balance == pytest.approx(0.2, abs=0.03)


def test_a_product_that_leaves_the_picture():
    found = of({"shift": 150})
    assert found[3].cut > 0.05 and found[2].cut == 0


def test_clutter_in_the_background():
    pairs = [photo(index) for index in range(8)]
    cluttered, mask = pairs[5]
    for step in range(14):
        cv2.rectangle(cluttered, (90, 70 + 12 * step), (230, 76 + 12 * step), (18 * step, 60, 200), -1)
    restored = np.where((cv2.dilate(mask, np.ones((5, 5))) > 0)[..., None], photo(5)[0], cluttered)
    pairs[5] = restored, mask
    found = measure_quality([image for image, _ in pairs], [mask for _, mask in pairs])
    assert found[5].clutter > 0.03 > found[4].clutter
