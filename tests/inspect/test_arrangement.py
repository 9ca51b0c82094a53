"""Azimuths of photos, estimated from the photos alone."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.capture.angles import angle_difference
from gapray.capture.decode import decode_photo
from gapray.gap.settings import MaskSettings
from gapray.inspect.arrangement import align_azimuths, arrange
from gapray.packaging.silhouette import silhouette

pytestmark = pytest.mark.timeout(300)
NAMED = [45.0 * step for step in range(8)]


@pytest.fixture(scope="module")
def turn(samples, mask_network):
    """The sample mug every 15 degrees: azimuth -> photo and mask."""
    found = {}
    for folder in ("captures", "held_out"):
        for file in (samples / folder / "mug").iterdir():
            photo = cv2.resize(decode_photo(file.read_bytes()), (480, 480), interpolation=cv2.INTER_AREA)
            [soft] = mask_network.predict([photo])
            found[int(file.stem[-3:])] = photo, silhouette(photo, soft, MaskSettings())
    return found


def arranged(turn, shown, named=NAMED, mirrored=()):
    pairs = [turn[angle % 360] for angle in shown]
    pairs = [
        tuple(np.ascontiguousarray(x[:, ::-1]) for x in pair) if i in mirrored else pair for i, pair in enumerate(pairs)
    ]
    return arrange([photo for photo, _ in pairs], [mask for _, mask in pairs], named)


def off(found, expected):
    return np.abs(angle_difference(np.array(found.azimuths_deg), np.asarray(expected, float)))


@pytest.mark.long
def test_photos_at_their_angles_stay_there(turn):
    found = arranged(turn, range(0, 360, 45))
    assert found.direction == 1 and not any(found.mirrored) and all(found.determined)
    assert off(found, NAMED).max() < 4


@pytest.mark.long
def test_two_photos_that_were_exchanged(turn):
    shown = [0, 45, 225, 135, 180, 90, 270, 315]
    found = arranged(turn, shown)
    assert off(found, shown).max() < 5 and found.direction == 1 and not any(found.mirrored)
    assert found.cost < 0.8 * found.named_cost


@pytest.mark.long
def test_a_photo_that_was_taken_fifteen_degrees_too_late(turn):
    shown = [0, 45, 90, 150, 180, 225, 270, 315]
    assert off(arranged(turn, shown), shown).max() < 5


@pytest.mark.long
def test_a_mirrored_photo(turn):
    found = arranged(turn, range(0, 360, 45), mirrored={2})
    assert [index for index, mirrored in enumerate(found.mirrored) if mirrored] == [2]
    assert off(found, NAMED).max() < 5


@pytest.mark.long
def test_a_turn_that_runs_the_other_way(turn):
    found = arranged(turn, [-angle for angle in range(0, 360, 45)])
    assert found.direction == -1 and off(found, [-angle for angle in NAMED]).max() < 4


@pytest.mark.long
def test_a_product_that_looks_the_same_from_all_sides_is_not_observable():
    photo = np.full((160, 160, 3), 230, np.uint8)
    mask = np.zeros((160, 160), np.uint8)
    cv2.ellipse(mask, (80, 80), (40, 55), 0, 0, 360, 255, -1)
    photo[mask > 0] = (180, 40, 40)
    found = arrange([photo] * 8, [mask] * 8, NAMED)
    assert not found.observable and not any(found.determined)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=8, max_size=8),
    st.floats(0, 360),
    st.sampled_from([1, -1]),
    st.integers(0, 7),
)
def test_align_azimuths_finds_the_zero_and_the_direction(noise, zero, direction, wrong):
    named = np.array(NAMED)
    true = (direction * named + np.array(noise)) % 360
    found = (true + zero) % 360
    found[wrong] = (found[wrong] + 100) % 360
    shown, way = align_azimuths(found, named)
    assert way == direction
    others = [index for index in range(8) if index != wrong]
    assert np.abs(angle_difference(shown, direction * named))[others].max() < 7
    assert abs(abs(angle_difference(float(shown[wrong]), float(true[wrong]))) - 100) < 10
