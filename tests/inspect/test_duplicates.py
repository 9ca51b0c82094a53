"""Detection of the same photo under two names."""

from itertools import combinations

import cv2
import numpy as np
import pytest

from gapray.capture.decode import decode_photo
from gapray.inspect.duplicates import COARSE, difference, duplicates, fingerprints


@pytest.fixture(scope="module")
def views(samples):
    photos = [
        cv2.resize(decode_photo(file.read_bytes()), (480, 480), interpolation=cv2.INTER_AREA)
        for file in sorted((samples / "captures" / "mug").iterdir())
    ]
    # The samples' background is uniform, so its colour serves as a mask.
    masks = [((np.abs(photo.astype(int) - photo[2, 2]).max(-1) > 40) * 255).astype(np.uint8) for photo in photos]
    return photos, masks


def test_eight_views_are_eight_photos(views):
    assert duplicates(fingerprints(*views)) == []


def saved(photo, quality, side):
    _, data = cv2.imencode(".jpg", cv2.resize(photo, (side, side)), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, 1)


@pytest.mark.parametrize(("quality", "side"), [(95, 480), (60, 480), (80, 300)])
def test_a_copy_is_found_however_it_was_saved(views, quality, side):
    photos, masks = (list(column) for column in views)
    photos[6], masks[6] = saved(photos[1], quality, side), cv2.resize(masks[1], (side, side))
    assert duplicates(fingerprints(photos, masks)) == [(1, 6)]


def test_a_look_at_few_pixels_keeps_every_copy(views):
    """`duplicates` first compares one pixel in sixteen, which gives nearly the same difference as all pixels."""
    photos, masks = views
    for first, second in combinations(fingerprints(photos, masks), 2):
        assert difference(first, second, step=COARSE) == pytest.approx(difference(first, second), rel=0.1)


def test_photos_of_another_shape_are_other_photos(views):
    photos, masks = views
    assert duplicates(fingerprints([photos[0], photos[0][:400]], [masks[0], masks[0][:400]])) == []
