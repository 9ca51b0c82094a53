import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gapray.gap.images import decode_grey8, decode_grey16, decode_rgb, encode_jpeg, encode_png

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(arrays(np.uint8, shapes))
def test_grey8_round_trip(image):
    assert np.array_equal(decode_grey8(encode_png(image)), image)


@given(arrays(np.uint16, shapes))
def test_grey16_round_trip(image):
    assert np.array_equal(decode_grey16(encode_png(image)), image)


@given(arrays(np.uint8, shapes.map(lambda shape: (*shape, 3))))
def test_rgb_png_round_trip(image):
    assert np.array_equal(decode_rgb(encode_png(image)), image)


def test_jpeg_keeps_channels_in_order():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 200
    decoded = decode_rgb(encode_jpeg(image, 95))
    assert np.abs(decoded.astype(int) - image).max() <= 4


@pytest.mark.parametrize("decode", [decode_rgb, decode_grey8, decode_grey16])
def test_not_an_image(decode):
    with pytest.raises(ValueError, match="image"):
        decode(b"nothing")
