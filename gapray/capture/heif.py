"""Metadata of the primary image in a HEIF or AVIF file: its boxes (ISO/IEC 14496-12 and 23008-12), read without decoding.

Decoders do not report which of two orientations they have applied, nor do all of them report the pixels' colour space.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from gapray.errors import InputError

MAX_BOXES = 4096
"""Boxes inside one box; a photo of 108 megapixels in tiles of 512 x 512 has about 450 items, each with a box."""
MAX_META_BYTES = 2**20
"""Size of the box ``meta``, which is a few kilobytes in photos: it bounds the number of entries in its tables [bytes]."""
MAX_EXTENTS = 2**16
"""Extents in ``iloc``; photos have one for each item. An extent may take no bytes at all, so that `MAX_META_BYTES` does not bound them."""
MAX_EXIF_BYTES = 2**20
"""Size of Exif data: the extents of an item may overlap, and Pillow makes an object of each number in Exif [bytes]."""
EXIF_OFFSET = 4
"""Size of the field at the start of an Exif item that holds the offset of the TIFF header (ISO/IEC 23008-12, A.2.1) [bytes]."""


@dataclass(frozen=True)
class PrimaryImage:
    """Metadata of the primary image."""

    properties: tuple[tuple[bytes, bytes], ...]
    """Type and content of each property box, such as ``irot``, in the file's order."""
    exif: bytes
    """The TIFF structure of its Exif block; empty when there is none."""


def read_primary_image(data: bytes) -> PrimaryImage:
    """Read the metadata of a file's primary image.

    Args:
        data: The whole file. If it cannot be parsed, the result is empty: its decoder decides whether it is damaged.

    Raises:
        InputError: `image.unsupported` for numbers of boxes or entries that no photo has.
    """
    try:
        content = dict(_boxes(data))[b"meta"]
        _refuse_more(len(content), MAX_META_BYTES, "bytes in its metadata box")
        meta = dict(_boxes(content[4:]))
        item = _number(meta[b"pitm"], 4, 2 if meta[b"pitm"][0] == 0 else 4)
        return PrimaryImage(tuple(_properties(meta, item)), _exif(data, meta))
    except (KeyError, IndexError, struct.error):
        return PrimaryImage((), b"")


def _refuse_more(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise InputError("image.unsupported", f"the file has more than {limit} {what}, which no photo needs")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box."""
    at = number = 0
    while at + 8 <= len(data):
        number += 1
        _refuse_more(number, MAX_BOXES, "boxes")
        size, kind = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1:
            size, begin = _number(data, begin, 8), begin + 8
        end = at + size if size else len(data)
        if end < begin:
            return
        yield kind, data[begin:end]
        at = end


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "big")


def _properties(meta: dict[bytes, bytes], item: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the properties of an item: ``ipco`` lists all properties, ``ipma`` assigns them to items by number."""
    known = dict(_boxes(meta[b"iprp"]))
    listed, links = list(_boxes(known[b"ipco"])), known[b"ipma"]
    id_bytes, wide = (2 if links[0] == 0 else 4), links[3] & 1
    at = 8
    for _ in range(_number(links, 4, 4)):
        owner, count = _number(links, at, id_bytes), _number(links, at + id_bytes, 1)
        at += id_bytes + 1
        numbers = [
            _number(links, at + step * (1 + wide), 1 + wide) & (0x7FFF if wide else 0x7F) for step in range(count)
        ]
        at += count * (1 + wide)
        if owner == item:
            yield from (listed[number - 1] for number in numbers if number)


def _exif(data: bytes, meta: dict[bytes, bytes]) -> bytes:
    items = [content for kind, content in _boxes(meta[b"iinf"][6 if meta[b"iinf"][0] == 0 else 8 :]) if kind == b"infe"]
    for entry in items:
        size = 2 if entry[0] < 3 else 4
        if entry[4 + size + 2 : 4 + size + 6] == b"Exif":
            block = b"".join(_extents(data, meta, _number(entry, 4, size)))
            return block[EXIF_OFFSET + _number(block, 0, EXIF_OFFSET) :]
    return b""


def _extents(data: bytes, meta: dict[bytes, bytes], item: int) -> Iterator[bytes]:
    """Yield the pieces of an item's content, which ``iloc`` locates."""
    box = meta[b"iloc"]
    version, sizes = box[0], [box[4] >> 4, box[4] & 15, box[5] >> 4, box[5] & 15 if box[0] else 0]
    offset_bytes, length_bytes, base_bytes, index_bytes = sizes
    id_bytes = 4 if version == 2 else 2
    at = 6 + id_bytes
    extents = total = 0
    for _ in range(_number(box, 6, id_bytes)):
        owner = _number(box, at, id_bytes)
        at += id_bytes
        inside = bool(version) and _number(box, at, 2) & 15 == 1  # offsets are relative to the box idat
        at += (2 if version else 0) + 2
        base = _number(box, at, base_bytes)
        count = _number(box, at + base_bytes, 2)
        at += base_bytes + 2
        extents += count
        _refuse_more(extents, MAX_EXTENTS, "extents of items")
        for _ in range(count):
            at += index_bytes
            begin, length = base + _number(box, at, offset_bytes), _number(box, at + offset_bytes, length_bytes)
            at += offset_bytes + length_bytes
            if owner == item:
                total += length
                _refuse_more(total, MAX_EXIF_BYTES, "bytes of Exif data")
                yield (meta[b"idat"] if inside else data)[begin : begin + length]
