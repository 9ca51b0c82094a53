"""Photos in other colour spaces than sRGB, written by the formulas of the standards."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import InputError
from tests.capture.test_video import COLOURS, hlg, patches, read

pillow_heif.register_heif_opener()
TO_2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]  # ITU-R BT.2087, 2.2
TO_P3 = [[0.8225, 0.1774, 0.0000], [0.0332, 0.9669, 0.0000], [0.0171, 0.0724, 0.9108]]  # sRGB -> Display P3, linear


def linear(picture):
    x = picture.astype(float) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def pq(picture, white_nits):
    """PQ signal (ITU-R BT.2100, table 4) of sRGB colours, uint16."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    light = (linear(picture) * white_nits / 10000) @ np.array(TO_2020).T
    powered = light.clip(0) ** m1
    return np.rint(65535 * ((c1 + c2 * powered) / (1 + c3 * powered)) ** m2).astype(np.uint16)


def display_p3(picture):
    """SRGB colours in Display P3, uint8."""
    light = linear(picture) @ np.array(TO_P3).T
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clip(1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * signal.clip(0, 1)).astype(np.uint8)


def heic(signal, transfer, primaries=9, *, exif=None, alpha=None):
    mode = "RGB" if alpha is None else "RGBA"
    if alpha is not None:
        signal = np.dstack([signal, alpha])
    wide = signal.dtype == np.uint16
    file = pillow_heif.from_bytes(mode + ";16" * wide, signal.shape[1::-1], np.ascontiguousarray(signal).tobytes())
    sink = io.BytesIO()
    file.save(
        sink,
        quality=-1,
        chroma=444,
        color_primaries=primaries,
        transfer_characteristics=transfer,
        matrix_coefficients=primaries if primaries == 9 else 1,
        full_range_flag=1,
        save_nclx_profile=True,
        **({"exif": exif} if exif else {}),
    )
    return sink.getvalue()


def png(picture, **chunk):
    """A PNG with a chunk inserted before the pixels."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG")
    data, at = sink.getvalue(), sink.getvalue().index(b"IDAT") - 4
    for kind, content in chunk.items():
        body = kind.encode() + content
        data = data[:at] + struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body)) + data[at:]
    return data


def maker(name="Apple"):
    exif = Image.Exif()
    exif[0x010F] = name
    return exif.tobytes()


SIGNALS = {"HLG": (hlg, 18), "PQ": (pq, 16)}


@pytest.mark.parametrize(
    ("transfer", "signal"),
    [
        (18, hlg(patches(), 203)),
        (18, hlg(patches(), 100, by_channel=True)),
        (16, pq(patches(), 203)),
        (16, pq(patches(), 100)),
    ],
    ids=["HLG", "HLG, converted", "PQ", "PQ, converted"],
)
def test_hdr_in_heic_becomes_standard_range(transfer, signal):
    assert np.abs(read(decode_photo(heic(signal, transfer))) - COLOURS).max() <= 2


@pytest.mark.parametrize("name", SIGNALS)
def test_a_dark_photo_of_a_camera_stays_dark(name):
    signal, transfer = SIGNALS[name]
    dark = (patches() // 2).clip(0, 120)
    got = decode_photo(heic(signal(dark, 203), transfer, exif=maker()))
    assert np.abs(read(got) - read(dark)).max() <= 3


def test_highlights_become_white_and_hdr_is_shrunk_turned_and_laid_over_white():
    picture = hlg(patches(), 203)
    picture[:64, :64] = np.uint16(0.95 * 65535)
    assert np.abs(read(decode_photo(heic(picture, 18)))[1:] - COLOURS[1:]).max() <= 2
    assert read(decode_photo(heic(picture, 18)))[0].min() == 255
    small = decode_photo(heic(picture, 18), DecodeSettings(reference_side=128))
    assert small.shape == (96, 128, 3) and np.abs(read(small)[1:] - COLOURS[1:]).max() <= 2
    alpha = np.full(picture.shape[:2], 65535, np.uint16)
    alpha[:, :64] = 0
    clear = decode_photo(heic(picture, 18, alpha=alpha))
    assert (clear[:, :60] == 255).all() and np.abs(read(clear)[1] - COLOURS[1]).max() <= 2


def test_other_primaries_without_a_profile():
    wide = display_p3(patches())
    files = {
        "HEIC": heic(wide, 13, primaries=12),
        "PNG": png(wide, cICP=bytes([12, 13, 0, 1])),
        "AVIF": avif(wide, primaries=12, transfer=13),
    }
    for name, data in files.items():
        assert np.abs(read(decode_photo(data)) - COLOURS).max() <= 3, name


def avif(picture, *, primaries, transfer):
    """Pillow writes sRGB's code points, which are replaced here."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "AVIF", quality=100, subsampling="4:4:4")
    data, at = sink.getvalue(), sink.getvalue().index(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def tagged_profile(transfer):
    """An sRGB profile whose tag `cicp` states another colour space."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (count,) = struct.unpack_from(">I", data, 128)
    moved = bytearray(data[:128] + struct.pack(">I", count + 1) + data[132 : 132 + 12 * count] + bytes(12))
    for index in range(count):
        (at,) = struct.unpack_from(">I", moved, 132 + 12 * index + 4)
        struct.pack_into(">I", moved, 132 + 12 * index + 4, at + 12)
    end = len(data) + 12
    struct.pack_into(">4sII", moved, 132 + 12 * count, b"cicp", end, 12)
    moved += data[132 + 12 * count :] + b"cicp\0\0\0\0" + bytes([9, transfer, 0, 1])
    struct.pack_into(">I", moved, 0, len(moved))
    return bytes(moved)


def test_hdr_that_can_only_be_read_at_8_bits_is_refused():
    picture = patches()
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "TIFF", icc_profile=tagged_profile(16))
    files = {
        "AVIF, PQ": avif(picture, primaries=9, transfer=16),
        "AVIF, HLG": avif(picture, primaries=9, transfer=18),
        "PNG, PQ": png(picture, cICP=bytes([9, 16, 0, 1])),
        "TIFF, PQ in its profile": sink.getvalue(),
    }
    for name, data in files.items():
        with pytest.raises(InputError) as error:
            decode_photo(data)
        assert error.value.code == "image.hdr", name


def test_linear_numbers_are_refused():
    with pytest.raises(InputError) as error:
        decode_photo(png(patches(), cICP=bytes([1, 8, 0, 1])))
    assert error.value.code == "image.unsupported"


def test_a_gain_map_is_ignored():
    """As written by phones: a standard-range base image, and the map as a second image of half the size."""
    gain = Image.fromarray(np.full((96, 128, 3), 200, np.uint8))
    heif = pillow_heif.from_pillow(Image.fromarray(patches()))
    heif.add_from_pillow(gain)
    sink = io.BytesIO()
    heif.save(sink, quality=-1, chroma=444, primary_index=0)
    jpeg = io.BytesIO()
    Image.fromarray(patches()).save(jpeg, "MPO", save_all=True, append_images=[gain], quality=98, subsampling=0)
    for data in (sink.getvalue(), jpeg.getvalue()):
        assert np.abs(read(decode_photo(data)) - COLOURS).max() <= 3
