"""Views and azimuths listed in a `multiview_manifest.json`. Manifests are untrusted input."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gapray.capture.angles import angle_difference
from gapray.capture.azimuths import AzimuthsBy

VIEW = re.compile(r"view[_-]?(\d+(?:\.\d+)?)", re.IGNORECASE)
"""Name of a view's folder; the group is its azimuth in degrees."""
ANGLES = ("azimuth_deg", "azimuth", "angle")
"""Members with the azimuth of a view or of a photo in a request."""
ROUNDED_DEG = 0.5
"""Largest difference between azimuths that agree: the prototype's keys and folders are rounded to whole degrees."""
_MAX_DEGREES = 1e6
MAX_PATH = 4096
"""Maximum length of a path; longer texts are not paths [characters]."""


def manifest_views(manifest: Any) -> tuple[list[tuple[float, Mapping[str, Any]]], AzimuthsBy]:
    """List the views of a manifest.

    The prototype wrote ``{"views": {"000": {…}, "045": {…}}}``. A list of views is also accepted: the azimuth is a member of
    each view or part of its paths; without any the views are evenly spaced.

    Args:
        manifest: Parsed JSON.

    Returns:
        The azimuth in [0, 360) degrees and the members of each view, in the manifest's order, and whether the manifest states
        the azimuths (`table`) or only an order (`order`). A view that is a mere string becomes ``{"folder": string}``.

    Raises:
        ValueError: There is no view, one has no azimuth, or its azimuths contradict each other.
    """
    views = manifest.get("views") if isinstance(manifest, Mapping) else None
    if not isinstance(views, (Mapping, list)) or not views:
        raise ValueError("there are no views")
    labelled = views.items() if isinstance(views, Mapping) else [(None, view) for view in views]
    members = [_members(view) for _, view in labelled]
    angles = [_angle(view_members, label) for view_members, (label, _) in zip(members, labelled, strict=True)]
    by: AzimuthsBy = "table"
    if all(angle is None for angle in angles):
        by = "order"
        angles = [360.0 * step / len(angles) for step in range(len(angles))]
    listed = []
    for angle, view_members in zip(angles, members, strict=True):
        if angle is None:
            raise ValueError("a view has no angle")
        listed.append((angle, view_members))
    return listed, by


def parse_degrees(value: Any) -> float:
    """Parse an azimuth from a number, ``"045"`` or ``"view_045"``.

    Returns:
        Degrees in [0, 360).

    Raises:
        ValueError: The value is not an angle.
    """
    text = str(value).strip()
    match = VIEW.fullmatch(text)
    try:
        degrees = float(match[1] if match else text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not an angle") from None
    if isinstance(value, bool) or not (math.isfinite(degrees) and abs(degrees) < _MAX_DEGREES):
        raise ValueError(f"{text[:40]!r} is not an angle")
    return degrees % 360.0


def agreed_azimuth(stated: Mapping[str, float]) -> float | None:
    """The azimuth on which several sources agree.

    Args:
        stated: Name of the source, for error messages -> azimuth in degrees.

    Returns:
        The first azimuth, in degrees; None if there is none.

    Raises:
        ValueError: Two of them differ by more than rounding to whole degrees explains; the message names both.
    """
    if not stated:
        return None
    (first, azimuth), *others = stated.items()
    for name, degrees in others:
        if abs(angle_difference(degrees, azimuth)) > ROUNDED_DEG + 1e-6:
            raise ValueError(f"{first} says {azimuth:g} degrees and {name} says {degrees:g} degrees")
    return azimuth


def _members(view: Any) -> Mapping[str, Any]:
    if isinstance(view, Mapping):
        return view
    return {"folder": view} if isinstance(view, str) else {}


def _angle(members: Mapping[str, Any], label: object) -> float | None:
    """Azimuth of a view by its members and its key, else by a folder in its paths; None if none of them has one.

    Raises:
        ValueError: The azimuths contradict each other, or are not angles.
    """
    stated = {name: parse_degrees(members[name]) for name in ANGLES if members.get(name) is not None}
    if label is not None:
        try:
            stated[f"the key {str(label)[:40]!r}"] = parse_degrees(label)
        except ValueError:
            if not stated:  # the key may be a word, such as "front", only if a member states the azimuth
                raise
    if (azimuth := agreed_azimuth(stated)) is not None:
        return azimuth
    texts = [value for value in members.values() if isinstance(value, str) and len(value) <= MAX_PATH]
    parts = [part for text in texts for part in re.split(r"[/\\]+", text)]
    return next((parse_degrees(part) for part in parts if VIEW.fullmatch(part)), None)
