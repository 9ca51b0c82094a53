"""File names without what says nothing of a photo's place in its set, and their natural order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

_MAX_NAME = 1024
"""Only this many characters at the end of a name are read: a client may send a name of any length."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}([-_][A-Za-z]{1,9})?$")
"""A file extension, known or not: ``.jpg``, ``.download``, ``.jpg-large``. Digits after a dot are decimals instead: ``mug_22.5``."""
_SECOND_EXTENSION = re.compile(r"\.[A-Za-z]{1,4}$")


def by_name(names: Sequence[str]) -> list[str]:
    """Names in natural order: numbers anywhere in them compare as numbers, and case is ignored.

    Extensions only decide between equal stems, so that ``IMG_1.jpg`` comes before its numbered copy or successor ``IMG_1 (1).jpg``.
    """
    stems = dict(zip(names, plain_stems(names), strict=True))
    return sorted(names, key=lambda name: (natural_parts(stems[name]), name))


def natural_parts(name: str) -> list[tuple[int, str]]:
    """A key for natural sorting: IMG_2 comes before IMG_10, and case is ignored."""
    split = re.split(r"([0-9]+)", name)
    return [(int(part), "") if place % 2 else (0, part.casefold()) for place, part in enumerate(split)]


def plain_stems(names: Sequence[str]) -> list[str]:
    """File names without folders, extensions and percent-encoding (RFC 3986).

    The names of one product are decoded together or not at all: if decoding any of them gives control characters or invalid UTF-8,
    a percent sign is just a percent sign (``50%045.jpg``). A typographic minus becomes a hyphen.
    """
    return [stem for _, stem in folders_and_stems(names)]


def folders_and_stems(names: Sequence[str]) -> list[tuple[str, str]]:
    """Folder and stem of each name, decoded as described in `plain_stems`."""
    plain = [name[-_MAX_NAME:] for name in names]
    for _ in range(3):  # each client on the way may have encoded the name once more
        try:
            decoded = [unquote(name, errors="strict") for name in plain]
        except UnicodeDecodeError:
            break
        if decoded == plain or any(map(_CONTROL.search, decoded)):
            break
        plain = decoded
    parts = [name.replace("\\", "/").replace("−", "-").rpartition("/") for name in plain]
    return [(folder, _without_extension(name.strip())) for folder, _, name in parts]


def _without_extension(name: str) -> str:
    stem = _EXTENSION.sub("", name)
    while (shorter := _SECOND_EXTENSION.sub("", stem)) not in ("", stem):  # mug_045.jpg.webp
        stem = shorter
    return stem
