"""From a `GapPackage` and azimuths to conditions: what every frame of the orbit should look like, for any video backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapray.errors import InputError
from gapray.gap.package import UNNAMED, GapPackage
from gapray.geometry.carve import NOTHING
from gapray.orbit.engines import draw_between
from gapray.orbit.reconstruct import Calibration, build_scene
from gapray.orbit.scene import OrbitFrame
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.weights import even_orbit, key_views, view_weights
from gapray.orbit.without_shape import photo_frame

FARTHEST = 0.15
"""Depth of the product's farthest point; 0 is reserved for pixels without product."""
MIN_VIEWS = 3


@dataclass(frozen=True)
class OrbitConditions:
    """Conditions of F frames from V views, S x S pixels each."""

    azimuths_deg: tuple[float, ...]
    """Azimuths of the frames."""
    depth: NDArray[np.float32]
    """[F, S, S]: 0 = no product, `FARTHEST` … 1 = nearest point of the whole orbit; one scale for all frames."""
    silhouette: NDArray[np.uint8]
    """[F, S, S], 0 … 255."""
    initial: NDArray[np.uint8]
    """[F, S, S, 3]: the chosen engine's frames on the background; the photo itself at captured azimuths."""
    visibility: NDArray[np.uint8]
    """[F, S, S], 0 … 255: how certainly a photo saw what `initial` shows; 255 at captured azimuths."""
    weights: NDArray[np.float32]
    """[F, V]: weights of the views in each frame, see `gapray.orbit.weights.view_weights`."""
    key_views: tuple[int | None, ...]
    """Index of the view that a key frame shows; None for in-between frames."""
    references: NDArray[np.uint8]
    """[V, S, S, 3]: the photos in the orbit's frame, on the background."""
    background: tuple[int, int, int]
    """sRGB, 0 … 255."""
    calibration: Calibration
    warnings: tuple[str, ...]
    """For people: photos that the orbit does not explain; `GapPackage.warnings` lists what is wrong with the photos themselves."""

    @property
    def key_frames(self) -> tuple[int, ...]:
        """Indices of the frames that show a captured azimuth."""
        return tuple(frame for frame, view in enumerate(self.key_views) if view is not None)


def build_conditions(
    package: GapPackage,
    settings: OrbitSettings,
    *,
    azimuths_deg: Sequence[float] | None = None,
    device: str = "cpu",
) -> OrbitConditions:
    """Compute the conditions of one product's orbit.

    Args:
        package: At least three views.
        settings: Size, framing, refinements; `settings.frames` even steps unless `azimuths_deg` is given.
        azimuths_deg: Azimuths of the frames.
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: `orbit.too_few_views`; `mask.too_small` for a view whose mask is empty or vanishes in the orbit's frame;
            `orbit.empty_hull` when no part of the product is in all masks.
    """
    if len(package.views) < MIN_VIEWS:
        raise InputError(
            "orbit.too_few_views", f"{package.product_id} has {len(package.views)} views; an orbit needs {MIN_VIEWS}"
        )
    for view in package.views:
        if not (view.mask >= 128).any():
            raise InputError("mask.too_small", f"{package.product_id}: the mask of {view.name} is empty")
    frames = tuple(azimuths_deg) if azimuths_deg is not None else even_orbit(settings.frames)
    captured = [view.azimuth_deg for view in package.views]
    by_network = package.models.get("depth", UNNAMED).split("@")[0] not in ("hull", "null-model", UNNAMED)
    with torch.no_grad():
        scene, calibration = build_scene(
            [view.reference for view in package.views],
            [view.mask for view in package.views],
            captured,
            settings,
            depths=[view.depth for view in package.views] if by_network and settings.fuse_depth else None,
            device=device,
        )
        keys = key_views(frames, captured)
        background = torch.tensor(settings.background_rgb, device=device).float() / 255
        in_between = [azimuth for azimuth, key in zip(frames, keys, strict=True) if key is None]
        drawn_between = iter(draw_between(scene, in_between, calibration.engine, flow=settings.flow))
        drawn = [next(drawn_between) if key is None else photo_frame(scene, key) for key in keys]
        colour = torch.stack([_on(frame.colour, frame.alpha, background) for frame in drawn])
        references = _on(scene.photos, scene.alpha[:, None], background)
    return OrbitConditions(
        azimuths_deg=frames,
        depth=_depths(drawn),
        silhouette=_bytes(torch.stack([frame.alpha for frame in drawn])),
        initial=_bytes(colour.permute(0, 2, 3, 1)),
        visibility=_bytes(torch.stack([frame.visibility for frame in drawn])),
        weights=view_weights(frames, captured),
        key_views=keys,
        references=_bytes(references.permute(0, 2, 3, 1)),
        background=settings.background_rgb,
        calibration=calibration,
        warnings=tuple(calibration.warnings([view.name for view in package.views])),
    )


def _on(colour: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Composite [..., 3, S, S] over a plain background."""
    return colour * alpha + background[:, None, None] * (1 - alpha)


def _depths(drawn: list[OrbitFrame]) -> NDArray[np.float32]:
    view_z = torch.stack([frame.view_z for frame in drawn])
    shown = view_z > NOTHING / 2
    if not shown.any():
        raise InputError("orbit.empty_hull", "no frame shows any of the product's hull")
    low, high = float(view_z[shown].min()), float(view_z[shown].max())
    scaled = FARTHEST + (1 - FARTHEST) * (view_z - low) / max(high - low, 1e-6)
    return np.asarray(torch.where(shown, scaled, 0.0).float().cpu().numpy(), np.float32)


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    return np.asarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy())
