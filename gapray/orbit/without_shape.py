"""Frames made of the photos as pictures, without the product's shape: the nearest one, or two moved along the optical flow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gapray.capture.azimuths import turned
from gapray.geometry.carve import NOTHING
from gapray.orbit.interpolation import motion_between
from gapray.orbit.scene import OrbitFrame, Scene
from gapray.orbit.weights import neighbours

LEAST = 1e-3
"""Weight of a pixel beside the product, so that colours go on beyond its outline; there is no depth at alphas below."""


def by_flow(scene: Scene, azimuth_deg: float, *, without: int | None = None) -> OrbitFrame:
    """The two nearest photos moved along the optical flow between them; depth moves with them.

    Args:
        scene: From `gapray.orbit.reconstruct.build_scene`.
        azimuth_deg: Any angle.
        without: Leave this view out.
    """
    low, high, share = _around(scene, azimuth_deg, without)
    if low == high or share in (0.0, 1.0):
        return photo_frame(scene, low if share < 1 else high)
    # Flow is found on white, where product and background differ most often.
    motion = motion_between(_on_white(scene, low), _on_white(scene, high), share)
    layers = [_layers(scene, view) for view in (low, high)]
    moved = torch.from_numpy(motion.applied(*layers)).permute(2, 0, 1).to(scene.alpha.device)
    colour = (moved[:3] / moved[3]).clamp(0, 1)
    alpha = moved[4].clamp(0, 1)
    nearness = torch.where(alpha > LEAST, moved[5] / alpha.clamp(min=LEAST), NOTHING)
    return OrbitFrame(colour, alpha, nearness, (alpha > 0.5).float())


def by_nearest(scene: Scene, azimuth_deg: float) -> OrbitFrame:
    """The photo nearest in angle."""
    low, high, share = _around(scene, azimuth_deg, None)
    return photo_frame(scene, low if share <= 0.5 else high)


def photo_frame(scene: Scene, view: int) -> OrbitFrame:
    """A captured view as a frame."""
    alpha = scene.alpha[view]
    nearness = torch.where(alpha > 0, scene.nearness[view], NOTHING)
    return OrbitFrame(scene.photos[view], alpha, nearness, (alpha > 0).float())


def _around(scene: Scene, azimuth_deg: float, without: int | None) -> tuple[int, int, float]:
    """The two photos that an angle lies between, and how far from the first to the second, 0 … 1."""
    azimuths = {view: own for view, own in enumerate(scene.azimuths_deg) if view != without}
    return neighbours({view: turned(own, azimuth_deg) for view, own in azimuths.items()})


def _on_white(scene: Scene, view: int) -> NDArray[np.uint8]:
    """A photo on white, uint8 [S, S, 3]."""
    alpha = scene.alpha[view]
    image = (scene.photos[view] * alpha + 1 - alpha).permute(1, 2, 0)
    return np.asarray((image * 255).round().byte().cpu().numpy())


def _layers(scene: Scene, view: int) -> NDArray[np.float32]:
    """What moves, float32 [S, S, 6]: colour and its weight, alpha, and nearness; colour and nearness times their weights."""
    alpha = scene.alpha[view]
    weight = alpha.clamp(min=LEAST)
    near = torch.where(scene.nearness[view] > NOTHING / 2, scene.nearness[view], 0.0)
    layers = torch.cat([scene.colour[view] * weight, weight[None], alpha[None], (near * alpha)[None]])
    return np.ascontiguousarray(layers.permute(1, 2, 0).cpu().numpy(), np.float32)
