"""Photos and masks -> a scene: calibrate, find the direction, carve, mend, round, fuse depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapray.config import OrbitSettings
from gapray.errors import InputError
from gapray.gap.package import DEPTH_MAX
from gapray.geometry.calibrate import Fit, calibrate
from gapray.geometry.carve import NOTHING, carved_by_fronts, mended
from gapray.geometry.depth_fusion import trusted_fronts
from gapray.geometry.frame import Layout, Placement, lay_out, mask_box, to_frame
from gapray.geometry.rounding import rounded
from gapray.orbit.morph import render
from gapray.orbit.scene import Scene, carved_scene, outline_distances, seen_from_views, silhouettes_of

LEVELS_PX = (0.0, -0.5, -1.0, -2.0)
"""The hull's surface is put at the one of these that fills the masks best: masks that are a little too small carve thin
parts away for good."""
MEND_ABOVE = 0.01
"""Share of the masks that the hull leaves uncovered, from which on wrong silhouettes are looked for."""
ROUND_ABOVE = 0.995
"""Re-projection IoU from which on masks are exact enough to round what they leave open."""
TRIAL_SIZE, TRIAL_VOXELS = 96, 64
"""The test of direction renders each view from the others at this size [pixels] and resolution."""
DIRECTION_DOUBT = 0.98
"""The photos' own order is turned round only when the other one renders them this much better."""
POOR_IOU = 0.9
"""A view whose mask and hull agree less is named in a warning."""


@dataclass(frozen=True)
class Calibration:
    """What was found out about the photos, for people and for sidecars."""

    elevation_deg: float
    inverse_distance: float
    """1 / distance of the camera [1 / half frames]; 0 = orthographic."""
    axis_x: float
    """Where the turning axis is seen, -1 … 1."""
    direction: int
    """+1, or -1 when the photos run the other way round than their azimuths say."""
    shifted: bool
    """A shift and a scale a view were needed: the photos are no fixed camera's."""
    mended: bool
    """Parts that one or two masks had lost were put back."""
    rounded: bool
    """Ridges that no photo shows were rounded."""
    reprojection_iou: tuple[float, ...]
    """Of each view's mask and the hull seen from there, 0 … 1."""

    def warnings(self, names: Sequence[str]) -> list[str]:
        """Sentences for people about what looks wrong, naming the views."""
        poor = [
            f"{name}: its outline fits the other views badly (IoU {iou:.2f}); check its mask and azimuth"
            for name, iou in zip(names, self.reprojection_iou, strict=True)
            if iou < POOR_IOU
        ]
        turned = ["the photos run clockwise, against their azimuths"] if self.direction < 0 else []
        return turned + poor


def build_scene(
    photos: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    azimuths_deg: Sequence[float],
    settings: OrbitSettings,
    *,
    depths: Sequence[NDArray[np.uint16]] | None = None,
    device: str = "cpu",
) -> tuple[Scene, Calibration]:
    """Calibrate the photos and carve the product.

    Args:
        photos: uint8 [H, W, 3] a view; sizes may differ.
        masks: uint8 [H, W] a view, 128 and above = product.
        azimuths_deg: One a view.
        settings: Size, framing and which refinements are on.
        depths: uint16 [H, W] a view as `GapView.depth`, when a network estimated them: they show concavities that no
            outline does.
        device: Where the tensors live.

    Raises:
        ValueError: A mask is empty, or there are fewer than three views.
        InputError: `mask.too_small` for a mask of which nothing is left in the frame; `orbit.empty_hull`.
    """
    if len(photos) < 3:
        raise ValueError(f"{len(photos)} views are too few for a hull")
    azimuths = tuple(float(azimuth) for azimuth in azimuths_deg)
    layout = lay_out([mask >= 128 for mask in masks], framing=settings.framing, margin=settings.margin)
    laid = [to_frame(mask, at, settings.size) for mask, at in zip(masks, layout.placements, strict=True)]
    for azimuth, alpha in zip(azimuths, laid, strict=True):
        if not (alpha >= 128).any():
            raise InputError(
                "mask.too_small", f"the mask at {azimuth:g} degrees is next to nothing in the orbit's frame"
            )
    fits = calibrate(
        torch.tensor(np.stack(laid), device=device).float() / 255,
        list(azimuths),
        axis_y=float(np.mean([_middle(alpha) for alpha in laid])),
        own_crops=layout.own_crops,
    )
    errors = [_trial_error(fit, photos, masks, azimuths, layout, device) for fit in fits]
    chosen = fits[1] if errors[1] < DIRECTION_DOUBT * errors[0] else fits[0]
    placements = _moved(layout, chosen)
    scene = carved_scene(photos, masks, azimuths, placements, chosen, settings.size, settings.voxels, device)
    scene, calibration = _refined(scene, chosen)
    if not (scene.nearness > NOTHING / 2).any():
        raise InputError("orbit.empty_hull", "the masks contradict each other: nothing is seen in all of them")
    if depths is not None:
        laid16 = [to_frame(one, at, settings.size) for one, at in zip(depths, placements, strict=True)]
        network = torch.tensor(np.stack(laid16).astype(np.float32) / DEPTH_MAX, device=device)
        fronts = trusted_fronts(scene.nearness, network, scene.alpha, azimuths, scene.camera)
        scene = seen_from_views(replace(scene, hull=carved_by_fronts(scene.hull, fronts, azimuths, scene.camera)))
    return scene, calibration


def _middle(alpha: NDArray[np.uint8]) -> float:
    """V of the middle of a mask's box."""
    _, _, upper, lower = mask_box(alpha >= 128)
    return (upper + lower) / len(alpha) - 1


def _moved(layout: Layout, fit: Fit) -> list[Placement]:
    return [
        at.moved(du, dv, float(np.exp(log_scale)))
        for at, (du, dv, log_scale) in zip(layout.placements, fit.shifts, strict=True)
    ]


def _trial_error(
    fit: Fit,
    photos: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    azimuths: tuple[float, ...],
    layout: Layout,
    device: str,
) -> float:
    """How badly each photo is rendered from the others, mean absolute error of 0 … 1."""
    scene = carved_scene(photos, masks, azimuths, _moved(layout, fit), fit, TRIAL_SIZE, TRIAL_VOXELS, device)
    wrong = []
    for view, azimuth in enumerate(azimuths):
        frame = render(scene, azimuth, without=view)
        wrong.append((frame.colour * frame.alpha - scene.photos[view] * scene.alpha[view]).abs().mean())
    return float(torch.stack(wrong).mean())


def _refined(scene: Scene, fit: Fit) -> tuple[Scene, Calibration]:
    """Mend what wrong masks carved, find the best level, round what nobody sees."""
    inside = outline_distances(scene)
    uncovered = (inside < -1) & (scene.alpha > 0.5)
    mend = float(uncovered.sum() / (scene.alpha > 0.5).sum()) > MEND_ABOVE
    if mend:
        cut = (scene.alpha * 255).round().byte().cpu().numpy()
        silhouettes = silhouettes_of(cut, scene.azimuths_deg, scene.alpha.device)
        scene = replace(scene, hull=mended(scene.hull, silhouettes, scene.camera, uncovered))
        inside = outline_distances(scene)
    by_level = [_iou(inside - level, scene.alpha) for level in LEVELS_PX]
    best = max(range(len(LEVELS_PX)), key=lambda index: float(by_level[index].mean()))
    scene = replace(scene, hull=replace(scene.hull, level=LEVELS_PX[best]))
    ridges = float(by_level[best].mean()) > ROUND_ABOVE
    if ridges:
        scene = replace(scene, hull=rounded(scene.hull, scene.camera, scene.azimuths_deg, scene.size))
    calibration = Calibration(
        elevation_deg=fit.elevation_deg,
        inverse_distance=fit.inverse_distance,
        axis_x=fit.axis_x,
        direction=fit.direction,
        shifted=fit.shifted,
        mended=mend,
        rounded=ridges,
        reprojection_iou=tuple(by_level[best].tolist()),
    )
    return seen_from_views(scene), calibration


def _iou(inside: Tensor, alpha: Tensor) -> Tensor:
    found, true = inside > 0, alpha > 0.5
    return (found & true).sum((1, 2)) / (found | true).sum((1, 2)).clamp(min=1)
