"""Conversion of command line flags to the library's option objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.discover import DiscoverOptions
from gapray.profile import Profile, load_profile, with_flags


def discover_options(
    *,
    direction: Literal["ccw", "cw"],
    front: int,
    names: Literal["auto", "degrees", "index", "order"],
    closing_frame: Literal["auto", "drop", "keep"],
    layout: Literal["auto", "product", "products"],
    allow_missing: bool,
    given: int | None = None,
) -> DiscoverOptions:
    """Return the options of listing a source of photos."""
    azimuths = AzimuthOptions(
        direction=direction, front=front, names=names, closing_frame=closing_frame, allow_missing=allow_missing
    )
    return DiscoverOptions(azimuths, layout, given)


def truth_options(
    *,
    direction: Literal["ccw", "cw"],
    front: int,
    names: Literal["auto", "degrees", "index", "order"],
    layout: Literal["auto", "product", "products"],
) -> DiscoverOptions:
    """Return the options of listing truth photos, which may be at any angles."""
    return discover_options(
        direction=direction, front=front, names=names, closing_frame="auto", layout=layout, allow_missing=True
    )


def render_profile(
    name: str, config: Path | None, set_: Sequence[str] | None, *, backend: str | None, frames: int | None
) -> Profile:
    """Load a profile and apply the flags of `gapray render` to it.

    Raises:
        ConfigError: `profile.unknown` or `config.invalid`.
    """
    flags = {"video.backend": ("--backend", backend), "orbit.frames": ("--frames", frames)}
    return load_profile(name, config_file=config, overrides=with_flags(set_, flags))
