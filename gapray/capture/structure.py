"""Counts what a photo's file consists of, before anything opens it, and refuses numbers that no photo has.

Pillow opens a file in Python: each segment, chunk, block, page and strip takes it microseconds and up to a kilobyte, each repeated Exif
segment copies all earlier ones, and each scan of a JPEG makes libjpeg pass over all pixels again. A file of a few megabytes can thus
take minutes or gigabytes. The functions here follow the decoders' own way through a file, without their work: they search bytes in C
and take at most as many steps in Python as the limits allow. Damage is left to the decoders, which report it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from gapray.capture.heif import read_primary_image
from gapray.errors import InputError

MAX_SEGMENTS = 4096
"""Segments of a JPEG, ancillary chunks of a PNG or chunks of a WebP: full segments (64 KiB) of so many would have 256 MiB."""
MAX_PARSED_SEGMENTS = 64
"""Exif or Photoshop segments of a JPEG (4 MiB), which Pillow joins or parses one by one; cameras and editors write one to three."""
MAX_HEADER_STRAY_BYTES = 2**16
"""Bytes between the segments of a JPEG's header, each of which costs Pillow a step; files have none, or some padding."""
MAX_SCANS = 100
"""Scans of a JPEG. Progressive photos have about ten; libtiff has the same limit."""
SCANS_OF_LARGEST = 20
"""Scans of a JPEG that has as many pixels as are accepted; smaller ones may have proportionally more, up to `MAX_SCANS`."""
MAX_PIXEL_CHUNKS = 2**16
"""``IDAT`` chunks of a PNG; a file of 64 MiB in usual chunks of 8 KiB has 8,192."""
MAX_GIF_BLOCKS = 2**19
"""Blocks and sub-blocks of a GIF; a file of 64 MiB in full sub-blocks of 255 bytes has 263,000."""
MAX_STRIPS = 2**16
"""Strips or tiles of a TIFF: one for each row of each of four planes of a photo of 16,384 rows."""
MAX_PAGES = 8
"""Pages of a TIFF, among which the photo is looked for: itself, and reduced versions of it."""
MAX_TAGS = 4096
"""Tags in a directory of a TIFF; photos and raw files have up to 200."""
MAX_VALUES, MAX_EXIF_VALUES = 2**19, 2**16
"""Numbers in all tags of a TIFF's directory (offsets and sizes of strips, and colour maps), and of its Exif directories. Directories
after the first may have an eighth of the first's."""
MAX_RLE_BYTES = 2**22
"""Bytes and pixels of a run-length encoded BMP, which Pillow decodes in Python at about 2 MB/s; it suits line art only."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
"""A JPEG marker other than the restart markers and TEM, which have no segment (ITU-T T.81, table B.1)."""
_SOI, _EOI, _SOS, _DAC, _EXIF, _PHOTOSHOP = 0xD8, 0xD9, 0xDA, 0xCC, 0xE1, 0xED
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, _DAC}
_WITH_SEGMENT = _FRAMES | {0xC4, *range(_SOS, 0xF0), 0xFE}
"""Markers that are followed by a segment; Pillow takes all others for bare ones, and libjpeg refuses those."""

_TIFF_HEADS = (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")
"""First bytes of what Pillow takes for a TIFF, those of invalid order included."""
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Type of a TIFF tag (TIFF 6.0, section 2, and BigTIFF) -> size of a value [bytes]."""
_BYTE_TYPES = frozenset({1, 2, 7})
"""Types whose values stay bytes or text; Pillow makes a Python object of each value of the others."""
_OFFSET_TYPES = {3: "H", 4: "I", 13: "I", 16: "Q"}
"""Types that an offset can have -> format in `struct`."""
_STRIP_TAGS = frozenset({273, 279, 324, 325})
_COLOUR_MAP = 320
_POINTER_TAGS = frozenset({34665, 34853, 40965})
"""Tags that lead to the directories of Exif, GPS and interoperability (Exif 2.32, 4.6.3)."""


def check_structure(data: bytes, max_pixels: int) -> None:
    """Refuse a file that consists of more parts than any photo.

    Args:
        data: The file's bytes, in any format; formats that gapray does not read pass.
        max_pixels: Largest accepted width x height [pixels].

    Raises:
        InputError: `image.unsupported`; `image.too_many_frames` for several pages or frames; `image.too_many_pixels` for a WebP,
            whose decoder allocates its canvas when it is opened.
    """
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data, max_pixels)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(data)
    elif data.startswith(_TIFF_HEADS):
        _check_tiff(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        _check_webp(data, max_pixels)
    elif data[4:8] == b"ftyp":
        read_primary_image(data)  # has limits of its own
    elif data.startswith(b"BM"):
        _check_bmp(data)


def _refuse_more(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise InputError("image.unsupported", f"the file has more than {limit} {what}, which no photo needs")


def _check_jpeg(data: bytes, max_pixels: int) -> None:
    """Count segments and scans of the first image; those that follow it (previews, depth maps, a film) are not read."""
    at, segments, parsed, stray, scans, pixels = 2, 0, 0, 0, 0, 1
    while (found := _MARKER.search(data, at)) is not None:
        marker, begin = data[found.start() + 1], found.end()
        stray += 0 if scans else found.start() - at
        at = begin
        if marker == _EOI and scans:
            break
        segments += 1
        if marker in _WITH_SEGMENT:
            at += max(2, int.from_bytes(data[begin : begin + 2], "big"))
        if marker == _SOS:
            scans += 1
        elif marker in _FRAMES:
            height, width = (
                int.from_bytes(data[begin + 3 : begin + 5], "big"),
                int.from_bytes(data[begin + 5 : begin + 7], "big"),
            )
            pixels = max(pixels, height * width)
        elif marker == _DAC:
            # The decoders would disagree on where it ends.
            raise InputError("image.unsupported", "a JPEG with arithmetic coding")
        elif marker in (_EXIF, _PHOTOSHOP) and data.startswith((b"Exif\0\0", b"Photoshop 3.0\0"), begin + 2):
            parsed += 1
        _refuse_more(segments, MAX_SEGMENTS, "segments")
        _refuse_more(parsed, MAX_PARSED_SEGMENTS, "segments of Exif and Photoshop data")
        _refuse_more(stray, MAX_HEADER_STRAY_BYTES, "stray bytes in its header")
        # A larger photo is refused for its pixels.
        _refuse_more(scans, min(MAX_SCANS, SCANS_OF_LARGEST * max_pixels // min(pixels, max_pixels)), "scans")
    _refuse_more(0 if scans else len(data) - at, MAX_HEADER_STRAY_BYTES, "stray bytes in its header")


def _check_png(data: bytes) -> None:
    at, ancillary, of_pixels = 8, 0, 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            of_pixels += 1
        else:
            ancillary += 1
        _refuse_more(ancillary, MAX_SEGMENTS, "chunks besides those of its pixels")
        _refuse_more(of_pixels, MAX_PIXEL_CHUNKS, "chunks of pixels")
        at += 12 + size


def _check_gif(data: bytes) -> None:
    """Count blocks as Pillow reads them, which takes what is no block for padding."""
    at = 13 + _gif_palette(data, 10)
    blocks = images = 0
    while at < len(data) and (kind := data[at : at + 1]) != b";":
        if kind == b"!":
            label, at = data[at + 1 : at + 2], at + 2
            # Pillow reads the first block of an extension, and two of NETSCAPE's, even where they are empty.
            netscape = label == b"\xff" and not images and data.startswith(b"NETSCAPE2.0", at + 1) and data[at] >= 11
            needed = 0 if label == b"\xfe" else 2 if netscape else 1
        elif kind == b",":
            images += 1
            if images > 1:
                raise InputError("image.too_many_frames", "the file holds several frames")
            at, needed = at + 11 + _gif_palette(data, at + 9), 0
        else:
            at, needed = at + 1, -1
        blocks += 1
        while needed >= 0 and at < len(data):
            size = data[at]
            at, blocks = at + 1 + size, blocks + 1
            if size == 0 and needed <= 0:
                break
            needed = max(0, needed - 1)
            _refuse_more(blocks, MAX_GIF_BLOCKS, "blocks")
        _refuse_more(blocks, MAX_GIF_BLOCKS, "blocks")


def _gif_palette(data: bytes, at: int) -> int:
    """Size of the palette that the flags at an offset announce [bytes]."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _check_tiff(data: bytes) -> None:
    """Count strips, tags and pages, and the numbers in the directories of Exif, all of which Pillow reads with the pixels."""
    order, big = "<" if data.startswith(b"II") else ">", data[2] == 43
    page = _number(data, 8 if big else 4, "Q" if big else "I", order)
    metadata: list[int] = []
    pages: list[int] = []
    while not pages or (page and page not in pages and page < len(data)):
        if len(pages) == MAX_PAGES:
            raise InputError("image.too_many_frames", f"the file holds more than {MAX_PAGES} pages")
        max_values = MAX_VALUES // MAX_PAGES if pages else MAX_VALUES
        pages.append(page)
        found, page = _check_directory(data, page, order, MAX_TAGS, max_values, big=big)
        metadata += found
    for at in metadata:
        # An editor may have left an offset that leads to pixels, in which any number of tags seems to be.
        nested, _ = _check_directory(data, at, order, 2**16, MAX_EXIF_VALUES, big=big)
        for inner in nested:
            _check_directory(data, inner, order, 2**16, MAX_EXIF_VALUES, big=big)


def _check_directory(
    data: bytes, at: int, order: str, max_tags: int, max_values: int, *, big: bool
) -> tuple[list[int], int]:
    """Count the values in a directory's tags.

    Returns:
        Offsets of the directories of metadata to which its tags lead, and of the directory that follows (0 = none).
    """
    head, entry, offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    count = _number(data, at, head, order)
    begin, step, inline = at + struct.calcsize(head), struct.calcsize(order + entry), struct.calcsize(offset)
    complete = max(0, min(count, (len(data) - begin) // step))
    _refuse_more(complete, max_tags, "tags in a directory")
    pointers, values = [], 0
    for tag, kind, number, value in struct.iter_unpack(order + entry, data[begin : begin + complete * step]):
        size = number * _TYPE_BYTES.get(kind, len(data) + 1)
        if size > len(data):
            continue  # Pillow skips it as well
        if tag in _STRIP_TAGS:
            _refuse_more(number, MAX_STRIPS, "strips or tiles")
        if kind not in _BYTE_TYPES or tag in _STRIP_TAGS or tag == _COLOUR_MAP:
            values += number
            _refuse_more(values, max_values, "numbers in its tags")
        if tag in _POINTER_TAGS and number and kind in _OFFSET_TYPES:
            source, place = (value, 0) if size <= inline else (data, _number(value, 0, offset, order))
            pointers.append(_number(source, place, _OFFSET_TYPES[kind], order))
            _refuse_more(len(pointers), len(_POINTER_TAGS), "directories of metadata")
    return pointers, _number(data, begin + count * step, offset, order)


def _number(data: bytes, at: int, kind: str, order: str) -> int:
    """An unsigned number; 0 beyond the end of the data."""
    size = struct.calcsize(order + kind)
    return int(struct.unpack_from(order + kind, data, at)[0]) if at + size <= len(data) else 0


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield type and offset of the content of each chunk."""
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        yield kind, at + 8
        at += 8 + size + size % 2


def _check_webp(data: bytes, max_pixels: int) -> None:
    frames = 0
    for number, (kind, at) in enumerate(_riff_chunks(data), 1):
        _refuse_more(number, MAX_SEGMENTS, "chunks")
        frames += kind == b"ANMF"
        if frames > 1:
            raise InputError("image.too_many_frames", "the file holds several frames")
        if kind == b"VP8X" and at + 10 <= len(data):
            width, height = (1 + int.from_bytes(data[begin : begin + 3], "little") for begin in (at + 4, at + 7))
            if width * height > max_pixels:
                raise InputError("image.too_many_pixels", f"{width} x {height} pixels; the limit is {max_pixels}")


def _check_bmp(data: bytes) -> None:
    """Refuse a large BMP in run-length encoding (BI_RLE8 = 1, BI_RLE4 = 2)."""
    if len(data) >= 34 and _number(data, 14, "I", "<") >= 40 and _number(data, 30, "I", "<") in (1, 2):
        width, height = (abs(size) for size in struct.unpack_from("<ii", data, 18))
        _refuse_more(max(len(data), width * height), MAX_RLE_BYTES, "bytes or pixels in run-length encoding")
