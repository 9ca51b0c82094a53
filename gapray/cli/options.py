"""Flags -> the library's option objects."""

from __future__ import annotations

from typing import Literal

from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.discover import DiscoverOptions


def discover_options(
    *,
    direction: Literal["ccw", "cw"],
    front: int,
    names: Literal["auto", "degrees", "index"],
    closing_frame: Literal["auto", "drop", "keep"],
    layout: Literal["auto", "product", "products"],
    allow_missing: bool,
) -> DiscoverOptions:
    """What the user said about the photos."""
    azimuths = AzimuthOptions(
        direction=direction, front=front, names=names, closing_frame=closing_frame, allow_missing=allow_missing
    )
    return DiscoverOptions(azimuths, layout)
