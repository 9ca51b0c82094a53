"""The views that a `multiview_manifest.json` names, and their angles. Manifests come from outside: nothing in them is trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gapray.capture.azimuths import AzimuthsBy, turned

VIEW = re.compile(r"view[_-]?(\d+(?:\.\d+)?)", re.IGNORECASE)
"""Name of a view's folder, with its degrees."""
ANGLES = ("azimuth_deg", "azimuth", "angle")
"""Members in which a view, or a photo of a request, says its azimuth."""
ROUNDED_DEG = 0.5
"""Statements this close agree: the prototype's keys and folders are whole degrees [degrees]."""
_MOST_DEGREES = 1e6
LONGEST_PATH = 4096
"""Characters; longer texts are no paths."""


def manifest_views(manifest: Any) -> tuple[list[tuple[float, Mapping[str, Any]]], AzimuthsBy]:
    """Each view's azimuth and members, and whether the manifest says the azimuths (`table`) or only an order.

    The prototype wrote ``{"views": {"000": {…}, "045": {…}}}``. A list of views is read too: the angle is a member of each,
    or stands in its paths, or the views go round in even steps.

    Args:
        manifest: Parsed JSON.

    Returns:
        (degrees in [0, 360), the view's members), in the manifest's order. A view that is only a text becomes
        ``{"folder": text}``.

    Raises:
        ValueError: There is no view, one has no angle, or what is said of one contradicts itself.
    """
    views = manifest.get("views") if isinstance(manifest, Mapping) else None
    if not isinstance(views, (Mapping, list)) or not views:
        raise ValueError("there are no views")
    labelled = views.items() if isinstance(views, Mapping) else [(None, view) for view in views]
    members = [_members(view) for _, view in labelled]
    angles = [_angle(one, label) for one, (label, _) in zip(members, labelled, strict=True)]
    by: AzimuthsBy = "table"
    if all(angle is None for angle in angles):
        by = "order"
        angles = [360.0 * step / len(angles) for step in range(len(angles))]
    found = []
    for angle, one in zip(angles, members, strict=True):
        if angle is None:
            raise ValueError("a view has no angle")
        found.append((angle, one))
    return found, by


def degrees_of(value: Any) -> float:
    """Degrees in [0, 360) that a number, ``"045"`` or ``"view_045"`` stands for.

    Raises:
        ValueError: It stands for none.
    """
    text = str(value).strip()
    match = VIEW.fullmatch(text)
    try:
        degrees = float(match[1] if match else text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no angle") from None
    if isinstance(value, bool) or not (math.isfinite(degrees) and abs(degrees) < _MOST_DEGREES):
        raise ValueError(f"{text[:40]!r} is no angle")
    return degrees % 360.0


def agreed(said: Mapping[str, float]) -> float | None:
    """The azimuth that several statements on one photo mean, in degrees: the first one; None where nothing is said.

    Args:
        said: What says so, for people -> degrees.

    Raises:
        ValueError: Two of them lie further apart than rounding to whole degrees explains; names both.
    """
    if not said:
        return None
    (first, meant), *others = said.items()
    for name, degrees in others:
        if abs(turned(degrees, meant)) > ROUNDED_DEG + 1e-6:
            raise ValueError(f"{first} says {meant:g} degrees and {name} says {degrees:g} degrees")
    return meant


def _members(view: Any) -> Mapping[str, Any]:
    if isinstance(view, Mapping):
        return view
    return {"folder": view} if isinstance(view, str) else {}


def _angle(members: Mapping[str, Any], label: object) -> float | None:
    """What a view says of itself and its key says of it, else a folder in its paths; None where nothing does.

    Raises:
        ValueError: They contradict each other, or are no angles.
    """
    said = {name: degrees_of(members[name]) for name in ANGLES if members.get(name) is not None}
    if label is not None:
        try:
            said[f"the key {str(label)[:40]!r}"] = degrees_of(label)
        except ValueError:
            if not said:  # a key that is a word, such as "front", says nothing
                raise
    if (azimuth := agreed(said)) is not None:
        return azimuth
    texts = [value for value in members.values() if isinstance(value, str) and len(value) <= LONGEST_PATH]
    parts = [part for text in texts for part in re.split(r"[/\\]+", text)]
    return next((degrees_of(part) for part in parts if VIEW.fullmatch(part)), None)
