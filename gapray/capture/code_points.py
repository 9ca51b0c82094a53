"""Colour spaces of photos: the code points of ITU-T H.273, which each image format stores in its own way."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from gapray.capture.colours import ADOBE_RGB, BT709, D65, SRGB_GAMMA, Encoding
from gapray.capture.heif import read_primary_image
from gapray.errors import InputError

_TOLERANCE = 0.01
"""Gammas and chromaticities are rounded in files, by some programs to two decimals."""
_ICC_TABLE = 128
"""Offset of a profile's tag table [bytes] (ICC.1:2022, 7.3)."""


@dataclass(frozen=True)
class CodePoints:
    """Colour primaries and transfer characteristics (ITU-T H.273)."""

    primaries: int
    """Code of table 2."""
    transfer: int
    """Code of table 3."""


def code_points_of(image: Image.Image, data: bytes) -> CodePoints | None:
    """The code points of a file: ``colr`` of HEIC and AVIF, ``cICP`` of PNG, or the tag ``cicp`` of an ICC profile.

    For an image with a gain map they are those of the base image.

    Args:
        image: The open image.
        data: Its file's bytes.

    Returns:
        The code points; None when the file has none.
    """
    if image.format in ("HEIF", "AVIF"):
        points = _of_boxes(image, data)
    else:
        points = _of_png(data) if image.format == "PNG" else None
    return points or _of_profile(image.info.get("icc_profile") or b"")


def encoding_of(image: Image.Image) -> Encoding | None:
    """The encoding of a file without profile and code points, by ``gAMA`` and ``cHRM`` of PNG or Exif's mark for Adobe RGB.

    Returns:
        The encoding; None when it is sRGB or not stated.

    Raises:
        InputError: `image.bad_profile` when gamma or chromaticities are not valid.
    """
    if image.format == "PNG":
        return None if "srgb" in image.info else _of_gamma(image.info.get("gamma"), image.info.get("chromaticity"))
    # DCF 2.0, 3.3.5.3: cameras mark Adobe RGB by "R03", and by a file name that begins with an underscore.
    try:
        interoperability = image.getexif().get_ifd(ExifTags.IFD.Interop).get(1)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error):
        return None  # damaged metadata do not make the photo unusable
    return ADOBE_RGB if interoperability == "R03" else None


def _of_gamma(gamma: float | None, chromaticity: Sequence[float] | None) -> Encoding | None:
    """Encoding by ``gAMA`` and ``cHRM`` (PNG 3, 11.3.2.1 and 11.3.2.2); Pillow lists x, y of white, red, green and blue."""
    power = 1 / gamma if gamma else None
    white, *primaries = zip(chromaticity[::2], chromaticity[1::2], strict=True) if chromaticity else (D65, *BT709)
    common = power is None or abs(power / SRGB_GAMMA - 1) < 2 * _TOLERANCE
    if common and np.allclose((white, *primaries), (D65, *BT709), atol=_TOLERANCE):
        return None
    encoding = Encoding((primaries[0], primaries[1], primaries[2]), white, power)
    if min(y for _, y in (white, *primaries)) <= 0 or _is_degenerate(encoding) or not 0.1 <= (power or 1.0) <= 10:
        raise InputError("image.bad_profile", f"gamma {gamma} and chromaticities {chromaticity} are not valid")
    return encoding


def _is_degenerate(encoding: Encoding) -> bool:
    """Whether the primaries are collinear, so that their gamut is empty."""
    (ax, ay), (bx, by), (cx, cy) = encoding.primaries
    return abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) < _TOLERANCE**2


def _of_boxes(image: Image.Image, data: bytes) -> CodePoints | None:
    for kind, content in read_primary_image(data).properties:
        if kind == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
            return CodePoints(*struct.unpack_from(">HH", content, 4))
    stream = image.info.get("nclx_profile")  # libheif takes it from the image's bit stream
    return CodePoints(stream["color_primaries"], stream["transfer_characteristics"]) if stream else None


def _of_png(data: bytes) -> CodePoints | None:
    """Code points of ``cICP`` (PNG 3, 11.3.2.6), which precedes the pixels; None when there is none."""
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
    """Code points of the tag ``cicp`` (ICC.1:2022, 9.2.17 and 10.3); None when the profile has none."""
    try:
        (count,) = struct.unpack_from(">I", profile, _ICC_TABLE)
        for index in range(min(count, 256)):
            tag, at = struct.unpack_from(">4sI", profile, _ICC_TABLE + 4 + 12 * index)
            if tag == b"cicp":
                return CodePoints(profile[at + 8], profile[at + 9])
    except (struct.error, IndexError):
        pass  # a truncated profile is refused when it is loaded
    return None
