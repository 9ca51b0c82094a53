import cv2
import numpy as np
import pytest

from gapray.errors import InputError
from gapray.gap.settings import MaskSettings
from gapray.packaging.silhouette import apply_backdrop_key, clean_up, silhouette


def disc(size=200, radius=60, centre=(100, 100)):
    y, x = np.mgrid[:size, :size]
    return (((x - centre[0]) ** 2 + (y - centre[1]) ** 2) < radius**2).astype(np.uint8) * 255


def iou(a, b):
    a, b = a >= 128, b >= 128
    return (a & b).sum() / (a | b).sum()


def test_cleaning_keeps_the_largest_part_and_handles():
    mask = disc()
    mask[disc(radius=25) > 0] = 0  # the opening of a handle: 17 % of the product
    mask[60:63, 100] = 0  # a pin hole
    mask[5:15, 5:15] = 255  # a speck
    tidy = clean_up(mask, max_hole_share=0.002)
    assert (tidy[5:15, 5:15] == 0).all()
    assert (tidy[60:63, 100] == 255).all()
    assert (tidy[disc(radius=20) > 0] == 0).all()


def test_cleaning_makes_the_inside_opaque_and_leaves_the_edge_soft():
    mask = disc()
    mask[90:110, 90:110] = 140
    soft = cv2.GaussianBlur(mask, (5, 5), 0)
    tidy = clean_up(soft, 0.002)
    assert (tidy[90:110, 90:110] == 255).all()
    assert ((tidy > 0) & (tidy < 255)).any()


def test_cleaning_leaves_an_empty_mask_alone():
    empty = np.zeros((50, 50), np.uint8)
    assert np.array_equal(clean_up(empty, 0.01), empty)


@pytest.mark.parametrize("backdrop", [(255, 255, 255), (90, 140, 90)])
def test_a_plain_backdrop_sharpens_a_blurred_mask(backdrop):
    rng = np.random.default_rng(0)
    truth = disc()
    photo = np.where(truth[..., None] > 0, (120, 30, 40), backdrop) + rng.normal(0, 1.0, (200, 200, 3))
    photo = np.clip(photo, 0, 255).astype(np.uint8)
    blurred = cv2.dilate(truth, np.ones((3, 3), np.uint8))
    assert iou(apply_backdrop_key(photo, blurred), truth) > iou(blurred, truth)
    assert iou(apply_backdrop_key(photo, blurred), truth) > 0.985


def test_a_key_that_disagrees_with_the_network_is_discarded():
    rng = np.random.default_rng(0)
    clutter = rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)
    assert np.array_equal(apply_backdrop_key(clutter, disc()), disc())
    plain = np.full((200, 200, 3), 200, np.uint8)  # a product of the backdrop's own colour
    assert np.array_equal(apply_backdrop_key(plain, disc()), disc())


@pytest.mark.parametrize(("radius", "code"), [(5, "mask.too_small"), (400, "mask.too_large")])
def test_shares_are_limited(radius, code):
    photo = np.full((200, 200, 3), 128, np.uint8)
    with pytest.raises(InputError) as error:
        silhouette(photo, disc(radius=radius), MaskSettings())
    assert error.value.code == code
    assert "%" in error.value.message
