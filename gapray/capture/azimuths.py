"""Azimuths from file names. Pure: names in, degrees out, and an error wherever two readings are possible.

Folders, zips and requests read names by the same functions, so that photos mean the same however they came.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, overload
from urllib.parse import unquote

from gapray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_VIEWS = 4
NORMAL_GAP_DEG = 45.0
"""Eight views at 45 degrees are the norm."""
GAP_SLACK = 1.5
"""A gap of this many usual gaps means that a view is missing between its ends."""
TURN_COUNTS = frozenset({8, 12, 16, 18, 24, 30, 32, 36, 40, 48, 60, 64, 72, 90, 120, 180})
"""Usual numbers of photos of one turn. One more photo than that may be a closing frame at 360 degrees."""

REWRITE = " Name the photos by degrees (mug_045.jpg), or put a capture.csv beside them: file,azimuth in its first line."

AzimuthsBy = Literal["degrees", "frames", "table", "order"]
"""How azimuths were known: by degrees in the names, by frame numbers in the names, by a table (`capture.csv`, a manifest, the
fields of a request), or only by the order in which photos came."""

_TRAILING = re.compile(
    r"(?P<sign>(?:(?<=[_(\[=])|^)-)?(?P<number>\d+(?:[.,]\d+)?)[\s_]*(?P<unit>deg(?:rees?)?|°|º)?[\s)\]}）】]*$",
    re.IGNORECASE,
)
"""The number at the end of a name, as in ``mug_045``, ``mug-8``, ``mug 8``, ``mug (8)``, ``mug_22.5deg``. A hyphen before it parts
words, unless it follows another separator: ``mug_-45`` is minus 45 degrees."""
_NUMBER = re.compile(r"(?P<number>-?\d+(?:[.,]\d+)?)(?:[\s_]*(?:deg(?:rees?)?|°|º)(?![^\W\d_]))?", re.IGNORECASE)
"""A number anywhere in a name, with its unit and a hyphen before it, be it a sign or not."""
_SEPARATORS = re.compile(r"[\s_\-(\[{（【]+$")
_LONGEST = 1024
"""Characters of a name that are looked at, from its end: a client may call a photo anything."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}([-_][A-Za-z]{1,9})?$")
"""The ending of a file's name, known or not: ``.jpg``, ``.download``, ``.jpg-large``. A number behind a dot is decimals: ``mug_22.5``."""
_ENDING_AGAIN = re.compile(r"\.[A-Za-z]{1,4}$")


@dataclass(frozen=True)
class AzimuthOptions:
    """What a user can say about the names of the photos."""

    direction: Literal["ccw", "cw"] = "ccw"
    """The way the camera walked around the still product, seen from above; `cw` mirrors the azimuths."""
    front: int = 0
    """Index of the front photo in the order of the names' numbers (0-based)."""
    names: Literal["auto", "degrees", "index", "order"] = "auto"
    """What the number at the end of a name is; `order` reads no angles from names and takes even steps in the photos' order: that in
    which a request sends them, and of a folder's or a zip's that of their names (`by_name`)."""
    closing_frame: Literal["auto", "drop", "keep"] = "auto"
    """Whether the last photo of a numbered turn shows the front again."""
    allow_missing: bool = False
    """Accept a set with a gap where a view is missing."""


@overload
def turned(to_deg: float, from_deg: float) -> float: ...
@overload
def turned(to_deg: NDArray[np.float64], from_deg: NDArray[np.float64] | float) -> NDArray[np.float64]: ...
def turned(to_deg: float | NDArray[np.float64], from_deg: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """The shorter way from one azimuth to another, in [-180, 180) degrees, counter-clockwise positive."""
    return (to_deg - from_deg + 180.0) % 360.0 - 180.0


@dataclass(frozen=True)
class Reading:
    """Azimuths of one product's photos, and how they were known."""

    azimuths: dict[str, float]
    """Name -> degrees in [0, 360). A closing frame at 360 is left out."""
    by: AzimuthsBy


def read_names(names: Sequence[str], options: AzimuthOptions = AzimuthOptions()) -> Reading:
    """Read the azimuth of each photo from the number at the end of its name.

    Args:
        names: File names of one product's photos, in any order. Percent-encoding, as clients and downloads leave it in names, is
            undone first.
        options: Direction, front photo, and how to settle what the names leave open.

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
    columns = _columns(names)
    _refuse_mixed(names, columns[0])
    meant = _degrees_before_a_count(columns, options)
    if meant is not None:
        return Reading(_whole_turn(meant, options), "degrees")
    has_unit = any(match["unit"] for match in columns[0].values())
    ordered = _ordered(columns[0])
    _refuse_duplicates(ordered)
    meaning = "degrees" if has_unit and options.names == "auto" else options.names
    as_degrees, as_index = _as_degrees(ordered), _as_index(ordered, options)
    if meaning == "auto":
        meaning = _settle(ordered, as_degrees, as_index, options)
    chosen = as_degrees if meaning == "degrees" else as_index
    if chosen is None:
        raise InputError(
            "capture.ambiguous_azimuths", f"the names' numbers are no {meaning}: {_seen(ordered)}{REWRITE}"
        )
    if meaning == "index" and options.names == "auto":
        _refuse_odd_count(len(chosen))
    return Reading(_whole_turn(chosen, options), "degrees" if meaning == "degrees" else "frames")


def by_name(names: Sequence[str]) -> list[str]:
    """Names in the order in which people read them: numbers anywhere in them count as numbers, capitals as small letters."""
    return sorted(names, key=lambda name: (natural_parts(unquote(name)), name))


def natural_parts(name: str) -> list[tuple[int, str]]:
    """What sorts IMG_2 before IMG_10, and capitals beside small letters."""
    split = re.split(r"([0-9]+)", name)
    return [(int(part), "") if place % 2 else (0, part.casefold()) for place, part in enumerate(split)]


def in_order(keys: Sequence[str], options: AzimuthOptions = AzimuthOptions()) -> Reading:
    """Even steps round the product in the order of the photos, for those of which nothing else is known.

    Args:
        keys: Whatever tells the photos apart.
        options: Direction, front photo and missing views.

    Raises:
        InputError: `capture.ambiguous_azimuths` or `capture.missing_views`.
    """
    steps = {key: index * 360.0 / len(keys) for index, key in enumerate(keys)}
    return Reading(_whole_turn(steps, options), "order")


def numbered(names: Sequence[str]) -> bool:
    """Whether numbers in the names are meant to tell photos apart: two of them differ in nothing else.

    Names that differ in other things too, such as random ones that happen to hold digits, say nothing, nor does one name for all.
    """
    different = {stem.casefold() for stem in plain_stems(names)}
    forms = Counter(form for form in map(_form, different) if "#" in form)
    return any(count > 1 for count in forms.values())


def in_folders(names: Sequence[str]) -> bool:
    """Whether names come with their folders, and some photos share a folder in which others do not lie: each may be a product."""
    return _differs([folder for folder, _ in _places(names)])


def plain_stems(names: Sequence[str]) -> list[str]:
    """File names without their folders, their endings and the percent-encoding of RFC 3986.

    The names of one product are decoded together or not at all: where one of them would become control characters or no UTF-8,
    a percent sign is only a percent sign (``50%045.jpg``). A typographic minus is a hyphen.
    """
    return [stem for _, stem in _places(names)]


def _places(names: Sequence[str]) -> list[tuple[str, str]]:
    """Folder and stem of each name, decoded as `plain_stems` says."""
    plain = [name[-_LONGEST:] for name in names]
    for _ in range(3):  # a name that was encoded already is encoded once more by the next client
        try:
            once = [unquote(name, errors="strict") for name in plain]
        except UnicodeDecodeError:
            break
        if once == plain or any(map(_CONTROL.search, once)):
            break
        plain = once
    parts = [name.replace("\\", "/").replace("−", "-").rpartition("/") for name in plain]
    return [(folder, _without_ending(name.strip())) for folder, _, name in parts]


def _without_ending(name: str) -> str:
    stem = _ENDING.sub("", name)
    while (shorter := _ENDING_AGAIN.sub("", stem)) not in ("", stem):  # mug_045.jpg.webp
        stem = shorter
    return stem


def _form(stem: str) -> str:
    """What a name says beside its numbers, each of which is a ``#``; case, units and punctuation do not matter."""
    text = unicodedata.normalize("NFC", stem).casefold().replace("#", "")
    return re.sub(r"[^\w#]|_", "", _NUMBER.sub("#", text))


def _numbers(stem: str) -> list[float]:
    return [float(match["number"].replace(",", ".")) for match in _NUMBER.finditer(stem)]


def _differs(marks: Sequence[Hashable]) -> bool:
    """Whether some of the photos share a mark that others lack. Marks of which each is another say nothing."""
    return 1 < len(set(marks)) < len(marks)


def _refuse_mixed(names: Sequence[str], last: _Column) -> None:
    """Refuse names that differ in more than the angle: of two products, of a copy, of an edited version, of a detail.

    The number at the end of such a name need not be an angle (``mug_090_v2``, ``mug_detail_1``), and half of the photos may show
    another product (``SKU-100-1``, ``SKU-101-5``). Names that differ in their words throughout (``front_000``, ``back_180``) pass.

    Args:
        names: At least one.
        last: The last number of each.

    Raises:
        InputError: `capture.ambiguous_azimuths`, or `capture.duplicate_azimuth` where such names end in the same number.
    """
    places = _places(names)
    forms = [_form(stem) for _, stem in places]
    marks: list[Sequence[Hashable]] = [[folder for folder, _ in places], forms]
    if len(set(forms)) == 1:
        earlier = zip(*(_numbers(stem)[:-1] for _, stem in places), strict=True)
        # A clock in the names stands still now and then, but has many values; products in one folder are few.
        marks += [numbers for numbers in earlier if len(set(numbers)) <= max(2, len(names) // 4)]
    mixed = next((each for each in marks if _differs(each)), None)
    if mixed is None:
        known = set(forms)  # mug_000 and mug_090_v2 alone: words that only one of two has
        mixed = [any(form[:end] in known for end in range(1, len(form))) for form in forms]
    most = Counter(mixed).most_common(1)[0][0]
    odd = [name for name, mark in zip(names, mixed, strict=True) if mark != most]
    if not odd:
        return
    _refuse_duplicates(_ordered(last))
    usual = next(name for name, mark in zip(names, mixed, strict=True) if mark == most)
    told = ", ".join(map(repr, odd[:6])) + (f" and {len(odd) - 6} more" if len(odd) > 6 else "")
    raise InputError(
        "capture.ambiguous_azimuths",
        f"{told}: named otherwise than the other {len(names) - len(odd)} ({usual!r}). Do all show one product, and is the last "
        f"number of each its angle?{REWRITE}",
    )


def _whole_turn(azimuths: dict[str, float], options: AzimuthOptions) -> dict[str, float]:
    turned_to = orient(azimuths, options)
    refuse_gaps(turned_to, allow_missing=options.allow_missing)
    return turned_to


_Column = dict[str, re.Match[str]]
"""Name -> a number in it."""


def _columns(names: Sequence[str]) -> list[_Column]:
    """The numbers at the end of all names that tell them apart, the last one first; at least one.

    A number that all names share ("mug_045 (1)", "mug_090 (1)") says nothing; then the one before it counts.

    Raises:
        InputError: `capture.ambiguous_azimuths`.
    """
    stems = dict(zip(names, plain_stems(names), strict=True))
    found = {name: match for name, stem in stems.items() if (match := _TRAILING.search(stem)) is not None}
    for name in names:
        if name not in found:
            raise InputError(
                "capture.ambiguous_azimuths", f"{name!r} does not end in a number of degrees or a frame number"
            )
    columns = [found]
    while len(found) == len(names):
        stems = {name: _SEPARATORS.sub("", stems[name][: match.start()]) for name, match in found.items()}
        found = {name: match for name, stem in stems.items() if (match := _TRAILING.search(stem)) is not None}
        columns.append(found)
    whole = columns[:-1]
    return [column for column in whole if len({_number(match) for match in column.values()}) > 1] or whole[:1]


def _ordered(column: _Column) -> dict[str, float]:
    numbers = {name: _number(match) for name, match in column.items()}
    return dict(sorted(numbers.items(), key=lambda item: (item[1], item[0])))


def _degrees_before_a_count(columns: Sequence[_Column], options: AzimuthOptions) -> dict[str, float] | None:
    """Azimuths of names that hold degrees and, behind them, a count: ``mug_045_2``, ``mug_045deg-2``.

    Returns:
        None where no number before the last one is degrees.

    Raises:
        InputError: `capture.ambiguous_azimuths`: both could be meant, and they say different things.
    """
    if options.names == "index":
        return None
    last = _ordered(columns[0])
    for column in columns[1:]:
        ordered = _ordered(column)
        azimuths = _as_degrees(ordered) if len(set(ordered.values())) == len(ordered) else None
        with_unit = any(match["unit"] for match in column.values())
        if azimuths is None or not (with_unit or (_on_a_grid(list(ordered.values())) and _goes_round(azimuths))):
            continue
        as_degrees, counted = _as_degrees(last), _as_any_count(last, options)
        readings = [counted] if counted is not None else []
        readings += [as_degrees] if as_degrees is not None and _goes_round(as_degrees) else []
        if with_unit or options.names == "degrees" or all(other == azimuths for other in readings):
            return azimuths
        raise InputError(
            "capture.ambiguous_azimuths",
            f"two numbers tell the photos apart, and they say different things: {_seen(ordered)}. Pass --names degrees to go "
            "by the degrees, or --names index to go by the count behind them.",
        )
    return None


def _number(match: re.Match[str]) -> float:
    number = float(match["number"].replace(",", "."))
    return -number if match["sign"] else number


def orient(azimuths: dict[str, float], options: AzimuthOptions) -> dict[str, float]:
    """Apply `front` and `direction` to azimuths as they were named.

    Raises:
        InputError: `capture.ambiguous_azimuths` when there is no photo number `front`.
    """
    if not 0 <= options.front < len(azimuths):
        raise InputError(
            "capture.ambiguous_azimuths", f"--front {options.front} names no photo: they are 0 to {len(azimuths) - 1}"
        )
    zero = list(azimuths.values())[options.front] if options.front else 0.0
    sign = 1.0 if options.direction == "ccw" else -1.0
    return {name: round(sign * (azimuth - zero) % 360.0, 6) % 360.0 for name, azimuth in azimuths.items()}


def refuse_gaps(azimuths: dict[str, float], *, allow_missing: bool = False) -> None:
    """Refuse a set in which two photos share an angle, or a view seems to be missing.

    Args:
        azimuths: Name -> degrees.
        allow_missing: Accept a set in which views are missing. Two photos of one angle are never accepted.

    Raises:
        InputError: `capture.duplicate_azimuth` for two photos of one angle; `capture.missing_views` for fewer than `MIN_VIEWS`
            views, or a gap of more than `GAP_SLACK` times the set's median gap (and of the usual 45 degrees).
    """
    values = sorted(azimuth % 360.0 for azimuth in azimuths.values())
    gaps = [(after - before) % 360.0 for before, after in zip(values, [*values[1:], *values[:1]], strict=True)]
    shared = [at for at, gap in zip(values, gaps, strict=True) if gap < 1e-6]
    if shared and len(values) > 1:
        raise InputError("capture.duplicate_azimuth", f"more than one photo at {shared[0]:g} degrees")
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
    any_start = options.names == "index"  # IMG_1204 … IMG_1211 is a turn only when the user says so
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
    """What `--names index` makes of the numbers, a closing frame taken for a frame like the others."""
    return _as_index(ordered, replace(options, names="index", closing_frame="keep"))


def _refuse_odd_count(count: int) -> None:
    """Refuse a run of frames whose even step is no whole degree: a photo at its end may be missing, which no gap shows.

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
    """Which reading of the numbers is the only plausible one: degrees that go round, or a count without holes."""
    goes_round = as_degrees is not None and _goes_round(as_degrees)
    if as_index is not None and (not goes_round or as_index == as_degrees):
        return "index"
    if as_index is None and goes_round:
        return "degrees"
    if as_index is None and as_degrees is not None and _on_a_grid(list(as_degrees.values())):
        return "degrees"
    counted = _as_any_count(ordered, options)
    flags = [*(["--names degrees"] if goes_round else []), *(["--names index"] if counted else [])]
    advice = f" Pass {' or '.join(flags)}." if flags else REWRITE
    raise InputError("capture.ambiguous_azimuths", f"degrees or frame numbers? Seen: {_seen(ordered)}.{advice}")


def _goes_round(azimuths: dict[str, float]) -> bool:
    return _widest_gap(list(azimuths.values())) <= 2 * 90.0


def _widest_gap(values: list[float]) -> float:
    ordered = sorted(values)
    return max(
        (after - before) % 360.0 or 360.0 for before, after in zip(ordered, [*ordered[1:], ordered[0]], strict=True)
    )


def _on_a_grid(values: list[float]) -> bool:
    """True when all numbers are multiples of 15 degrees, which no run of frame numbers with a hole is."""
    return len(values) > 1 and all(value % 15.0 == 0 for value in values)


def _seen(ordered: dict[str, float]) -> str:
    names = list(ordered)
    shown = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
    return ", ".join(shown) + f" ({len(names)} photos)"
