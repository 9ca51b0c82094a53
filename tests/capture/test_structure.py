"""Files that consist of more parts than any photo are refused before a decoder opens them; photos pass."""

import io
import struct
import sys
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from gapray.capture import heif, structure
from gapray.capture.decode import check_photo, decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import InputError

MAX_PIXELS = DecodeSettings().max_pixels
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROGRESSIVE = {"progressive": True, "quality": 75}


def picture(size=(96, 80), mode="RGB"):
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def saved(kind, size=(96, 80), mode="RGB", **options):
    sink = io.BytesIO()
    picture(size, mode).save(sink, kind, **options)
    return sink.getvalue()


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(*segments, then=b"", **options):
    """A JPEG with more segments at its start, and more data before its end marker."""
    data = saved("JPEG", **options)
    return data[:2] + b"".join(segments) + data[2:-2] + then + data[-2:]


def last_scan(data):
    """The last scan of a progressive JPEG, which refines it and can be repeated."""
    return data[data.rindex(b"\xff\xda") : -2]


def with_scans(count, size=(96, 80)):
    sink = io.BytesIO()
    (picture(size) if size[0] < 1000 else Image.new("RGB", size, "grey")).save(sink, "JPEG", **PROGRESSIVE)
    data = sink.getvalue()
    return data[:-2] + last_scan(data) * (count - data.count(b"\xff\xda")) + data[-2:]


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(before=b"", pixel_chunks=1):
    """A PNG with more chunks before its pixels, which are cut into many chunks, some of them empty."""
    data = saved("PNG")
    begin = data.index(b"IDAT") - 4
    content = data[begin + 8 : -16]
    cuts = np.linspace(0, len(content), pixel_chunks + 1).astype(int)
    parts = [chunk(b"IDAT", content[at:to]) for at, to in pairwise(cuts)]
    return data[:begin] + before + b"".join(parts) + data[-12:]


def tiff(strips, *, width=64, height=None, planes=1, pages=1, more=(), big=False):
    """A TIFF of 8-bit grey or planar RGB in strips of one row, followed by `pages` - 1 empty pages."""
    height = height or strips // planes
    number, entry = ("Q", "<HHQQ") if big else ("I", "<HHII")
    head = b"II+\0\x08\0\0\0" if big else b"II*\0"
    first = len(head) + struct.calcsize(number)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if planes > 1 else 1),
    ]
    tags += [
        (273, 4, strips, 0),
        (277, 3, 1, planes),
        (278, 4, 1, 1),
        (279, 4, strips, 0),
        (284, 3, 1, min(planes, 2)),
        *more,
    ]
    size = (8 if big else 2) + len(tags) * struct.calcsize(entry) + struct.calcsize(number)
    offsets = first + size
    pixels = offsets + 8 * strips
    after = pixels + width * strips
    places = {273: offsets, 279: offsets + 4 * strips}
    body = struct.pack("<Q" if big else "<H", len(tags))
    body += b"".join(struct.pack(entry, tag, kind, n, places.get(tag, value)) for tag, kind, n, value in sorted(tags))
    body += struct.pack("<" + number, after if pages > 1 else 0)
    rows = np.arange(strips, dtype="<u4")
    arrays = (rows * width + pixels).astype("<u4").tobytes() + np.full(strips, width, "<u4").tobytes()
    grey = np.random.default_rng(0).integers(0, 256, width * strips, np.uint8).tobytes()
    empty = b"".join(struct.pack("<HI", 0, after + 6 * (page + 1)) for page in range(pages - 2)) + bytes(6)
    return head + struct.pack("<" + number, first) + body + arrays + grey + (empty if pages > 1 else b"")


def exif_tiff(count):
    """A TIFF with an Exif directory of rational numbers, which marks it as Adobe RGB."""
    data = tiff(80, more=[(34665, 4, 1, 0)])
    at = len(data)
    place = data.index(struct.pack("<HHI", 34665, 4, 1)) + 8
    data = data[:place] + struct.pack("<I", at) + data[place + 4 :]
    interoperability = at + 2 + 24 + 4
    exif = struct.pack("<HHHIIHHIII", 2, 33434, 5, count, interoperability + 18, 40965, 4, 1, interoperability, 0)
    exif += struct.pack("<HHHI4sI", 1, 1, 2, 4, b"R03\0", 0)
    return data + exif + struct.pack("<II", 1, 60) * count


def gif(before=b"", after=b""):
    """A GIF with more blocks before and after its picture."""
    data = saved("GIF", mode="P")
    begin = 13 + (3 << (data[10] & 7) + 1)
    return data[:begin] + before + data[begin:-1] + after + b";"


FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\0"


def webp(chunks):
    still = saved("WEBP")
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + bytes([95, 0, 0, 79, 0, 0])
    return b"RIFF" + struct.pack("<I", len(still) + len(chunks) + 10) + b"WEBP" + canvas + still[12:] + chunks


def bmp(width, height, body):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + header + bytes(1024) + body


BOMBS = {
    "scans of a large picture": (lambda: with_scans(60, (7600, 7600)), "image.unsupported"),
    "scans": (lambda: with_scans(structure.MAX_SCANS + 1), "image.unsupported"),
    "scans after a reserved marker": (
        lambda: jpeg(then=b"\xff\x02" + last_scan(saved("JPEG", **PROGRESSIVE)) * 200, **PROGRESSIVE),
        "image.unsupported",
    ),
    "segments of Exif": (
        lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 70, segment(0xE1, b"Exif\0\0M") * 100_000),
        "image.unsupported",
    ),
    "segments of Exif in one that Pillow does not skip": (
        lambda: jpeg(segment(0xF0, segment(0xE1, b"Exif\0\0M") * 5_000) * 20),
        "image.unsupported",
    ),
    "segments of Photoshop": (
        lambda: jpeg(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * 100),
        "image.unsupported",
    ),
    "comments": (lambda: jpeg(segment(0xFE, b"a") * 100_000), "image.unsupported"),
    "stray bytes": (lambda: jpeg(segment(0xFE, b""), bytes(10**6)), "image.unsupported"),
    "restart markers": (lambda: jpeg(b"\xff\xd0" * 10**6), "image.unsupported"),
    "nothing but stray bytes": (lambda: b"\xff\xd8" + b"\xff\xd0" * 10**6, "image.unsupported"),
    "end markers before the first scan": (lambda: jpeg(b"\xff\xd9" * 10**5), "image.unsupported"),
    "arithmetic coding": (lambda: jpeg(segment(0xCC, b"\0\1")), "image.unsupported"),
    "Exif of 2 MiB": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 33), "image.unsupported"),
    "PNG's chunks": (lambda: png(chunk(b"abCd") * 500_000), "image.unsupported"),
    "PNG's chunks of pixels": (lambda: png(pixel_chunks=2**16 + 1), "image.unsupported"),
    "GIF's frames": (lambda: gif(after=FRAME * 10**5), "image.too_many_frames"),
    "GIF's sub-blocks": (lambda: gif(b"!\xfe" + b"\1a" * 10**6 + b"\0"), "image.unsupported"),
    "GIF's padding": (lambda: gif(after=b"x" * 10**6), "image.unsupported"),
    "GIF's frames after an empty extension": (
        lambda: gif(after=b"!\x01\0" + b"\xff" + bytes(255) + b"\0" + FRAME * 9),
        "image.too_many_frames",
    ),
    "TIFF's pages": (lambda: tiff(80, pages=20_000), "image.too_many_frames"),
    "TIFF's strips": (lambda: tiff(100_000, height=80), "image.unsupported"),
    "BigTIFF's strips": (lambda: tiff(100_000, height=80, big=True), "image.unsupported"),
    "TIFF's bits": (lambda: tiff(60_000, height=80, more=[(338, 4, 900_000, 8)]), "image.unsupported"),
    "the Exif of a TIFF": (lambda: exif_tiff(100_000), "image.unsupported"),
    "TIFF's tags": (lambda: tiff(80, more=[(50_000 + n, 3, 1, 0) for n in range(5000)]), "image.unsupported"),
    "WebP's frames": (lambda: webp((b"ANMF" + struct.pack("<I", 0)) * 9), "image.too_many_frames"),
    "WebP's chunks": (lambda: webp((b"abcd" + struct.pack("<I", 0)) * 9000), "image.unsupported"),
    "WebP's canvas": (
        lambda: webp(b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0" * 2),
        "image.too_many_pixels",
    ),
    "a run-length encoded BMP": (lambda: bmp(3000, 3000, b"\1\5" * 9_000), "image.unsupported"),
    "HEIC's boxes": (lambda: saved("HEIF") + struct.pack(">I4s", 8, b"free") * 9000, "image.unsupported"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_opened(name, monkeypatch):
    make, code = BOMBS[name]
    data = make()
    if name != "Exif of 2 MiB":  # which is measured once Pillow has joined at most `MAX_PARSED_SEGMENTS`
        monkeypatch.setattr(Image, "open", None)
    for read in (check_photo, decode_photo):
        with pytest.raises(InputError) as error:
            read(data)
        assert error.value.code == code, error.value


@pytest.mark.parametrize("name", BOMBS)
def test_the_limits_bound_the_work(name):
    """Lines of Python are counted instead of seconds."""
    data = BOMBS[name][0]()
    files, lines = {structure.__file__, heif.__file__}, 0

    def count(frame, event, _):
        nonlocal lines
        lines += event == "line"
        return count if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        structure.check_structure(data, MAX_PIXELS)
    except InputError:
        pass
    finally:
        sys.settrace(before)
    assert lines < 20 * (structure.MAX_GIF_BLOCKS if name.startswith("GIF") else structure.MAX_PIXEL_CHUNKS)


ICC_SEGMENTS = [segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + SRGB[n * 3 : n * 3 + 3]) for n in range(1, 256)]
XMP_SEGMENT = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000))
LARGE = {
    "20 APP segments": lambda: jpeg(*[segment(0xE0 + n % 16, b"a maker's own\0" + bytes(9000)) for n in range(20)]),
    "a profile in 255 segments": lambda: jpeg(*ICC_SEGMENTS),
    "a depth map in extended XMP": lambda: jpeg(XMP_SEGMENT * 160),
    "Exif in several segments": lambda: jpeg(segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(60_000)) * 16),
    "padding": lambda: jpeg(b"\xff" * 4096),
    "a preview with its own scans": lambda: jpeg(segment(0xE1, b"Exif\0\0" + with_scans(90, (64, 64))[:60_000])),
    "pictures after the first one": lambda: jpeg() + with_scans(90) * 9,
    "100 scans": lambda: with_scans(100),
    "ten scans at 58 megapixels": lambda: with_scans(10, (7600, 7600)),
    "8,192 chunks of pixels": lambda: png(pixel_chunks=8192),
    "60,000 chunks of pixels": lambda: png(pixel_chunks=60_000),
    "strips of one row": lambda: tiff(10_000),
    "planar strips of one row": lambda: tiff(30_000, planes=3),
    "the Exif of a TIFF": lambda: exif_tiff(1000),
    "a stale offset of Exif": lambda: tiff(80, more=[(34665, 4, 1, 3000)]),
    "BigTIFF": lambda: tiff(80, big=True),
    "a run-length encoded BMP": lambda: bmp(64, 64, b"\x40\5\0\0" * 64 + b"\0\1"),
    "a GIF of 8 MiB": lambda: gif(b"!\xfe" + (b"\xff" + b"a" * 255) * 2**15 + b"\0"),
    "empty extensions": lambda: gif(b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0", b"!\xfe\0"),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_and_unusual_files_pass(name):
    data = LARGE[name]()
    structure.check_structure(data, MAX_PIXELS)
    with Image.open(io.BytesIO(data)) as image:  # the files are what they are said to be
        image.load() if image.width < 7000 else image.verify()


def options_of(kind):
    """A strategy for the options with which Pillow writes a format."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6
    meta = {"exif": st.sampled_from([None, exif.tobytes()]), "icc_profile": st.sampled_from([None, SRGB])}
    by_kind = {
        "JPEG": {
            **meta,
            "mode": st.sampled_from(["RGB", "L", "CMYK"]),
            "quality": st.integers(1, 100),
            "progressive": st.booleans(),
            "optimize": st.booleans(),
            "subsampling": st.sampled_from([0, 1, 2]),
            "restart_marker_rows": st.integers(0, 3),
            "comment": st.binary(max_size=99),
        },
        "PNG": {
            **meta,
            "mode": st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "I;16"]),
            "compress_level": st.integers(0, 9),
            "pnginfo": st.builds(lambda text: _info(text), st.text(st.characters(codec="latin-1"), max_size=99)),
        },
        "TIFF": {
            "mode": st.sampled_from(["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"]),
            "compression": st.sampled_from([None, "tiff_deflate", "tiff_lzw", "packbits"]),
            "big_tiff": st.booleans(),
            "icc_profile": meta["icc_profile"],
        },
        "WEBP": {**meta, "mode": st.sampled_from(["RGB", "RGBA"]), "lossless": st.booleans()},
        "GIF": {
            "mode": st.sampled_from(["P", "L", "RGB", "1"]),
            "interlace": st.booleans(),
            "comment": st.binary(max_size=999),
            "loop": st.integers(0, 9),
        },
        "BMP": {"mode": st.sampled_from(["RGB", "L", "P", "1"])},
        "MPO": {"mode": st.just("RGB"), "save_all": st.just(True), "append_images": st.just([picture()])},
        "HEIF": meta,
        "AVIF": meta,
    }
    return st.fixed_dictionaries(by_kind[kind])


def _info(text):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text, zip=len(text) % 2 == 0)
    return info


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "MPO", "HEIF", "AVIF"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_pillow_writes_passes(kind, data):
    size = data.draw(st.tuples(st.integers(64, 160), st.integers(64, 160)))
    options = {name: value for name, value in data.draw(options_of(kind)).items() if value is not None}
    file = saved(kind, size, **options)
    assert sorted(check_photo(file)[1]) == sorted(size)  # libheif applies the orientation


HEADS = [
    data[:size] for kind in ("JPEG", "PNG", "WEBP", "BMP", "HEIF") for data in [saved(kind)] for size in (12, 40, 700)
]
HEADS += [
    saved("GIF", mode="P")[:900],
    gif()[:14],
    tiff(80)[:200],
    tiff(80, big=True)[:200],
    b"MM\0+",
    b"II",
    b"",
    b"\xff\xd8\xff",
]


@given(st.sampled_from(HEADS), st.binary(max_size=600), st.data())
@settings(max_examples=600, deadline=None)
def test_damaged_files_raise_nothing_else(head, rest, data):
    file = bytearray(head + rest)
    for _ in range(data.draw(st.integers(0, 4)) if file else 0):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        structure.check_structure(bytes(file), MAX_PIXELS)
    except InputError as error:
        assert error.code.startswith("image.")


@pytest.mark.parametrize(
    ("padding", "passes"), [(b"", True), (bytes(2), True), (bytes(9), True), (bytes(range(9)), False)]
)
@pytest.mark.parametrize("after", [b"", b"\xff\xd9" * 70_000])
def test_equal_bytes_before_the_end_are_padding(padding, passes, after):
    data = jpeg(then=padding) + after
    if passes:
        assert decode_photo(data).shape == (80, 96, 3)
    else:
        with pytest.raises(InputError, match="extraneous") as error:
            decode_photo(data)
        assert error.value.code == "image.truncated"
