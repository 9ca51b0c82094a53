"""Flags -> the library's option objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.discover import DiscoverOptions

if TYPE_CHECKING:
    from gapray.cli.main import ClosingFrame, Direction, Layout, Names


def discover_options(
    direction: Direction, front: int, names: Names, closing_frame: ClosingFrame, layout: Layout, allow_missing: bool
) -> DiscoverOptions:
    """What the user said about the photos."""
    azimuths = AzimuthOptions(
        direction=direction.value,
        front=front,
        names=names.value,
        closing_frame=closing_frame.value,
        allow_missing=allow_missing,
    )
    return DiscoverOptions(azimuths, layout.value)
