"""Azimuths from file names. Pure: names in, degrees out, and an error wherever two readings are possible."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, overload

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

_TRAILING = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>deg|°|º)?$", re.IGNORECASE)


@dataclass(frozen=True)
class AzimuthOptions:
    """What a user can say about the names of the photos."""

    direction: Literal["ccw", "cw"] = "ccw"
    """The way the camera walked around the still product, seen from above; `cw` mirrors the azimuths."""
    front: int = 0
    """Index of the front photo in the order of the names' numbers (0-based)."""
    names: Literal["auto", "degrees", "index"] = "auto"
    """What the trailing number of a name is."""
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


def azimuths_from_names(names: Sequence[str], options: AzimuthOptions = AzimuthOptions()) -> dict[str, float]:
    """Read the azimuth of each photo from the number at the end of its name.

    Args:
        names: File names of one product's photos, in any order.
        options: Direction, front photo, and how to settle what the names leave open.

    Returns:
        Name -> azimuth in degrees [0, 360), in the order of the names' numbers. A closing frame at 360 is left out.

    Raises:
        InputError: `capture.no_photos`, `capture.ambiguous_azimuths`, `capture.duplicate_azimuth` or
            `capture.missing_views`.
    """
    if not names:
        raise InputError("capture.no_photos", "the folder holds no photo")
    numbers: dict[str, float] = {}
    has_unit = False
    for name in names:
        match = _TRAILING.search(PurePosixPath(name).stem)
        if match is None:
            raise InputError(
                "capture.ambiguous_azimuths", f"{name!r} does not end in a number of degrees or a frame number"
            )
        numbers[name] = float(match["number"])
        has_unit = has_unit or match["unit"] is not None
    ordered = dict(sorted(numbers.items(), key=lambda item: (item[1], item[0])))
    _refuse_duplicates(ordered)
    meaning = "degrees" if has_unit and options.names == "auto" else options.names
    as_degrees, as_index = _as_degrees(ordered), _as_index(ordered, options)
    if meaning == "auto":
        meaning = _settle(ordered, as_degrees, as_index)
    chosen = as_degrees if meaning == "degrees" else as_index
    if chosen is None:
        raise InputError("capture.ambiguous_azimuths", f"the names' numbers are no {meaning}: {_seen(ordered)}")
    azimuths = orient(chosen, options)
    if not options.allow_missing:
        refuse_gaps(azimuths)
    return azimuths


def orient(azimuths: dict[str, float], options: AzimuthOptions) -> dict[str, float]:
    """Apply `front` and `direction` to azimuths as they were named.

    Raises:
        InputError: `capture.ambiguous_azimuths` when there is no photo number `front`.
    """
    if not -len(azimuths) <= options.front < len(azimuths):
        raise InputError(
            "capture.ambiguous_azimuths", f"--front {options.front} names no photo: there are {len(azimuths)}"
        )
    zero = list(azimuths.values())[options.front] if options.front else 0.0
    sign = 1.0 if options.direction == "ccw" else -1.0
    return {name: round(sign * (azimuth - zero) % 360.0, 6) % 360.0 for name, azimuth in azimuths.items()}


def refuse_gaps(azimuths: dict[str, float]) -> None:
    """Refuse a set in which a view seems to be missing.

    Raises:
        InputError: `capture.missing_views` for fewer than `MIN_VIEWS` views, or a gap of more than `GAP_SLACK` times
            the set's median gap (and of the usual 45 degrees); `capture.duplicate_azimuth` for two photos of one angle.
    """
    values = sorted(azimuths.values())
    if len(values) < MIN_VIEWS:
        raise InputError("capture.missing_views", f"{len(values)} photos; at least {MIN_VIEWS} angles are needed")
    gaps = [(after - before) % 360.0 for before, after in zip(values, [*values[1:], values[0]], strict=True)]
    if min(gaps) < 1e-6:
        twice = values[gaps.index(min(gaps))]
        raise InputError("capture.duplicate_azimuth", f"more than one photo at {twice:g} degrees")
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
    if any(number > 360 for number in ordered.values()):
        return None
    if 0.0 in ordered.values():
        return {name: number for name, number in ordered.items() if number != 360}
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


def _settle(
    ordered: dict[str, float], as_degrees: dict[str, float] | None, as_index: dict[str, float] | None
) -> Literal["degrees", "index"]:
    """Which reading of the numbers is the only plausible one: degrees that go round, or a count without holes."""
    goes_round = as_degrees is not None and _widest_gap(list(as_degrees.values())) <= 2 * 90.0
    if as_index is not None and (not goes_round or as_index == as_degrees):
        return "index"
    if as_index is None and goes_round:
        return "degrees"
    if as_index is None and as_degrees is not None and _on_a_grid(list(as_degrees.values())):
        return "degrees"
    raise InputError(
        "capture.ambiguous_azimuths",
        f"degrees or frame numbers? Seen: {_seen(ordered)}. Pass --names degrees or --names index.",
    )


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
