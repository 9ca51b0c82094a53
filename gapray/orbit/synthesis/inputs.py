"""Inputs of the network: for each frame the hull's front, the view morph and optical flow; and the nearest photos themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gapray.capture.angles import angle_difference, rank_by_angle
from gapray.geometry.carve import NOTHING
from gapray.orbit.morph import render
from gapray.orbit.scene import OrbitScene
from gapray.orbit.without_shape import by_flow

NEAREST = 4
"""Number of photos that a frame is drawn from, K."""


@dataclass(frozen=True)
class Photos:
    """The photos of one product, [V, …], or those chosen for each of B frames, [B, K, …]."""

    colour: Tensor
    """[V, 3, S, S], 0 … 1; beyond the mask the colour of its nearest pixel is repeated."""
    alpha: Tensor
    """[V, 1, S, S], 0 … 1."""
    fronts: Tensor
    """[V, S, S], view z of the hull's front in each photo, `NOTHING` beside it."""

    def chosen(self, views: Tensor) -> Photos:
        """The photos of each frame, [B, K, …], for view indices `views` [B, K]."""
        return Photos(self.colour[views], self.alpha[views], self.fronts[views])

    def resized(self, size: int) -> Photos:
        """The photos [V, …] at `size` x `size` pixels."""
        return Photos(
            _resized(self.colour, size), _resized(self.alpha, size), _resized_front(self.fronts[:, None], size)[:, 0]
        )


@dataclass(frozen=True)
class Frames:
    """B frames to draw, of one product or of many."""

    morph: Tensor
    """[B, 3, S, S]: the flow-aligned view morph, 0 … 1."""
    visibility: Tensor
    """[B, 1, S, S], 0 … 1: how certainly one of the two nearest photos saw the hull's front there."""
    flow: Tensor
    """[B, 3, S, S]: the two nearest photos warped along the optical flow between them, 0 … 1."""
    flow_alpha: Tensor
    """[B, 1, S, S]: their masks, warped likewise, 0 … 1."""
    alpha: Tensor
    """[B, 1, S, S]: the hull's silhouette, 0 … 1."""
    view_z: Tensor
    """[B, 1, S, S]: view z of the hull's front [half frames], `NOTHING` beside it."""
    views: Tensor
    """int64 [B, K]: the photos nearest in angle, nearest first."""
    angles_deg: Tensor
    """[B, K]: each photo's azimuth minus the frame's."""
    turns: Tensor
    """[B, K, 3, 3]: rotations from the frame's camera axes (right, up, towards the camera) to each photo's."""
    camera: Tensor
    """[B, 3]: inverse distance, axis u, axis v; the same for a frame and its photos."""

    def resized(self, size: int) -> Frames:
        """The frames at `size` x `size` pixels."""
        return replace(
            self,
            morph=_resized(self.morph, size),
            visibility=_resized(self.visibility, size),
            flow=_resized(self.flow, size),
            flow_alpha=_resized(self.flow_alpha, size),
            alpha=_resized(self.alpha, size),
            view_z=_resized_front(self.view_z, size),
        )


def photos_of(scene: OrbitScene) -> Photos:
    """The photos of a scene as the network takes them."""
    return Photos(scene.colour, scene.alpha[:, None], scene.view_z)


def frames_of(
    scene: OrbitScene, azimuths_deg: Sequence[float], *, without: int | None = None, morph_by_flow: bool = True
) -> Frames:
    """Prepare frames of a scene for the network.

    Args:
        scene: From `gapray.orbit.reconstruct.build_scene`.
        azimuths_deg: Azimuths of the frames.
        without: Index of a view that must not be used.
        morph_by_flow: Whether the view morph aligns its photos by optical flow.
    """
    morphs = [render(scene, azimuth, without=without, flow=morph_by_flow) for azimuth in azimuths_deg]
    flows = [by_flow(scene, azimuth, without=without) for azimuth in azimuths_deg]
    camera = scene.camera
    chosen = [nearest_views(scene.azimuths_deg, azimuth, without=without) for azimuth in azimuths_deg]
    axes = np.stack([camera.axes(azimuth) for azimuth in scene.azimuths_deg])
    turns = np.stack(
        [axes[views] @ camera.axes(azimuth).T for views, azimuth in zip(chosen, azimuths_deg, strict=True)]
    )
    angles = [
        [angle_difference(scene.azimuths_deg[view], azimuth) * camera.direction for view in views]
        for views, azimuth in zip(chosen, azimuths_deg, strict=True)
    ]
    like = scene.colour
    return Frames(
        morph=torch.stack([frame.colour for frame in morphs]),
        visibility=torch.stack([frame.visibility for frame in morphs])[:, None],
        flow=torch.stack([frame.colour for frame in flows]),
        flow_alpha=torch.stack([frame.alpha for frame in flows])[:, None],
        alpha=torch.stack([frame.alpha for frame in morphs])[:, None],
        view_z=torch.stack([frame.view_z for frame in morphs])[:, None],
        views=torch.tensor(chosen, device=like.device),
        angles_deg=torch.tensor(angles).to(like),
        turns=torch.as_tensor(turns).to(like),
        camera=torch.tensor([[camera.inverse_distance, camera.axis_x, camera.axis_y]]).to(like).expand(len(chosen), 3),
    )


def nearest_views(captured_deg: Sequence[float], azimuth_deg: float, *, without: int | None = None) -> list[int]:
    """Indices of the `NEAREST` views by angle, nearest first; the farthest is repeated if there are fewer."""
    ranked = [view for view in rank_by_angle(captured_deg, azimuth_deg) if view != without][:NEAREST]
    return ranked + ranked[-1:] * (NEAREST - len(ranked))


def _resized(image: Tensor, size: int) -> Tensor:
    if size > image.shape[-1]:
        return functional.interpolate(image, (size, size), mode="bilinear", align_corners=False)
    return functional.interpolate(image, (size, size), mode="area")


def _resized_front(view_z: Tensor, size: int) -> Tensor:
    """Resize [..., 1, S, S], averaging over the product alone; `NOTHING` where a pixel shows none of it."""
    shown = (view_z > NOTHING / 2).float()
    covered = _resized(shown, size)
    return torch.where(covered > 0, _resized(view_z * shown, size) / covered.clamp(min=1e-6), NOTHING)
