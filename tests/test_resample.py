"""Against area averages by their definition, and what no resampling may do: step over pixels, move the picture."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.gap.images import encode_png
from gapray.geometry.frame import Placement, to_frame
from gapray.models.identity import ColourGradient
from gapray.resample import at_most, cropped, resized
from gapray.stills.composite import Composite
from gapray.stills.scene import load_scenes
from gapray.stills.sdxl.backend import on_grey
from gapray.stills.settings import StillSettings
from tests import make

RIM = 16
NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)


def area_averages(image, box, size, outside):
    """By the definition: each pixel of the result is the mean over its rectangle, pixels weighted by how much lies in it."""
    around = {"mode": "edge"} if outside is None else {"constant_values": outside}
    wide = np.pad(image.astype(float), ((RIM, RIM), (RIM, RIM), (0, 0)), **around)
    left, right, upper, lower = (edge + RIM for edge in box)

    def shares(begin, end, count, length):
        edges, pixels = np.linspace(begin, end, count + 1), np.arange(length)
        covered = np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None])
        return covered.clip(0) * count / (end - begin)

    rows, columns = shares(upper, lower, size[0], wide.shape[0]), shares(left, right, size[1], wide.shape[1])
    return np.einsum("yi,ijc,xj->yxc", rows, wide, columns, optimize=True)


@settings(deadline=None)
@given(
    st.tuples(*(st.floats(-8, 8) for _ in range(4))),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([None, 0, 200]),
)
def test_a_crop_that_shrinks_is_exact_area_averages(shifts, height, width, outside):
    image = NOISE[:30, :40]
    box = (4 + shifts[0], 36 + shifts[1], 4 + shifts[2], 26 + shifts[3])
    size = min(height, int(box[3] - box[2])), min(width, int(box[1] - box[0]))
    found = cropped(image, box, size, outside=outside)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    assert np.abs(found - area_averages(image, box, size, outside)).max() <= 0.51


@pytest.mark.parametrize("size", [(60, 80), (37, 53), (240, 100)])
def test_a_whole_picture_is_the_same_by_both_ways(size):
    whole = (0, NOISE.shape[1], 0, NOISE.shape[0])
    assert np.abs(resized(NOISE, size).astype(int) - cropped(NOISE, whole, size)).max() <= 1


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_each_side_is_averaged_or_grows_by_itself(h, w, height, width):
    """OpenCV's own INTER_AREA is bilinear for both sides as soon as one of them grows."""
    image = np.random.default_rng(h * 90 + w).integers(0, 256, (h, w), np.uint8)
    found = resized(image, (height, width), growth="linear")
    assert found.shape == (height, width)
    if height < h and width >= w:
        means = area_averages(np.dstack([image] * 3), (0, w, 0, h), (height, w), None)[..., 0]
        expected = cv2.resize(np.rint(means).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
        assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("growth", ["cubic", "linear"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_picture_at_its_own_size_is_itself(growth, dtype):
    image = NOISE.astype(dtype)
    assert np.array_equal(resized(image, image.shape[:2], growth=growth), image)
    assert np.array_equal(cropped(image, (0, 320, 0, 240), (240, 320), growth=growth), image)


@pytest.mark.parametrize("scale", [0.25, 0.6, 1.7, 4.0])
def test_nothing_moves(scale):
    """A soft spot stays where it is: pixels are areas, whose edges lie at whole numbers."""
    y, x = np.mgrid[:96, :128] + 0.5
    spot = (1000 * np.exp(-((x - 70.25) ** 2 + (y - 40.5) ** 2) / 200)).astype(np.float32)
    box = (10.25, 122.25, 3.5, 83.5)
    size = round(80 * scale), round(112 * scale)
    for image, left, upper in ((resized(spot, (round(96 * scale), round(128 * scale))), 0, 0), (cropped(spot, box, size), box[0], box[2])):  # fmt: skip
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        step = (112 / size[1]) if left else 128 / image.shape[1]
        assert (image * columns).sum() / image.sum() * step + left == pytest.approx(70.25, abs=0.25)
        step = (80 / size[0]) if left else 96 / image.shape[0]
        assert (image * rows).sum() / image.sum() * step + upper == pytest.approx(40.5, abs=0.25)


def test_longer_sides_shrink_and_never_grow():
    assert at_most(NOISE, 80).shape == (60, 80, 3)
    assert at_most(NOISE, 400) is NOISE


def noisy_view(side=1024):
    """A view whose product is grey noise of deviation 74 all over its middle."""
    view = make.package().views[0]
    inner = slice(side // 8, side - side // 8)
    photo = np.full((side, side, 3), 127, np.uint8)
    photo[inner, inner] = np.random.default_rng(1).integers(0, 256, (side * 3 // 4,) * 2 + (1,), np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[inner, inner] = 255
    return dataclasses.replace(view, reference=photo, mask=mask)


def deviation(image):
    """Of its middle, where no edge is."""
    h, w = image.shape[:2]
    return float(image[h * 3 // 8 : h * 5 // 8, w * 3 // 8 : w * 5 // 8].astype(float).std())


# White noise of deviation 74 has 74 / n when n x n pixels become one; where pixels are stepped over it keeps most of it.


def test_what_sdxl_sees_of_a_large_photo_is_averaged():
    assert deviation(on_grey(noisy_view(), 224)) == pytest.approx(74 / (768 * 1.1 / 224), rel=0.1)


def test_a_product_that_is_pasted_smaller_is_averaged():
    view, [scene] = noisy_view(), load_scenes(["marble-kitchen"])
    package = dataclasses.replace(make.package(), views=(view,))
    [still] = Composite().generate(package, view, scene, StillSettings(megapixels=1 / 16), seeds=[0])
    rows, columns = np.nonzero(still.placed >= 128)
    inside = still.image[rows.min() + 9 : rows.max() - 9, columns.min() + 9 : columns.max() - 9]
    assert inside.astype(float).std((0, 1)).mean() == pytest.approx(74 / (768 / np.ptp(rows)), rel=0.2)


def test_a_photo_laid_into_the_frame_is_averaged():
    photo = noisy_view().reference
    assert deviation(to_frame(photo, Placement(512, 512, 512), 256)) == pytest.approx(74 / 4, rel=0.05)
    # Four pixels a side, of which the first and the last are cut.
    cut = np.sqrt((0.7**2 + 3 + 0.3**2) / 16 * (0.6**2 + 3 + 0.4**2) / 16)
    assert deviation(to_frame(photo, Placement(512.3, 511.6, 512), 256)) == pytest.approx(74 * cut, rel=0.05)


def test_the_identity_of_a_fine_texture_is_that_of_its_means():
    """A coarse pattern under a fine weave: what is left when it is averaged is the pattern."""
    y, x = np.mgrid[:1024, :1024]
    pattern = np.where((x // 160 + y // 160) % 2, 90, 160)
    weave = np.where(np.random.default_rng(3).random((1024, 1024)) < 0.5, -80, 80)
    mask = np.zeros((1024, 1024, 1), np.uint8)
    mask[100:900, 203:911] = 255
    pictures = [np.repeat(picture.astype(np.uint8)[..., None], 3, -1) for picture in (pattern, pattern + weave)]
    plain, woven = ColourGradient().predict([np.dstack([picture, mask]) for picture in pictures])
    assert plain @ woven > 0.8


def test_a_16_bit_photo_is_averaged():
    noise = np.random.default_rng(2).integers(0, 65536, (512, 512)).astype(np.uint16)
    photo = decode_photo(encode_png(noise), DecodeSettings(reference_side=128))
    assert deviation(photo) < 74 / 4 * 1.3
