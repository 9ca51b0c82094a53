import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapray.orbit.weights import even_orbit, key_views, neighbours, view_weights

views = st.lists(st.integers(0, 359), min_size=1, max_size=12, unique=True)
frames = st.lists(st.floats(0, 359.9), min_size=1, max_size=30)


@given(frames, views)
def test_weights_are_of_two_neighbours_and_sum_to_one(targets, captured):
    weights = view_weights(targets, captured)
    assert np.allclose(weights.sum(1), 1, atol=1e-5)
    assert ((weights > 0).sum(1) <= 2).all() and (weights >= 0).all()


@given(views)
def test_a_captured_angle_uses_its_view_alone(captured):
    assert np.allclose(view_weights(captured, captured), np.eye(len(captured)), atol=1e-5)


@given(frames, views, st.floats(-360, 360))
def test_turning_everything_changes_nothing(targets, captured, turn):
    turned = view_weights([azimuth + turn for azimuth in targets], [azimuth + turn for azimuth in captured])
    assert np.allclose(view_weights(targets, captured), turned, atol=1e-3) or len(captured) == 1


def test_weights_a_third_of_the_way():
    assert view_weights([15], [0, 45]).tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3)]]
    assert view_weights([350], [0, 340]).tolist() == [[0.5, 0.5]]
    assert neighbours({0: -10.0, 1: 30.0, 2: 170.0}) == (0, 1, 0.25)


def test_key_frames_of_the_usual_orbit():
    keys = key_views(even_orbit(24), even_orbit(8))
    assert [frame for frame, view in enumerate(keys) if view is not None] == list(range(0, 24, 3))
    assert keys[21] == 7 and keys[1] is None
    assert key_views([359.8], [0.0]) == (0,)
