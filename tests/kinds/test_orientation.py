"""Formats x orientations: a photo is rotated exactly once, by its decoder or by gapray."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from gapray.capture.decode import decode_grey, decode_photo
from gapray.capture.settings import DecodeSettings

UPRIGHT = np.full((60, 90, 3), 235, np.uint8)
UPRIGHT[:24, :40] = 20, 40, 160
UPRIGHT[40:, 70:] = 190, 60, 30
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Value of the tag (Exif 2.32, 4.6.4 A) -> transposition of the stored picture."""
TAG = int(ExifTags.Base.Orientation)
UNUSED = 0x0113
"""A tag with a neighbouring number, which writers keep; it is then replaced by the orientation's in the file."""
EXACT = {"quality": -1, "chroma": 444}
"""Options with which pillow-heif writes HEIC without loss."""


def saved(image, kind, **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def exif(value, tag=TAG, *, endian="<"):
    block = Image.Exif()
    block.endian = endian
    block[tag] = value
    return block.tobytes()


def with_exif(kind, **options):
    return lambda image, value: saved(image, kind, exif=exif(value), **options)


def tiff(**options):
    return lambda image, value: saved(image, "TIFF", tiffinfo={TAG: value}, **options)


def png_with_exif_at_the_end(image, value):
    data = saved(image, "PNG", exif=exif(value))
    at = data.index(b"eXIf") - 4
    size = 12 + int.from_bytes(data[at : at + 4], "big")
    chunk, data = data[at : at + size], data[:at] + data[at + size :]
    end = data.index(b"IEND") - 4
    return data[:end] + chunk + data[end:]


def xmp(image, value):
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="{value}"/></x:xmpmeta>'
    return saved(image, "JPEG", quality=95, subsampling=0, xmp=packet.encode())


def renumbered(data, before, after, order):
    """The file with the number of its EXIF entry changed from `before` to `after`."""
    header = max(data.rfind(b"II*\0"), data.rfind(b"MM\0*"))
    at = data.index(before.to_bytes(2, order), header)
    return data[:at] + after.to_bytes(2, order) + data[at + 2 :]


def exif_alone(kind, endian="<", **options):
    """The tag is hidden from the writer, which would otherwise write boxes, so that no box states the orientation."""
    order = "little" if endian == "<" else "big"
    return lambda image, value: renumbered(
        saved(image, kind, exif=exif(value, UNUSED, endian=endian), **options), UNUSED, TAG, order
    )


def boxes_alone(image, value):
    return renumbered(saved(image, "HEIF", exif=exif(value), **EXACT), TAG, UNUSED, "little")


FORMATS = {
    "JPEG": with_exif("JPEG", quality=95, subsampling=0),
    "JPEG, XMP alone": xmp,
    "PNG": with_exif("PNG"),
    "PNG, EXIF after the pixels": png_with_exif_at_the_end,
    "WebP": with_exif("WEBP", lossless=True),
    "TIFF": tiff(),
    "TIFF, LZW": tiff(compression="tiff_lzw"),
    "TIFF, JPEG": tiff(compression="jpeg", quality=95),
    "HEIC, boxes and EXIF": with_exif("HEIF", **EXACT),
    "HEIC, boxes alone": boxes_alone,
    "HEIC, EXIF alone": exif_alone("HEIF", **EXACT),
    "HEIC, EXIF alone, big-endian": exif_alone("HEIF", ">", **EXACT),
    "AVIF, boxes": with_exif("AVIF", quality=95, subsampling="4:4:4"),
    "AVIF, EXIF alone": exif_alone("AVIF", quality=95, subsampling="4:4:4"),
}


def stored(value, upright):
    return upright if STORED[value] is None else upright.transpose(STORED[value])


def upright(mode="RGB"):
    if mode == "I;16":
        return Image.fromarray(np.asarray(upright("L")).astype(np.uint16) * np.uint16(257))
    return Image.fromarray(UPRIGHT).convert(mode)


def test_files_say_what_their_names_say():
    for name, make in FORMATS.items():
        data = make(upright(), 6)
        assert (b"irot" in data) == ("boxes" in name), name
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == name.split(",")[0].upper().replace("HEIC", "HEIF")


@pytest.mark.parametrize("value", STORED)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_stands_upright(name, value):
    pixels = decode_photo(FORMATS[name](stored(value, upright()), value), DecodeSettings(min_side=16))
    assert pixels.shape == UPRIGHT.shape
    assert np.abs(pixels.astype(int) - UPRIGHT).mean() < 4


@pytest.mark.parametrize("value", STORED)
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_mode_stands_upright(kind, mode, value):
    settings = DecodeSettings(min_side=16)
    data = FORMATS[kind](stored(value, upright(mode)), value)
    assert np.array_equal(decode_photo(data, settings), decode_photo(FORMATS[kind](upright(mode), 1), settings))
    if mode in ("L", "I;16"):
        assert np.array_equal(decode_grey(data, settings), np.asarray(upright(mode)))


@pytest.mark.parametrize("name", FORMATS)
def test_a_photo_that_is_shrunk_on_the_way_stands_upright(name):
    large = stored(6, upright()).resize((60 * 8, 90 * 8), Image.Resampling.NEAREST)
    pixels = decode_photo(FORMATS[name](large, 6), DecodeSettings(reference_side=90, min_side=16))
    assert pixels.shape == UPRIGHT.shape
    assert np.abs(pixels.astype(int) - UPRIGHT).mean() < 6
