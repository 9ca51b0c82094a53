"""Several photos of each view: exposure brackets and bursts, which numbers alone would spread over the turn."""

import numpy as np
import pytest

from gapray.inspect.bursts import burst_size
from gapray.inspect.doubts import photo_warnings
from gapray.inspect.duplicates import fingerprints
from tests.inspect.test_odd import drawn

RNG = np.random.default_rng(0)


def exposed(view, gain):
    """A photo with so many times the light, and noise of its own."""
    photo, mask = view
    light = (photo / 255.0) ** 2.2 * gain
    noise = RNG.normal(0, 2, photo.shape)
    return np.clip(255 * np.clip(light, 0, 1) ** (1 / 2.2) + noise, 0, 255).astype(np.uint8), mask


def brackets(views, gains):
    return [exposed(drawn(360.0 * step / views), gain) for step in range(views) for gain in gains]


@pytest.mark.parametrize("views", [6, 8, 12])
@pytest.mark.parametrize("gains", [(1, 0.5), (1, 0.45, 1.6), (1, 1, 1), (1, 0.7, 0.5, 1.3, 1.6)])
def test_each_view_was_taken_several_times(views, gains):
    assert burst_size(fingerprints(*zip(*brackets(views, gains), strict=True))) == len(gains)


@pytest.mark.parametrize("count", [8, 12, 16, 24])
@pytest.mark.parametrize("seed", range(2))
def test_photos_of_a_turn_are_views_of_their_own(count, seed):
    assert (
        burst_size(fingerprints(*zip(*(drawn(360.0 * step / count, seed) for step in range(count)), strict=True)))
        is None
    )


def test_a_turn_in_which_one_photo_was_taken_three_times_is_no_series_of_bursts():
    views = [drawn(15.0 * step) for step in range(24)]
    views[4] = views[5] = views[3]
    assert burst_size(fingerprints(*zip(*views, strict=True))) is None


def test_the_warning_names_the_first_burst():
    photos, masks = zip(*brackets(8, (1, 0.45, 1.6)), strict=True)
    names = [f"DSC_{number:04d}.jpg" for number in range(1, 25)]
    [warning] = photo_warnings(names, photos, masks)
    assert warning.code == "azimuth.burst"
    assert warning.message.startswith(
        "DSC_0001.jpg, DSC_0002.jpg, DSC_0003.jpg: 3 photos each show the same view, 8 views"
    )
