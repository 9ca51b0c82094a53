import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from gapray.capture.decode import decode_grey, decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import InputError

RED = (200, 40, 30)


def saved(image, kind, **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def picture(mode="RGB", size=(120, 80)):
    image = Image.new("RGB", size, RED)
    image.paste((20, 30, 200), (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("RGB", "PNG"),
        ("RGB", "WEBP"),
        ("RGB", "TIFF"),
        ("RGB", "BMP"),
        ("RGB", "HEIF"),
        ("RGB", "AVIF"),
        ("CMYK", "JPEG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGBA", "PNG"),
    ],
)
def test_formats_and_modes(mode, kind):
    pixels = decode_photo(saved(picture(mode), kind))
    assert pixels.shape == (80, 120, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[40, 100].astype(int) - RED).max() < 36
    assert pixels[40, 20, 2] > 150


def test_grey_16_bit_and_bilevel():
    ramp = np.linspace(0, 65535, 120, dtype=np.uint16)[None].repeat(80, 0)
    pixels = decode_photo(saved(Image.fromarray(ramp), "PNG"))
    assert pixels[0, 0, 0] == 0
    assert pixels[0, -1, 0] == 255
    assert abs(int(pixels[0, 60, 0]) - 128) <= 2
    assert set(np.unique(decode_photo(saved(picture("1"), "PNG")))) <= {0, 255}


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (100, 100), (*RED, 0))
    image.paste((*RED, 255), (0, 0, 50, 100))
    pixels = decode_photo(saved(image, "PNG"))
    assert tuple(pixels[50, 80]) == (255, 255, 255)
    assert tuple(pixels[50, 20]) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = np.zeros((60, 90, 3), np.uint8)
    upright[:30, :45] = 250
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    # Stored so that showing it with the tag gives `upright` (Exif 2.32, table 6).
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(undo(upright))), "PNG", exif=exif)
    assert np.array_equal(decode_photo(data, DecodeSettings(min_side=16)), upright)


def test_embedded_profile_is_applied():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = decode_photo(saved(picture(), "PNG", icc_profile=lab))
    assert np.abs(same.astype(int) - decode_photo(saved(picture(), "PNG"))).max() <= 2


def test_large_photos_are_shrunk_and_aspect_kept():
    pixels = decode_photo(saved(picture(size=(3000, 1500)), "JPEG"))
    assert pixels.shape == (512, 1024, 3)


def test_names_do_not_matter_content_does():
    with pytest.raises(InputError) as error:
        decode_photo(b"%PDF-1.4 not a photo" * 20)
    assert error.value.code == "image.unsupported"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image.empty"),
        (saved(picture(size=(400, 300)), "JPEG")[:-900], "image.truncated"),
        (saved(picture(size=(30, 30)), "PNG"), "image.too_small"),
        (saved(Image.new("L", (9000, 9000)), "PNG"), "image.too_many_pixels"),
        (saved(picture("P"), "GIF", save_all=True, append_images=[picture("P").rotate(9)]), "image.too_many_frames"),
        (saved(picture(), "PNG", icc_profile=b"x" * 200), "image.bad_profile"),
        (saved(Image.new("F", (90, 90)), "TIFF"), "image.unsupported"),
    ],
)
def test_refused(data, code):
    with pytest.raises(InputError) as error:
        decode_photo(data)
    assert error.value.code == code


def test_limits_are_settings():
    data = saved(picture(size=(200, 200)), "PNG")
    for settings, code in (
        (DecodeSettings(max_bytes=100), "image.too_many_bytes"),
        (DecodeSettings(max_pixels=30_000), "image.too_many_pixels"),
        (DecodeSettings(min_side=256), "image.too_small"),
    ):
        with pytest.raises(InputError) as error:
            decode_photo(data, settings)
        assert error.value.code == code


def test_grey_maps_keep_their_values():
    values = np.arange(100 * 100, dtype=np.uint16).reshape(100, 100) * 6
    assert np.array_equal(decode_grey(saved(Image.fromarray(values), "PNG")), values)
    bytes_ = (values >> 8).astype(np.uint8)
    assert np.array_equal(decode_grey(saved(Image.fromarray(bytes_), "PNG")), bytes_)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize("size", [(120, 80), (3000, 2000)])
def test_values_of_12_bits_in_16_are_refused(kind, size):
    """Scaled as 16 bits they would give a black picture."""
    ramp = np.linspace(0, 4095, size[0], dtype=np.uint16)[None].repeat(size[1], 0)
    with pytest.raises(InputError) as error:
        decode_photo(saved(Image.fromarray(ramp), kind))
    assert error.value.code == "image.unsupported" and "4095" in error.value.message
    assert decode_photo(saved(Image.fromarray(ramp * 16), kind)).max() == 255
    assert decode_photo(saved(Image.fromarray(ramp * 0), kind)).max() == 0, "a lens cap is a picture"
