"""Leave-one-out: a view is drawn from all others, by the same engine, and never seen by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gapray.config import OrbitSettings, VideoSettings
from gapray.errors import InputError
from gapray.fidelity.comparison import Drawn
from gapray.gap.package import GapPackage
from gapray.orbit.conditions import LEAST_VIEWS, build_conditions
from gapray.orbit.engines import Engine
from gapray.orbit.weights import even_orbit
from gapray.video.backend import VideoBackend


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
) -> list[Drawn]:
    """Draw some views from the others; the geometry is built anew without them.

    Args:
        package: At least four views.
        backend: What drew the video.
        orbit: Of the video.
        video: Likewise.
        engine: What drew the video's frames in between.
        views: How many, evenly spread from the second view on.
        seed: Likewise.
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: `score.no_truth` when too few views are left.
    """
    count = len(package.views)
    if count <= LEAST_VIEWS:
        raise InputError("score.no_truth", f"{package.product_id} has {count} views: none can be left out")
    # With fewer photos another engine might win: what is scored is the video's own.
    orbit = orbit.model_copy(update={"engine": engine})
    drawn = []
    for number in range(min(views, count)):
        view = (1 + number * count // min(views, count)) % count
        rest = replace(package, views=tuple(one for index, one in enumerate(package.views) if index != view))
        azimuth = package.views[view].azimuth_deg
        # A generator that thinks in clips draws the whole turn, begun at this angle.
        frames = 1 if backend.capabilities.independent else orbit.frames
        azimuths = [(azimuth + step) % 360 for step in even_orbit(frames)]
        conditions = build_conditions(rest, orbit, azimuths_deg=azimuths, device=device)
        image = backend.generate(rest, conditions, video, seed=seed)[0]
        drawn.append(Drawn(view, np.ascontiguousarray(image)))
    return drawn
