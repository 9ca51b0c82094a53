"""Azimuths from file names, and an error wherever more than one reading is possible.

Folders, zip files and requests share these functions, so that names mean the same however the photos arrive.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gapray.capture.columns import Column, number_columns, numbers_in_order
from gapray.capture.stems import folders_and_stems, plain_stems
from gapray.errors import InputError

MIN_VIEWS = 4
NORMAL_GAP_DEG = 45.0
"""Spacing of the standard eight views."""
GAP_SLACK = 1.5
"""A gap wider than this many times the usual gap means that a view is missing."""
TURN_COUNTS = frozenset({8, 12, 16, 18, 24, 30, 32, 36, 40, 48, 60, 64, 72, 90, 120, 180})
"""Common numbers of photos in one turn. A set with one photo more may end in a closing frame at 360 degrees."""
REWRITE = " Name the photos by degrees (mug_045.jpg), or put a capture.csv beside them: file,azimuth in its first line."
AzimuthsBy = Literal["degrees", "frames", "table", "order"]
"""Where azimuths come from: degrees in the names, frame numbers in the names, a table (`capture.csv`, a manifest, the fields of a
request), or only the order of the photos."""
_NUMBER = re.compile(r"(?P<number>-?\d+(?:[.,]\d+)?)(?:[\s_]*(?:deg(?:rees?)?|°|º)(?![^\W\d_]))?", re.IGNORECASE)
"""A number anywhere in a name, with its unit and a preceding hyphen, whether or not that is a sign."""


@dataclass(frozen=True)
class AzimuthOptions:
    """How to read azimuths from the names of photos."""

    direction: Literal["ccw", "cw"] = "ccw"
    """Direction in which the camera moved around the product, seen from above; `cw` mirrors the azimuths."""
    front: int = 0
    """Index of the front photo in the order of the names' numbers (0-based)."""
    names: Literal["auto", "degrees", "index", "order"] = "auto"
    """Meaning of the number at the end of a name. `order` ignores the numbers and spaces the photos evenly in the order in which a
    request sends them or, for a folder or zip file, in the order of their names (`by_name`)."""
    closing_frame: Literal["auto", "drop", "keep"] = "auto"
    """Whether the last photo of a numbered turn shows the front again."""
    allow_missing: bool = False
    """Accept a set in which a view is missing."""


@dataclass(frozen=True)
class Reading:
    """The azimuths of one product's photos, and where they come from."""

    azimuths: dict[str, float]
    """Name -> degrees in [0, 360). A closing frame at 360 is left out."""
    by: AzimuthsBy
    """Where the azimuths come from."""


def read_names(names: Sequence[str], options: AzimuthOptions = AzimuthOptions()) -> Reading:
    """Read the azimuth of each photo from the number at the end of its name.

    Args:
        names: File names of one product's photos, in any order. Percent-encoding left by clients and downloads is decoded first.
        options: Direction, front photo, and how to resolve ambiguous names.

    Returns:
        The azimuths in the order of the names' numbers.

    Raises:
        InputError: `capture.no_photos`, `capture.ambiguous_azimuths`, `capture.duplicate_azimuth` or
            `capture.missing_views`.
    """
    if not names:
        raise InputError("capture.no_photos", "the folder holds no photo")
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError("capture.duplicate_azimuth", f"{count} photos are called {name!r}")
    if options.names == "order":
        return in_order(names, options)
    columns = number_columns(names)
    _refuse_mixed(names, columns[0])
    before_count = _degrees_before_a_count(columns, options)
    if before_count is not None:
        return Reading(_whole_turn(before_count, options), "degrees")
    has_unit = any(match["unit"] for match in columns[0].values())
    ordered = numbers_in_order(columns[0])
    _refuse_duplicates(ordered)
    meaning = "degrees" if has_unit and options.names == "auto" else options.names
    as_degrees, as_index = _as_degrees(ordered), _as_index(ordered, options)
    if meaning == "auto":
        meaning = _settle(ordered, as_degrees, as_index, options)
    chosen = as_degrees if meaning == "degrees" else as_index
    if chosen is None:
        raise InputError(
            "capture.ambiguous_azimuths", f"the names' numbers are not {meaning}: {_abridged(ordered)}{REWRITE}"
        )
    if meaning == "index" and options.names == "auto":
        _refuse_odd_count(len(chosen))
    return Reading(_whole_turn(chosen, options), "degrees" if meaning == "degrees" else "frames")


def in_order(keys: Sequence[str], options: AzimuthOptions = AzimuthOptions()) -> Reading:
    """Azimuths in even steps, in the order of the photos, when nothing else is known about them.

    Args:
        keys: Unique keys of the photos.
        options: Direction, front photo and missing views.

    Raises:
        InputError: `capture.ambiguous_azimuths` or `capture.missing_views`.
    """
    steps = {key: index * 360.0 / len(keys) for index, key in enumerate(keys)}
    return Reading(_whole_turn(steps, options), "order")


def numbered(names: Sequence[str]) -> bool:
    """Whether the photos are numbered: at least two of the names differ only in their numbers.

    Names that differ in other ways too, such as random ones that happen to contain digits, do not count, nor do equal names.
    """
    distinct = {stem.casefold() for stem in plain_stems(names)}
    forms = Counter(form for form in map(_form, distinct) if "#" in form)
    return any(count > 1 for count in forms.values())


def in_folders(names: Sequence[str]) -> bool:
    """Whether the names include folders that group the photos: each folder may then be a product of its own."""
    return _forms_groups([folder for folder, _ in folders_and_stems(names)])


def _form(stem: str) -> str:
    """A name with each number replaced by ``#``, without case, units and punctuation."""
    text = unicodedata.normalize("NFC", stem).casefold().replace("#", "")
    return re.sub(r"[^\w#]|_", "", _NUMBER.sub("#", text))


def _numbers(stem: str) -> list[float]:
    return [float(match["number"].replace(",", ".")) for match in _NUMBER.finditer(stem)]


def _forms_groups(marks: Sequence[Hashable]) -> bool:
    """Whether marks divide the photos into groups: some share a mark that others lack. Marks that are all different do not."""
    return 1 < len(set(marks)) < len(marks)


def _refuse_mixed(names: Sequence[str], last: Column) -> None:
    """Refuse names that differ in more than the angle: those of two products, copies, edited versions or details.

    The number at the end of such a name need not be an angle (``mug_090_v2``, ``mug_detail_1``), and half of the photos may show
    another product (``SKU-100-1``, ``SKU-101-5``). Names whose words all differ (``front_000``, ``back_180``) are accepted.

    Args:
        names: At least one name.
        last: The last number of each name.

    Raises:
        InputError: `capture.ambiguous_azimuths`, or `capture.duplicate_azimuth` where such names end in the same number.
    """
    parts = folders_and_stems(names)
    forms = [_form(stem) for _, stem in parts]
    candidates: list[Sequence[Hashable]] = [[folder for folder, _ in parts], forms]
    if len(set(forms)) == 1:
        earlier = zip(*(_numbers(stem)[:-1] for _, stem in parts), strict=True)
        # A time of day in the names may repeat, but has many values; product numbers in one folder have few.
        candidates += [numbers for numbers in earlier if len(set(numbers)) <= max(2, len(names) // 4)]
    marks = next((marks for marks in candidates if _forms_groups(marks)), None)
    if marks is None:
        known = set(forms)  # mug_000 and mug_090_v2 alone: only one of two names has the extra words
        marks = [any(form[:end] in known for end in range(1, len(form))) for form in forms]
    commonest = Counter(marks).most_common(1)[0][0]
    outliers = [name for name, mark in zip(names, marks, strict=True) if mark != commonest]
    if not outliers:
        return
    _refuse_duplicates(numbers_in_order(last))
    usual = next(name for name, mark in zip(names, marks, strict=True) if mark == commonest)
    listed = ", ".join(map(repr, outliers[:6])) + (f" and {len(outliers) - 6} more" if len(outliers) > 6 else "")
    raise InputError(
        "capture.ambiguous_azimuths",
        f"{listed}: named otherwise than the other {len(names) - len(outliers)} ({usual!r}). Do all show one product, and is the "
        f"last number of each its angle?{REWRITE}",
    )


def _whole_turn(azimuths: dict[str, float], options: AzimuthOptions) -> dict[str, float]:
    oriented = orient(azimuths, options)
    refuse_gaps(oriented, allow_missing=options.allow_missing)
    return oriented


def _degrees_before_a_count(columns: Sequence[Column], options: AzimuthOptions) -> dict[str, float] | None:
    """Azimuths of names that hold degrees followed by a count: ``mug_045_2``, ``mug_045deg-2``.

    Returns:
        Name -> degrees; None when no number before the last one is degrees.

    Raises:
        InputError: `capture.ambiguous_azimuths` when either number could be meant and they disagree.
    """
    if options.names == "index":
        return None
    last = numbers_in_order(columns[0])
    for column in columns[1:]:
        ordered = numbers_in_order(column)
        azimuths = _as_degrees(ordered) if len(set(ordered.values())) == len(ordered) else None
        with_unit = any(match["unit"] for match in column.values())
        if azimuths is None or not (with_unit or (_on_a_grid(list(ordered.values())) and _goes_round(azimuths))):
            continue
        as_degrees, as_count = _as_degrees(last), _as_any_count(last, options)
        readings = [as_count] if as_count is not None else []
        readings += [as_degrees] if as_degrees is not None and _goes_round(as_degrees) else []
        if with_unit or options.names == "degrees" or all(other == azimuths for other in readings):
            return azimuths
        raise InputError(
            "capture.ambiguous_azimuths",
            f"two numbers tell the photos apart, and they say different things: {_abridged(ordered)}. Pass --names degrees to "
            "go by the degrees, or --names index to go by the count behind them.",
        )
    return None


def orient(azimuths: dict[str, float], options: AzimuthOptions) -> dict[str, float]:
    """Apply `front` and `direction` to azimuths as named.

    Returns:
        Name -> degrees in [0, 360).

    Raises:
        InputError: `capture.ambiguous_azimuths` when there is no photo with the index `front`.
    """
    if not 0 <= options.front < len(azimuths):
        raise InputError(
            "capture.ambiguous_azimuths", f"--front {options.front} names no photo: they are 0 to {len(azimuths) - 1}"
        )
    zero = list(azimuths.values())[options.front] if options.front else 0.0
    sign = 1.0 if options.direction == "ccw" else -1.0
    return {name: round(sign * (azimuth - zero) % 360.0, 6) % 360.0 for name, azimuth in azimuths.items()}


def refuse_gaps(azimuths: dict[str, float], *, allow_missing: bool = False) -> None:
    """Refuse a set in which two photos share an angle or a view seems to be missing.

    Args:
        azimuths: Name -> degrees.
        allow_missing: Accept a set in which views are missing. Two photos at one angle are never accepted.

    Raises:
        InputError: `capture.duplicate_azimuth` for two photos at one angle; `capture.ambiguous_azimuths` for a turn in another
            unit than degrees, all within 2 pi; `capture.missing_views` for fewer than `MIN_VIEWS`
            views, or a gap of more than `GAP_SLACK` times the set's median gap and `NORMAL_GAP_DEG`.
    """
    values = sorted(azimuth % 360.0 for azimuth in azimuths.values())
    gaps = [(after - before) % 360.0 for before, after in zip(values, [*values[1:], *values[:1]], strict=True)]
    shared = [at for at, gap in zip(values, gaps, strict=True) if gap < 1e-6]
    if shared and len(values) > 1:
        raise InputError("capture.duplicate_azimuth", f"more than one photo at {shared[0]:g} degrees")
    if len(values) >= MIN_VIEWS and 360.0 - max(gaps) <= 2 * math.pi:
        raise InputError(
            "capture.ambiguous_azimuths",
            f"all {len(values)} photos are within {360.0 - max(gaps):.3g} degrees: azimuths are degrees, not radians or fractions of a turn",
        )
    if allow_missing:
        return
    if len(values) < MIN_VIEWS:
        raise InputError("capture.missing_views", f"{len(values)} photos; at least {MIN_VIEWS} angles are needed")
    usual = max(NORMAL_GAP_DEG, sorted(gaps)[len(gaps) // 2])
    wide = [(before, gap) for before, gap in zip(values, gaps, strict=True) if gap > GAP_SLACK * usual]
    if wide:
        where = ", ".join(f"between {before:g} and {(before + gap) % 360:g}" for before, gap in wide)
        raise InputError("capture.missing_views", f"{len(values)} photos, none {where} degrees")


def _refuse_duplicates(ordered: dict[str, float]) -> None:
    for number, count in Counter(ordered.values()).items():
        if count > 1:
            same = ", ".join(repr(name) for name, value in ordered.items() if value == number)
            raise InputError("capture.duplicate_azimuth", f"{count} photos are numbered {number:g}: {same}")


def _as_degrees(ordered: dict[str, float]) -> dict[str, float] | None:
    if any(abs(number) > 360 for number in ordered.values()):
        return None
    if 0.0 in ordered.values():
        return {name: number % 360.0 for name, number in ordered.items() if abs(number) != 360}
    return {name: number % 360.0 for name, number in ordered.items()}


def _as_index(ordered: dict[str, float], options: AzimuthOptions) -> dict[str, float] | None:
    numbers = list(ordered.values())
    first, count = numbers[0], len(numbers)
    any_start = options.names == "index"  # IMG_1204 … IMG_1211 is one turn only if the user says so
    if not (any_start or first in (0.0, 1.0)) or numbers != [first + step for step in range(count)]:
        return None
    may_close = count - 1 in TURN_COUNTS and count not in TURN_COUNTS
    if options.closing_frame == "auto" and may_close and options.names != "degrees":
        raise InputError(
            "capture.ambiguous_azimuths",
            f"{count} numbered photos: {count - 1} and a closing frame, or {count} even steps? "
            "Pass --closing-frame drop or --closing-frame keep.",
        )
    turn = count - 1 if options.closing_frame == "drop" else count
    return {name: step * 360.0 / turn for step, name in enumerate(ordered) if step < turn}


def _as_any_count(ordered: dict[str, float], options: AzimuthOptions) -> dict[str, float] | None:
    """Azimuths as with `--names index`, a closing frame counted as an ordinary one; None when the numbers do not count up."""
    return _as_index(ordered, replace(options, names="index", closing_frame="keep"))


def _refuse_odd_count(count: int) -> None:
    """Refuse a number of frames that does not divide 360: the first or last photo may be missing, which leaves no gap.

    Raises:
        InputError: `capture.ambiguous_azimuths`.
    """
    if 360 % count and count not in TURN_COUNTS:
        raise InputError(
            "capture.ambiguous_azimuths",
            f"{count} numbered photos would be steps of {360 / count:.2f} degrees: is one missing at either end, or is a view "
            "from above among them? Pass --names index if they are one even turn.",
        )


def _settle(
    ordered: dict[str, float],
    as_degrees: dict[str, float] | None,
    as_index: dict[str, float] | None,
    options: AzimuthOptions,
) -> Literal["degrees", "index"]:
    """The only plausible reading of the numbers: degrees all around the product, or a count without holes.

    Raises:
        InputError: `capture.ambiguous_azimuths` when both are plausible, or neither is.
    """
    goes_round = as_degrees is not None and _goes_round(as_degrees)
    if as_index is not None and (not goes_round or as_index == as_degrees):
        return "index"
    if as_index is None and goes_round:
        return "degrees"
    if as_index is None and as_degrees is not None and _on_a_grid(list(as_degrees.values())):
        return "degrees"
    as_count = _as_any_count(ordered, options)
    flags = [*(["--names degrees"] if goes_round else []), *(["--names index"] if as_count else [])]
    advice = f" Pass {' or '.join(flags)}." if flags else REWRITE
    raise InputError("capture.ambiguous_azimuths", f"degrees or frame numbers? Seen: {_abridged(ordered)}.{advice}")


def _goes_round(azimuths: dict[str, float]) -> bool:
    return _widest_gap(list(azimuths.values())) <= 2 * 90.0


def _widest_gap(values: list[float]) -> float:
    ordered = sorted(values)
    return max(
        (after - before) % 360.0 or 360.0 for before, after in zip(ordered, [*ordered[1:], ordered[0]], strict=True)
    )


def _on_a_grid(values: list[float]) -> bool:
    """Whether all numbers are multiples of 15 degrees, as frame numbers with a hole never are."""
    return len(values) > 1 and all(value % 15.0 == 0 for value in values)


def _abridged(ordered: dict[str, float]) -> str:
    names = list(ordered)
    shown = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
    return ", ".join(shown) + f" ({len(names)} photos)"
