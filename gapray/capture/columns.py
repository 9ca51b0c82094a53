"""Columns of numbers in file names: which of the numbers at the end of all names distinguishes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gapray.capture.stems import plain_stems
from gapray.errors import InputError

_TRAILING = re.compile(
    r"(?P<sign>(?:(?<=[_(\[=])|^)-)?(?P<number>\d+(?:[.,]\d+)?)[\s_]*(?P<unit>deg(?:rees?)?|°|º)?[\s)\]}）】]*$",
    re.IGNORECASE,
)
"""The number at the end of a name, as in ``mug_045``, ``mug-8``, ``mug 8``, ``mug (8)``, ``mug_22.5deg``. A hyphen before it
separates words, unless it follows another separator: ``mug_-45`` is minus 45 degrees."""
_SEPARATORS = re.compile(r"[\s_\-(\[{（【]+$")
Column = dict[str, re.Match[str]]
"""Name -> match of one number in it."""


def number_columns(names: Sequence[str]) -> list[Column]:
    """The columns of numbers at the end of all names that distinguish them, the last column first; at least one.

    A number that all names share ("mug_045 (1)", "mug_090 (1)") is skipped in favour of the one before it, with a word between them that
    all names share, too ("mug_045_1024x1024").

    Raises:
        InputError: `capture.ambiguous_azimuths`.
    """
    stems = dict(zip(names, plain_stems(names), strict=True))
    column = _last_numbers(stems)
    for name in names:
        if name not in column:
            raise InputError(
                "capture.ambiguous_azimuths", f"{name!r} does not end in a number of degrees or a frame number"
            )
    columns = [column]
    while len(column) == len(names):
        shared = not _distinguishes(column)
        stems = {name: _SEPARATORS.sub("", stems[name][: match.start()]) for name, match in column.items()}
        column = _last_numbers(stems)
        if shared and len(column) < len(names):
            column = _last_numbers(_without_shared_word(stems))
        columns.append(column)
    complete = columns[:-1]
    return [column for column in complete if _distinguishes(column)] or complete[:1]


def _last_numbers(stems: dict[str, str]) -> Column:
    return {name: match for name, stem in stems.items() if (match := _TRAILING.search(stem)) is not None}


def _distinguishes(column: Column) -> bool:
    """Whether not all numbers of a column are equal."""
    return len({_number(match) for match in column.values()}) > 1


def _without_shared_word(stems: dict[str, str]) -> dict[str, str]:
    """Stems without what stands behind their last digit, if that is the same in all of them."""
    ends = {
        name: max((at for at, sign in enumerate(stem) if sign.isdecimal()), default=-1) + 1
        for name, stem in stems.items()
    }
    words = {stem[ends[name] :].casefold() for name, stem in stems.items()}
    return {name: stem[: ends[name]] for name, stem in stems.items()} if len(words) == 1 else stems


def numbers_in_order(column: Column) -> dict[str, float]:
    """Name -> its number in a column, smallest first."""
    numbers = {name: _number(match) for name, match in column.items()}
    return dict(sorted(numbers.items(), key=lambda item: (item[1], item[0])))


def _number(match: re.Match[str]) -> float:
    number = float(match["number"].replace(",", "."))
    return -number if match["sign"] else number
