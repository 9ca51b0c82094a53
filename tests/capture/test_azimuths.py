import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapray.capture.angles import angle_difference, nearest_angle, rank_by_angle
from gapray.capture.azimuths import AzimuthOptions, orient, read_names
from gapray.errors import InputError


def azimuths_from_names(*given):
    return read_names(*given).azimuths


def names(numbers, pattern="shot_{:03d}.jpg"):
    return [pattern.format(number) for number in numbers]


def test_degrees_in_names():
    assert list(azimuths_from_names(names(range(0, 360, 45))).values()) == [0, 45, 90, 135, 180, 225, 270, 315]


def test_decimal_degrees_and_units():
    found = azimuths_from_names(["a_22.5deg.jpg", "a_112.5deg.jpg", "a_202.5deg.jpg", "a_292.5deg.jpg"])
    assert list(found.values()) == [22.5, 112.5, 202.5, 292.5]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("pattern", ["Name-{:02d}.png", "spin{}.png"])
def test_frame_numbers(first, pattern):
    found = azimuths_from_names([pattern.format(first + step) for step in range(12)])
    assert list(found.values()) == pytest.approx([30 * step for step in range(12)])


def test_numbers_sort_as_numbers():
    shuffled = [
        "f10.jpg",
        "f2.jpg",
        "f1.jpg",
        "f9.jpg",
        "f3.jpg",
        "f8.jpg",
        "f4.jpg",
        "f7.jpg",
        "f5.jpg",
        "f6.jpg",
        "f11.jpg",
        "f12.jpg",
    ]
    assert list(azimuths_from_names(shuffled)) == [f"f{step}.jpg" for step in range(1, 13)]


def test_closing_frame_at_360_is_dropped():
    assert list(azimuths_from_names(names(range(0, 361, 45))).values()) == [0, 45, 90, 135, 180, 225, 270, 315]


def test_360_without_0_is_the_front():
    assert azimuths_from_names(names(range(45, 361, 45)))["shot_360.jpg"] == 0


def test_nine_numbered_photos_ask():
    with pytest.raises(InputError, match="closing-frame") as error:
        azimuths_from_names(names(range(9)))
    assert error.value.code == "capture.ambiguous_azimuths"
    dropped = azimuths_from_names(names(range(9)), AzimuthOptions(closing_frame="drop"))
    assert list(dropped.values()) == [0, 45, 90, 135, 180, 225, 270, 315]
    kept = azimuths_from_names(names(range(9)), AzimuthOptions(closing_frame="keep"))
    assert list(kept.values()) == pytest.approx([40 * step for step in range(9)])


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([0, 45, 90, 180, 225, 270, 315], "capture.missing_views"),
        ([0, 45, 90], "capture.missing_views"),
        ([0, 45, 90, 135], "capture.missing_views"),
        ([0, 1, 2, 4, 5, 6, 7], "capture.ambiguous_azimuths"),
        (list(range(300)), "capture.ambiguous_azimuths"),
        (list(range(1204, 1212)), "capture.ambiguous_azimuths"),
        ([0, 120, 240, 500], "capture.ambiguous_azimuths"),
    ],
)
def test_refused(numbers, code):
    with pytest.raises(InputError) as error:
        azimuths_from_names(names(numbers))
    assert error.value.code == code


def test_flags_settle_what_names_leave_open():
    assert len(azimuths_from_names(names(range(300)), AzimuthOptions(names="index"))) == 300
    camera = azimuths_from_names(names(range(1204, 1212)), AzimuthOptions(names="index"))
    assert list(camera.values()) == [0, 45, 90, 135, 180, 225, 270, 315]
    seven = AzimuthOptions(allow_missing=True)
    assert len(azimuths_from_names(names([0, 45, 90, 180, 225, 270, 315]), seven)) == 7


def test_duplicates_are_named():
    with pytest.raises(InputError, match=r"a_045.jpg.*b_45.png|b_45.png.*a_045.jpg") as error:
        azimuths_from_names(["a_000.jpg", "a_045.jpg", "b_45.png", "a_090.jpg"])
    assert error.value.code == "capture.duplicate_azimuth"


def test_a_name_without_a_number_is_named():
    with pytest.raises(InputError, match="front.jpg"):
        azimuths_from_names(["front.jpg", "a_045.jpg"])


def test_direction_and_front():
    cw = azimuths_from_names(names(range(0, 360, 45)), AzimuthOptions(direction="cw"))
    assert cw["shot_045.jpg"] == 315
    front = azimuths_from_names(names(range(0, 360, 45)), AzimuthOptions(front=2))
    assert front["shot_090.jpg"] == 0
    assert front["shot_045.jpg"] == 315
    with pytest.raises(InputError, match="--front 9"):
        azimuths_from_names(names(range(0, 360, 45)), AzimuthOptions(front=9))


@given(st.integers(4, 120), st.integers(0, 1))
def test_any_even_turn_reads_back(count, first):
    found = azimuths_from_names(
        names(range(first, first + count), "x{}.jpg"), AzimuthOptions(names="index", closing_frame="keep")
    )
    assert list(found.values()) == pytest.approx([360 * step / count for step in range(count)])


@given(st.lists(st.floats(0, 359.99), min_size=1, max_size=20, unique=True), st.sampled_from(["ccw", "cw"]), st.data())
def test_orient_keeps_differences(values, direction, data):
    front = data.draw(st.integers(0, len(values) - 1))
    before = {str(index): value for index, value in enumerate(values)}
    after = orient(before, AzimuthOptions(direction=direction, front=front))
    sign = 1 if direction == "ccw" else -1
    zero = values[front] if front else 0
    for name, value in after.items():
        assert 0 <= value < 360
        assert abs((value - sign * (before[name] - zero) + 180) % 360 - 180) < 1e-5


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12))
def test_any_names_read_or_are_refused(texts):
    try:
        found = azimuths_from_names(texts)
    except InputError as error:
        assert error.code.startswith("capture.")
    else:
        assert all(0 <= value < 360 for value in found.values())


@given(st.integers(-1000, 1000), st.integers(-179, 179))
def test_the_shorter_way_between_azimuths(start, way):
    assert angle_difference(float(start + way), float(start)) == way
    assert angle_difference(float((start + way) % 360), float(start % 360)) == way
    assert angle_difference(start + 180.0, float(start)) == -180


@given(st.lists(st.floats(0, 359.9), min_size=1, max_size=12, unique=True), st.floats(-720, 720))
def test_azimuths_are_ranked_by_distance(azimuths, azimuth):
    ranked = rank_by_angle(azimuths, azimuth)
    distances = [abs(angle_difference(azimuths[index], azimuth)) for index in ranked]
    assert sorted(ranked) == list(range(len(azimuths))) and distances == sorted(distances)
    assert nearest_angle(azimuths, azimuth) == ranked[0]


def test_of_two_equally_near_azimuths_the_first_is_the_nearest():
    eight = [45.0 * step for step in range(8)]
    assert [nearest_angle(eight, middle) for middle in (22.5, 112.5, 292.5, 337.5)] == [0, 2, 6, 0]
    assert rank_by_angle(eight, 0.0) == [0, 1, 7, 2, 6, 3, 5, 4]
