"""Files that can be decoded but are not photos of a product are refused; photos that resemble them are not."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gapray.capture.capture_set import Photo
from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import REMEDIES, InputError
from gapray.packaging.steps import decode_view
from tests.make import photo

COLOUR = Image.fromarray(photo(30, size=256))
GREY = COLOUR.convert("L")


def saved(image, kind="PNG", **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def code_of(data, tmp_path):
    """Error code with which packaging refuses a file; None if it accepts it."""
    file = tmp_path / "mug_000.bin"
    file.write_bytes(data)
    try:
        decode_view(Photo(file.name, str(file), 0.0, len(data), ""), DecodeSettings())
    except InputError as error:
        assert error.message.startswith("mug_000.bin: ") and error.remedy == REMEDIES[error.code]
        return error.code
    return None


def with_space(space):
    """An sRGB profile that declares another colour space (ICC.1:2022, table 19), as written by faulty tools."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = space
    return bytes(profile)


SRGB = with_space(b"RGB ")
FEW = {
    "1-bit PNG, dithered": saved(GREY.convert("1")),
    "1-bit PNG, threshold": saved(GREY.convert("1", dither=Image.Dither.NONE)),
    "1-bit TIFF": saved(GREY.convert("1"), "TIFF"),
    "CCITT G4": saved(GREY.convert("1"), "TIFF", compression="group4"),
    "1-bit BMP": saved(GREY.convert("1"), "BMP"),
    "1-bit, larger than what is kept": saved(GREY.convert("1").resize((2400, 2400))),
    "palette of 2": saved(COLOUR.quantize(2)),
    "palette of 4, 2 bits": saved(COLOUR.quantize(4), bits=2),
    "palette of 2 as RGB": saved(COLOUR.quantize(2).convert("RGB")),
    "GIF of 8": saved(COLOUR.quantize(8), "GIF"),
    "2 levels of 16 bits": saved(Image.fromarray((np.asarray(GREY) // 128).astype(np.uint16) * 60000)),
}


@pytest.mark.parametrize("name", FEW)
def test_line_art_is_refused(name, tmp_path):
    assert code_of(FEW[name], tmp_path) == "image.few_colours"


PHOTOS = {
    "grey": saved(GREY),
    "grey JPEG": saved(GREY, "JPEG"),
    "grey of 16 bits": saved(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)),
    "grey with alpha": saved(GREY.convert("LA")),
    "palette of 256": saved(COLOUR.quantize(256)),
    "palette of 16": saved(COLOUR.quantize(16)),
    "a cut-out": saved(Image.fromarray(np.dstack([photo(30, size=256), 255 * (photo(30, size=256)[..., :1] < 230)]).astype(np.uint8))),
    "grey with an RGB profile": saved(GREY, "JPEG", icc_profile=SRGB),
    "grey with alpha and an RGB profile": saved(GREY.convert("LA"), icc_profile=SRGB),
    "palette with an RGB profile": saved(COLOUR.quantize(256), icc_profile=SRGB),
    "TIFF in YCbCr": saved(COLOUR.convert("YCbCr"), "TIFF"),
    "TIFF in Lab with an RGB profile": saved(COLOUR.convert("LAB"), "TIFF", icc_profile=SRGB),
    "a pale product": saved(Image.fromarray((250 - (np.asarray(COLOUR) < 200) * 40).astype(np.uint8)), "JPEG"),
}  # fmt: skip


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_go_on_working(name, tmp_path):
    assert code_of(PHOTOS[name], tmp_path) is None


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 120, 90)])
@pytest.mark.parametrize("noise", [0.0, 1.5])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "HEIF"])
def test_a_picture_of_one_colour_is_refused(colour, noise, kind, tmp_path):
    pixels = np.random.default_rng(0).normal(colour, noise, (200, 300, 3)).clip(0, 255).astype(np.uint8)
    assert code_of(saved(Image.fromarray(pixels), kind, quality=90), tmp_path) == "image.blank"


@pytest.mark.parametrize("image", [COLOUR.convert("RGBA"), GREY.convert("LA")])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_a_picture_that_is_all_transparent_is_refused(image, kind, tmp_path):
    clear = image.convert("RGBA") if kind == "WEBP" else image.copy()
    clear.putalpha(0)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert code_of(saved(clear, kind, **options), tmp_path) == "image.transparent"
    assert "alpha" in REMEDIES["image.transparent"]


@pytest.mark.parametrize("space", [b"CMYK", b"GRAY", b"Lab "])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_profile_of_other_colours_is_refused(space, kind, tmp_path):
    assert code_of(saved(COLOUR, kind, icc_profile=with_space(space)), tmp_path) == "image.bad_profile"


def test_an_rgb_profile_of_cmyk_pixels_is_refused(tmp_path):
    assert code_of(saved(COLOUR.convert("CMYK"), "JPEG", icc_profile=SRGB), tmp_path) == "image.bad_profile"


def test_grey_is_converted_by_an_rgb_profile():
    """Pixels with equal red, green and blue are equivalent to grey ones."""
    as_grey, as_rgb = (decode_photo(saved(image, icc_profile=SRGB)) for image in (GREY, GREY.convert("RGB")))
    assert np.abs(as_grey.astype(int) - as_rgb).max() <= 1


JPEGS = {
    "colour": saved(COLOUR.resize((800, 600)), "JPEG", quality=92),
    "grey": saved(GREY.resize((800, 600)), "JPEG", quality=92),
    "progressive": saved(COLOUR.resize((800, 600)), "JPEG", quality=92, progressive=True),
    "CMYK": saved(COLOUR.resize((800, 600)).convert("CMYK"), "JPEG", quality=92),
    "restart markers": saved(COLOUR.resize((800, 600)), "JPEG", quality=92, restart_marker_rows=4),
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_was_overwritten_in_its_middle_is_refused(name, tmp_path):
    """Bytes of 0x55 are valid code words, so the decoder continues and loses synchronisation."""
    data = JPEGS[name]
    assert code_of(data, tmp_path) is None
    middle = data.rindex(b"\xff\xda") + (len(data) - data.rindex(b"\xff\xda")) // 3
    hurt = data[:middle] + b"\x55" * 400 + data[middle + 400 :]
    assert code_of(hurt, tmp_path) == "image.truncated"


@given(st.binary(min_size=1, max_size=60), st.sampled_from(sorted(JPEGS)))
def test_bytes_after_a_jpeg_and_padding_are_not_damage(junk, name):
    data = JPEGS[name]
    expected = decode_photo(data)
    assert np.array_equal(decode_photo(data + junk), expected)
    assert np.array_equal(decode_photo(data[:-2] + bytes(len(junk)) + data[-2:]), expected)
