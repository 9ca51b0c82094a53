import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.geometry.descend import minimize_lbfgs

FAR = np.full(3, 50.0)
NUMBERS = st.lists(st.floats(-5, 5), min_size=3, max_size=3)


@settings(max_examples=25, deadline=None)
@given(NUMBERS, NUMBERS, st.floats(0.01, 3))
def test_a_regularized_minimum_is_found(target, start, penalty):
    """(x - target)² + penalty x² has its minimum at target / (1 + penalty)."""
    wanted = torch.tensor(target)

    def cost(values):
        return ((values - wanted) ** 2).sum() + penalty * (values**2).sum()

    found = minimize_lbfgs(cost, np.array(start), -FAR, FAR, iterations=60)
    assert found == pytest.approx(np.array(target) / (1 + penalty), abs=1e-2)


def test_bounds_hold_when_the_caller_disabled_gradients():
    with torch.no_grad():
        found = minimize_lbfgs(
            lambda values: (values - 9).abs().sum(), np.zeros(3), -FAR, np.array([1.0, 2, 3]), iterations=30
        )
    assert found == pytest.approx([1, 2, 3], abs=1e-3)
