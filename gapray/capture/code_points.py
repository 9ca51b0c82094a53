"""Which colours the numbers of a photo mean: code points of ITU-T H.273, which formats write in places of their own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from gapray.capture.colours import ADOBE_RGB, BT709, D65, SRGB_GAMMA, Encoding
from gapray.capture.heif import primary_of
from gapray.errors import InputError

_SAME = 0.01
"""Gammas and chromaticities are written rounded, by some programs to two places."""
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


def encoding_of(image: Image.Image) -> Encoding | None:
    """What a file without profile and code points says of its levels: ``gAMA`` and ``cHRM`` of PNG, Exif's mark of Adobe RGB.

    Returns:
        None where it says nothing, or what is sRGB.

    Raises:
        InputError: `image.bad_profile`: no colours have these numbers.
    """
    if image.format == "PNG":
        return None if "srgb" in image.info else _of_gamma(image.info.get("gamma"), image.info.get("chromaticity"))
    # DCF 2.0, 3.3.5.3: cameras mark Adobe RGB by "R03", and by a name that begins with an underscore.
    try:
        interoperability = image.getexif().get_ifd(ExifTags.IFD.Interop).get(1)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error):
        return None  # damaged metadata: the picture decides
    return ADOBE_RGB if interoperability == "R03" else None


def _of_gamma(gamma: float | None, chromaticity: Sequence[float] | None) -> Encoding | None:
    """PNG 3, 11.3.2.1 and 11.3.2.2; Pillow gives white, red, green and blue in one row."""
    power = 1 / gamma if gamma else None
    white, *primaries = zip(chromaticity[::2], chromaticity[1::2], strict=True) if chromaticity else (D65, *BT709)
    common = power is None or abs(power / SRGB_GAMMA - 1) < 2 * _SAME
    if common and np.allclose((white, *primaries), (D65, *BT709), atol=_SAME):
        return None
    found = Encoding((primaries[0], primaries[1], primaries[2]), white, power)
    if min(y for _, y in (white, *primaries)) <= 0 or _is_flat(found) or not 0.1 <= (power or 1.0) <= 10:
        raise InputError("image.bad_profile", f"gamma {gamma} and chromaticities {chromaticity} are no colours")
    return found


def _is_flat(encoding: Encoding) -> bool:
    """Whether the primaries lie on one line, so that they make no colours."""
    (ax, ay), (bx, by), (cx, cy) = encoding.primaries
    return abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) < _SAME**2


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
