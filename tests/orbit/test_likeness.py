import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from gapray.orbit.likeness import dissimilarity


def picture(seed, side=64):
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1001, 2000))
def test_dissimilarity_is_a_distance(seed, other):
    first, second = picture(seed), picture(other)
    assert float(dissimilarity(first, first)) < 1e-6
    there, back = float(dissimilarity(first, second)), float(dissimilarity(second, first))
    assert 0 < there <= 1 and abs(there - back) < 1e-6
    nearly = (first + 0.02).clamp(0, 1)
    assert float(dissimilarity(first, nearly)) < 0.25 * there


def test_print_a_pixel_off_is_better_than_no_print():
    rows = torch.zeros(1, 3, 64, 64)
    rows[..., 20:44:6, 10:54] = 1
    moved, blank = rows.roll(1, -2), torch.zeros_like(rows)
    assert float(dissimilarity(rows, moved)) < float(dissimilarity(rows, blank))
