"""Colours that files state by neither a profile nor code points: PNG's gAMA and cHRM, Exif's mark of Adobe RGB."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from gapray.capture.decode import decode_photo
from gapray.errors import InputError

COLOURS = np.array([[200, 30, 40], [30, 150, 60], [30, 60, 190], [128, 128, 128], [240, 240, 240], [82, 174, 125]])
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""IEC 61966-2-1, equation 7."""
XYZ_TO_ADOBE = np.array([[2.04159, -0.56501, -0.34473], [-0.96924, 1.87597, 0.04156], [0.01344, -0.11836, 1.01517]])
"""Adobe RGB (1998), 4.3.5.2."""
ADOBE_CHRM = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def light_of(srgb):
    x = srgb / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def in_adobe():
    return np.rint(255 * np.clip(light_of(COLOURS) @ TO_XYZ.T @ XYZ_TO_ADOBE.T, 0, 1) ** (256 / 563))


def patches(levels):
    return np.repeat(np.repeat(levels.astype(np.uint8)[None], 80, 0), 20, 1)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(levels, gamma=None, chromaticity=None, srgb=False):
    sink = io.BytesIO()
    Image.fromarray(patches(levels)).save(sink, "PNG")
    chunks = chunk(b"gAMA", struct.pack(">I", round(gamma * 1e5))) if gamma else b""
    chunks += chunk(b"cHRM", struct.pack(">8I", *(round(x * 1e5) for x in chromaticity))) if chromaticity else b""
    chunks += chunk(b"sRGB", b"\0") if srgb else b""
    data = sink.getvalue()
    return data[:33] + chunks + data[33:]


def off(data):
    return np.abs(decode_photo(data)[40, 10::20].astype(int) - COLOURS).max()


@pytest.mark.parametrize("gamma", [1.0, 1 / 1.8, 1 / 2.6])
def test_a_png_s_gamma_is_undone(gamma):
    levels = np.rint(255 * light_of(COLOURS) ** gamma)
    assert off(png(levels, gamma)) <= (2 if gamma < 1 else 4)  # linear light has few levels for what is dark
    assert off(png(levels)) > 5


def test_a_png_s_primaries_are_converted():
    data = png(in_adobe(), 256 / 563, ADOBE_CHRM)
    assert off(data) <= 2 and off(png(in_adobe())) > 20


@pytest.mark.parametrize("gamma", [0.45455, 0.4545, 0.45])
def test_srgb_is_not_changed(gamma):
    srgb = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    for data in (png(COLOURS, gamma), png(COLOURS, gamma, srgb), png(COLOURS, gamma, (0.31, 0.33, *srgb[2:]))):
        assert off(data) == 0
    assert off(png(COLOURS, 1.0, ADOBE_CHRM, srgb=True)) == 0, "sRGB overrides both (PNG 3, 11.3.2.5)"


def test_white_stays_white_under_another_white_point():
    d50 = (0.3457, 0.3585, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    shown = decode_photo(png(np.full_like(COLOURS, 255), 0.45455, d50))
    assert (shown == 255).all()
    grey = decode_photo(png(np.full_like(COLOURS, 128), 0.45455, d50))[0, 0]
    assert np.ptp(grey.astype(int)) <= 1


@pytest.mark.parametrize(
    ("gamma", "chromaticity"),
    [(0.45455, (0.3, 0.0, *ADOBE_CHRM[2:])), (0.45455, (0.31, 0.33, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4)), (99.0, None)],
)
def test_invalid_gamma_and_chromaticities_are_refused(gamma, chromaticity):
    with pytest.raises(InputError) as error:
        decode_photo(png(COLOURS, gamma, chromaticity))
    assert error.value.code == "image.bad_profile"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_exif_mark_of_adobe_rgb_is_applied(kind):
    image = Image.fromarray(patches(in_adobe()))
    marked = Image.Exif()
    marked.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 65535
    marked.get_ifd(ExifTags.IFD.Interop)[1] = "R03"
    marked.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = dict(marked.get_ifd(ExifTags.IFD.Interop))
    plain, tagged = io.BytesIO(), io.BytesIO()
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}, "TIFF": {}}[kind]
    image.save(plain, kind, **options)
    image.save(tagged, kind, exif=marked, **options)
    if Image.open(io.BytesIO(tagged.getvalue())).getexif().get_ifd(ExifTags.IFD.Interop).get(1) != "R03":
        pytest.skip(f"this Pillow writes no interoperability tag into {kind}")
    assert off(tagged.getvalue()) <= 4 and off(plain.getvalue()) > 20
