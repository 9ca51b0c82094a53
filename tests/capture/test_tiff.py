"""TIFF files with uncommon sample layouts, which are read correctly or refused."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from gapray.capture.decode import decode_grey, decode_photo
from gapray.errors import InputError
from tests.make import photo

LONG = 4


def tiff(samples: np.ndarray, *, photometric: int, planar: int = 1, sample_format: int = 1, order: str = "<") -> bytes:
    """An uncompressed TIFF (TIFF 6.0) of [H, W] or [H, W, C]; `planar` 2 stores each channel as a plane."""
    samples = np.atleast_3d(samples)
    height, width, channels = samples.shape
    stored = np.moveaxis(samples, -1, 0) if planar == 2 else samples
    planes = [
        plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in (stored if planar == 2 else [stored])
    ]
    bits = samples.dtype.itemsize * 8
    many = [
        (258, [bits] * channels),
        (339, [sample_format] * channels),
        (273, [8 + sum(map(len, planes[:index])) for index in range(len(planes))]),
        (279, [len(plane) for plane in planes]),
    ]
    single = [(256, [width]), (257, [height]), (259, [1]), (262, [photometric]), (277, [channels]), (278, [height])]
    entries = sorted([*single, (284, [planar]), *many])
    body = b"".join(planes)
    directory, beyond = b"", b""
    start = 8 + len(body)
    after = start + 2 + 12 * len(entries) + 4
    for tag, values in entries:
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            place, beyond = struct.pack(f"{order}I", after + len(beyond)), beyond + packed
        else:
            place = packed
        directory += struct.pack(f"{order}HHI", tag, LONG, len(values)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}I", start)
    return head + body + struct.pack(f"{order}H", len(entries)) + directory + bytes(4) + beyond


WIDE = photo(30.0).astype(np.uint16) * 257
GREY = WIDE[..., 1]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_plain_tiff_is_read(order):
    """Validates the TIFF writer of these tests."""
    assert (decode_photo(tiff(GREY, photometric=1, order=order))[..., 0] == GREY // 257).all()
    assert (decode_photo(tiff(WIDE.astype(np.uint8), photometric=2, order=order)) == WIDE.astype(np.uint8)).all()


def test_16_bit_white_is_zero_is_not_shown_inverted():
    data = tiff(65535 - GREY, photometric=0)
    assert (decode_photo(data)[..., 0] == GREY // 257).all()
    assert (decode_grey(data) == GREY).all()


@pytest.mark.parametrize(
    "data",
    [
        tiff(WIDE, photometric=2, planar=2),
        tiff(WIDE, photometric=2, planar=2, order=">"),
        tiff((GREY.astype(np.int32) - 32768).astype(np.int16), photometric=1, sample_format=2),
        tiff(GREY.astype(np.uint32) * 65537, photometric=1),
    ],
    ids=["planes", "planes, big-endian", "signed", "32 bits"],
)
@pytest.mark.parametrize("decode", [decode_photo, decode_grey])
def test_samples_that_would_be_misread_are_refused(data, decode):
    with pytest.raises(InputError) as error:
        decode(data)
    assert error.value.code == "image.unsupported"


def test_8_bits_in_planes_are_read():
    assert (decode_photo(tiff(WIDE.astype(np.uint8), photometric=2, planar=2)) == WIDE.astype(np.uint8)).all()


def test_a_transparent_level_of_16_bit_grey_is_laid_over_white():
    values = GREY.copy()
    values[:40, :40] = 513
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=513)
    read = decode_photo(file.getvalue())
    assert (read[:40, :40] == 255).all() and (read[60:, 60:, 0] == GREY[60:, 60:] // 257).all()
