"""TIFF files with uncommon sample layouts, which are read correctly or refused."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from gapray.capture.decode import check_photo, decode_grey, decode_photo
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


def pages(*kinds: int | None, profile: bytes | None = None) -> bytes:
    """A TIFF with a page for each value of NewSubfileType (None = no such tag).

    A reduced page is a small dark picture with the colour profile `profile`, any other one is `WIDE`.
    """
    images = []
    for index, kind in enumerate(kinds):
        reduced = bool(kind and kind & 1)
        pixels = np.full((16, 16, 3), 10 * index, np.uint8) if reduced else (WIDE // 257).astype(np.uint8)
        tags = {} if kind is None else {254: kind}
        images.append(Image.fromarray(pixels))
        images[-1].encoderinfo = {"tiffinfo": tags | ({34675: profile} if reduced and profile else {})}
    sink = io.BytesIO()
    images[0].save(sink, "TIFF", save_all=True, append_images=images[1:], **images[0].encoderinfo)
    return sink.getvalue()


@pytest.mark.parametrize(
    "kinds", [(0, 1), (1, 0), (None, 1), (1, None), (1, 1, 0), (1, 0, 1, 1), (2, 3), (0,), (None,)]
)
def test_the_page_that_is_no_thumbnail_is_the_photo(kinds):
    data = pages(*kinds)
    assert (decode_photo(data) == WIDE.astype(np.uint16) // 257).all()
    assert check_photo(data) == ("TIFF", WIDE.shape[1::-1])
    assert (decode_grey(data) == WIDE[..., 0] // 257).all()


@pytest.mark.parametrize("kinds", [(0, 0), (None, None), (1, 1), (2, 2), (0, 1, 0), (0, *[1] * 8)])
def test_pages_of_which_none_or_several_may_be_the_photo_are_refused(kinds):
    for read in (decode_photo, check_photo, decode_grey):
        with pytest.raises(InputError) as error:
            read(pages(*kinds))
        assert error.value.code == "image.too_many_frames"


@pytest.mark.parametrize("kinds", [(0, 1), (1, 0)])
def test_a_thumbnail_s_profile_is_not_the_photo_s(kinds):
    """An unreadable profile of the photo would be refused."""
    data = pages(*kinds, profile=b"no profile" * 30)
    assert b"no profile" in data
    assert (decode_photo(data) == WIDE // 257).all()


def test_a_photo_behind_a_thumbnail_is_turned_upright():
    sink = io.BytesIO()
    small, full = Image.new("RGB", (16, 16)), Image.fromarray((WIDE // 257).astype(np.uint8)[:, :80])
    full.encoderinfo = {"tiffinfo": {274: 6}}
    small.save(sink, "TIFF", save_all=True, append_images=[full], tiffinfo={254: 1})
    assert (decode_photo(sink.getvalue()) == np.rot90(WIDE[:, :80] // 257, -1)).all()
