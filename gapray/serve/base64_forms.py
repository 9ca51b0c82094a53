"""Base64 in any form that clients send."""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Callable

from gapray.errors import InputError

_STEP = 2**18
"""Characters of base64 that are processed in one call of C code, during which no other thread runs: whole groups of four."""
_WHITE_SPACE = re.compile(r"[^\S ]+")
"""White space other than the space character."""
_PERCENT = {"%2B": "+", "%2F": "/", "%3D": "=", "%0D": "", "%0A": "", "%20": " "}
"""Percent-encoded characters that can occur in base64."""
_LINE_WIDTHS = (60, 64, 72, 76)
"""Line lengths at which common encoders wrap base64 [characters]."""
_URL_SAFE = str.maketrans("-_", "+/")


def decode_base64(text: str) -> bytes:
    """Decode base64 in any form that clients send.

    Accepts both alphabets (RFC 4648, sections 4 and 5), with or without padding and line breaks, percent-encoded, or with
    spaces that a form decoder made of ``+``.

    Raises:
        InputError: `request.invalid`, which says what is wrong.
    """
    if (data := _decode_strict(text)) is not None:
        return data
    if "%" in text:
        for encoded, character in _PERCENT.items():
            text = text.replace(encoded, character).replace(encoded.lower(), character)
    text = _map_slices(lambda part: _WHITE_SPACE.sub("", part), text).strip()
    if " " in text and not re.search(r"[+_-]", text) and not _has_spaces_for_line_breaks(text):
        text = text.replace(" ", "+")
    plain = _map_slices(lambda part: part.replace(" ", "").translate(_URL_SAFE), text).rstrip("=")
    if (invalid := re.search(r"[^A-Za-z0-9+/]", plain)) is not None:
        raise InputError("request.invalid", f"not base64: {invalid.group()!r} at character {invalid.start() + 1}")
    if len(plain) % 4 == 1:
        raise InputError(
            "request.invalid", f"not base64: of {len(plain)} characters the last stands for less than a byte"
        )
    return _decode_strict(plain + "=" * (-len(plain) % 4)) or b""


def _map_slices(change: Callable[[str], str], text: str) -> str:
    """Apply a per-character change to a text in slices, between which other threads can run."""
    return "".join(change(text[start : start + _STEP]) for start in range(0, len(text), _STEP))


def _decode_strict(text: str) -> bytes | None:
    """Decode standard base64 with padding, as most clients send it, in slices between which other threads can run.

    Returns:
        The bytes; None if the text has any other form.
    """
    if not text.isascii() or 0 <= text.find("=") < len(text) - 2:
        return None
    data = io.BytesIO()
    try:
        for start in range(0, len(text), _STEP):
            data.write(binascii.a2b_base64(text[start : start + _STEP], strict_mode=True))
    except binascii.Error:
        return None
    return data.getvalue()


def _has_spaces_for_line_breaks(text: str) -> bool:
    """Whether the spaces replace line breaks, as in an unquoted ``$(base64 FILE)``: the lines then have equal lengths.

    Programs that break lines also pad, so the rest is a multiple of four; a single ``+`` that became a space at the end of what
    could be a line leaves another length.
    """
    if (len(text) - text.count(" ")) % 4:
        return False
    width, spaces = text.index(" "), text.count(" ")
    breaks = text[width :: width + 1]
    regular = width % 4 == 0 and len(breaks) == spaces and not breaks.strip(" ")
    return regular and (spaces > 1 or width in _LINE_WIDTHS)
