"""Which colours the numbers of a photo mean: code points of ITU-T H.273, which formats write in places of their own."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import Image

from gapray.capture.heif import primary_of

_ICC_TABLE = 128
"""Where a profile's list of tags begins (ICC.1:2022, 7.3)."""


@dataclass(frozen=True)
class CodePoints:
    """Numbers of H.273's tables 2 and 3."""

    primaries: int
    transfer: int


def code_points_of(image: Image.Image, data: bytes) -> CodePoints | None:
    """What a file says in numbers: ``colr`` of HEIC and AVIF, ``cICP`` of PNG, or the tag ``cicp`` of an ICC profile.

    A base picture with a gain map says what the base is in.

    Args:
        image: Opened.
        data: Its file.

    Returns:
        None where the file says nothing.
    """
    if image.format in ("HEIF", "AVIF"):
        found = _of_boxes(image, data)
    else:
        found = _of_png(data) if image.format == "PNG" else None
    return found or _of_profile(image.info.get("icc_profile") or b"")


def _of_boxes(image: Image.Image, data: bytes) -> CodePoints | None:
    for kind, content in primary_of(data).properties:
        if kind == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
            return CodePoints(*struct.unpack_from(">HH", content, 4))
    stream = image.info.get("nclx_profile")  # of the picture's own bit stream, by libheif
    return CodePoints(stream["color_primaries"], stream["transfer_characteristics"]) if stream else None


def _of_png(data: bytes) -> CodePoints | None:
    """``cICP`` (PNG 3, 11.3.2.6), which stands before the pixels."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            return None
        if kind == b"cICP" and at + 10 <= len(data):
            return CodePoints(data[at + 8], data[at + 9])
        at += 12 + size
    return None


def _of_profile(profile: bytes) -> CodePoints | None:
    """``cicp`` (ICC.1:2022, 9.2.17 and 10.3)."""
    try:
        (count,) = struct.unpack_from(">I", profile, _ICC_TABLE)
        for index in range(min(count, 256)):
            tag, at = struct.unpack_from(">4sI", profile, _ICC_TABLE + 4 + 12 * index)
            if tag == b"cicp":
                return CodePoints(profile[at + 8], profile[at + 9])
    except (struct.error, IndexError):
        pass  # an ICC profile that is too short is refused where it is read
    return None
