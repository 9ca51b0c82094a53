"""Frames made from the photos as pictures, without the product's shape: the nearest one, or two warped along optical flow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference, nearest_angle
from gapray.geometry.carve import NOTHING
from gapray.orbit.interpolation import motion_between
from gapray.orbit.scene import OrbitFrame, OrbitScene
from gapray.orbit.weights import neighbours

MIN_WEIGHT = 1e-3
"""Weight of a pixel beside the product, so that colours continue beyond its outline; at lower alphas there is no depth."""


def by_flow(scene: OrbitScene, azimuth_deg: float, *, without: int | None = None) -> OrbitFrame:
    """Warp the two nearest photos along the optical flow between them; depth moves with them.

    Args:
        scene: From `gapray.orbit.reconstruct.build_scene`.
        azimuth_deg: Any angle.
        without: Leave this view out.
    """
    low, high, fraction = _around(scene, azimuth_deg, without)
    if low == high or fraction in (0.0, 1.0):
        return photo_frame(scene, low if fraction < 1 else high)
    # Flow is computed on white, where product and background differ most often.
    motion = motion_between(_on_white(scene, low), _on_white(scene, high), fraction)
    layers = [_layers(scene, view) for view in (low, high)]
    moved = torch.from_numpy(motion.applied(*layers)).permute(2, 0, 1).to(scene.alpha.device)
    colour = (moved[:3] / moved[3]).clamp(0, 1)
    alpha = moved[4].clamp(0, 1)
    view_z = torch.where(alpha > MIN_WEIGHT, moved[5] / alpha.clamp(min=MIN_WEIGHT), NOTHING)
    return OrbitFrame(colour, alpha, view_z, (alpha > 0.5).float())


def by_nearest(scene: OrbitScene, azimuth_deg: float) -> OrbitFrame:
    """Show the photo nearest in angle."""
    return photo_frame(scene, nearest_angle(scene.azimuths_deg, azimuth_deg))


def photo_frame(scene: OrbitScene, view: int) -> OrbitFrame:
    """Show a captured view as a frame."""
    alpha = scene.alpha[view]
    view_z = torch.where(alpha > 0, scene.view_z[view], NOTHING)
    return OrbitFrame(scene.photos[view], alpha, view_z, (alpha > 0).float())


def _around(scene: OrbitScene, azimuth_deg: float, without: int | None) -> tuple[int, int, float]:
    """The two photos on either side of an angle, and its position between them, 0 … 1."""
    azimuths = {view: own for view, own in enumerate(scene.azimuths_deg) if view != without}
    return neighbours({view: angle_difference(own, azimuth_deg) for view, own in azimuths.items()})


def _on_white(scene: OrbitScene, view: int) -> NDArray[np.uint8]:
    """A photo composited on white, uint8 [S, S, 3]."""
    alpha = scene.alpha[view]
    image = (scene.photos[view] * alpha + 1 - alpha).permute(1, 2, 0)
    return np.asarray((image * 255).round().byte().cpu().numpy())


def _layers(scene: OrbitScene, view: int) -> NDArray[np.float32]:
    """Layers to warp, float32 [S, S, 6]: colour times weight, the weight, alpha, and view z times alpha."""
    alpha = scene.alpha[view]
    weight = alpha.clamp(min=MIN_WEIGHT)
    near = torch.where(scene.view_z[view] > NOTHING / 2, scene.view_z[view], 0.0)
    layers = torch.cat([scene.colour[view] * weight, weight[None], alpha[None], (near * alpha)[None]])
    return np.ascontiguousarray(layers.permute(1, 2, 0).cpu().numpy(), np.float32)
