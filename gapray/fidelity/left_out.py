"""Leave-one-out: a view is drawn from all the others, by the same engine, which never sees it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gapray.errors import InputError
from gapray.fidelity.comparison import LeftOutFrame
from gapray.gap.package import GapPackage
from gapray.orbit.conditions import MIN_VIEWS, build_conditions
from gapray.orbit.engines import Engine
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.weights import even_orbit
from gapray.video.backend import VideoBackend
from gapray.video.settings import VideoSettings


def draw_left_out(
    package: GapPackage,
    backend: VideoBackend,
    orbit: OrbitSettings,
    video: VideoSettings,
    *,
    engine: Engine,
    views: int,
    seed: int = 0,
    device: str = "cpu",
) -> list[LeftOutFrame]:
    """Draw some views from the others; the geometry is reconstructed without them.

    Args:
        package: At least four views.
        backend: The backend that drew the video.
        orbit: Orbit settings of the video.
        video: Video settings of the video.
        engine: The engine that drew the video's in-between frames.
        views: How many views to leave out in turn, evenly spread from the second one on.
        seed: Seed of the video.
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: `score.no_truth` when too few views are left.
    """
    count = len(package.views)
    if count <= MIN_VIEWS:
        raise InputError("score.no_truth", f"{package.product_id} has {count} views: none can be left out")
    # With fewer photos another engine might be chosen; what is scored is the video's own.
    orbit = orbit.model_copy(update={"engine": engine})
    drawn = []
    for number in range(min(views, count)):
        view = (1 + number * count // min(views, count)) % count
        rest = replace(package, views=tuple(kept for index, kept in enumerate(package.views) if index != view))
        azimuth = package.views[view].azimuth_deg
        # A generator that works in clips draws the whole turn, starting at this angle.
        frames = 1 if backend.capabilities.independent else orbit.frames
        azimuths = [(azimuth + step) % 360 for step in even_orbit(frames)]
        conditions = build_conditions(rest, orbit, azimuths_deg=azimuths, device=device)
        image = backend.generate(rest, conditions, video.chosen, seed=seed)[0]
        drawn.append(LeftOutFrame(view, np.ascontiguousarray(image)))
    return drawn
