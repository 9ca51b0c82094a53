"""Engines that draw the frames between the photos: the network, the view morph, optical flow, or the nearest photo.

The network needs the product's shape. Where the photos do not reveal it (glossy fruit that looks alike from everywhere),
methods that use no shape at all can be better. So the network, flow and the nearest photo are tested on photos withheld from
them. The view morph is one of the network's candidates, and is used alone only where the settings name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from gapray.geometry.carve import carve
from gapray.geometry.rounding import rounded
from gapray.orbit.likeness import dissimilarity
from gapray.orbit.morph import render
from gapray.orbit.scene import OrbitFrame, OrbitScene, seen_from_views, silhouettes_of
from gapray.orbit.synthesis.draw import SIDE, draw, shipped_network
from gapray.orbit.without_shape import by_flow, by_nearest

Engine = Literal["synthesis", "morph", "flow", "nearest"]
TRIAL_SIZE, TRIAL_VOXELS = SIDE, 96
"""Size at which photos are drawn from the others, the one at which the network decides [pixels], and voxels of their hulls."""
TRIALS = 4
"""Number of photos that are withheld in turn, evenly spread."""
MIN_VIEWS = 4
"""Views below which nothing can be withheld."""
ENGINES: tuple[Engine, ...] = get_args(Engine)
TRIED: tuple[Engine, ...] = ("synthesis", "flow", "nearest")
"""Engines among which a product's photos decide."""


def draw_between(
    scene: OrbitScene, azimuths_deg: Sequence[float], engine: Engine, *, flow: bool = True
) -> list[OrbitFrame]:
    """Draw frames with an engine.

    Args:
        scene: From `build_scene`.
        azimuths_deg: Any angles.
        engine: ``synthesis`` is a network that moves and chooses among the nearest photos and the morph; ``morph``
            re-projects the two nearest photos through the hull; ``flow`` moves them along the optical flow between them;
            ``nearest`` shows the nearer one.
        flow: Align the morph's photos by optical flow.
    """
    match engine:
        case "synthesis":
            return draw(shipped_network(str(scene.colour.device)), scene, azimuths_deg, flow=flow)
        case "morph":
            return [render(scene, azimuth, flow=flow) for azimuth in azimuths_deg]
        case "flow":
            return [by_flow(scene, azimuth) for azimuth in azimuths_deg]
        case "nearest":
            return [by_nearest(scene, azimuth) for azimuth in azimuths_deg]


@dataclass(frozen=True)
class EngineChoice:
    """The engine that draws a product's in-between frames, and the errors that decided it."""

    engine: Engine
    errors: Mapping[Engine, float]
    """Mean `dissimilarity` of each engine's frames to the withheld photos; empty when the settings name the engine."""


def choose_engine(scene: OrbitScene, *, rounding: bool) -> EngineChoice:
    """Choose the engine that draws withheld photos best from the others.

    Args:
        scene: From `build_scene`. With fewer than four views nothing can be withheld, and the network is chosen.
        rounding: Whether the scene's hull was rounded; if so, the trials' hulls are too.
    """
    count = len(scene.azimuths_deg)
    if count < MIN_VIEWS:
        return EngineChoice("synthesis", {})
    views = [trial * count // TRIALS for trial in range(TRIALS)]
    small = _shrunk(scene, TRIAL_SIZE)
    truth = small.photos * small.alpha[:, None] + 1 - small.alpha[:, None]
    drawn: dict[Engine, list[Tensor]] = {engine: [] for engine in TRIED}
    for view in views:
        rest = _without_view(small, view, rounding)
        for engine in TRIED:
            [frame] = draw_between(rest, [scene.azimuths_deg[view]], engine)
            drawn[engine].append(frame.colour * frame.alpha + 1 - frame.alpha)
    errors = {
        engine: float(dissimilarity(torch.stack(frames), truth[views]).mean()) for engine, frames in drawn.items()
    }
    # No margin for engines that know the shape: withholding a photo doubles the gap, which is harder on those that do not.
    return EngineChoice(min(errors, key=lambda engine: errors[engine]), errors)


def _without_view(scene: OrbitScene, view: int, rounding: bool) -> OrbitScene:
    """The scene as it would be without one of its photos: carved again, with the same camera."""
    kept = [index for index in range(len(scene.azimuths_deg)) if index != view]
    azimuths = tuple(scene.azimuths_deg[index] for index in kept)
    cut = (scene.alpha[kept] * 255).round().byte().cpu().numpy()
    hull = carve(
        silhouettes_of(cut, azimuths, scene.alpha.device), scene.camera, reach=scene.hull.reach, voxels=TRIAL_VOXELS
    )
    hull = replace(hull, level=scene.hull.level)
    if rounding:
        hull = rounded(hull, scene.camera, azimuths, scene.size)
    rest = replace(
        scene,
        azimuths_deg=azimuths,
        photos=scene.photos[kept],
        colour=scene.colour[kept],
        alpha=scene.alpha[kept],
        view_z=scene.view_z[kept],
        hull=hull,
    )
    return seen_from_views(rest)


def _shrunk(scene: OrbitScene, size: int) -> OrbitScene:
    """The scene with smaller photos; the hull's distances are scaled to their pixels."""
    if size >= scene.size:
        return scene

    def small(image: Tensor) -> Tensor:
        return functional.interpolate(image, (size, size), mode="area")

    hull = replace(scene.hull, field=scene.hull.field * (size / scene.size), level=scene.hull.level * size / scene.size)
    return seen_from_views(
        replace(
            scene,
            size=size,
            photos=small(scene.photos),
            colour=small(scene.colour),
            alpha=small(scene.alpha[:, None])[:, 0],
            hull=hull,
        )
    )
