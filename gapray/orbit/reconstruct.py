"""Photos and masks -> a scene: calibrate, find the direction, carve, mend, round, fuse depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapray.config import OrbitSettings
from gapray.errors import InputError
from gapray.gap.package import DEPTH_MAX
from gapray.geometry.calibrate import Fit
from gapray.geometry.carve import NOTHING, carved_by_fronts, mended
from gapray.geometry.depth_fusion import trusted_fronts
from gapray.geometry.frame import lay_out, to_frame
from gapray.geometry.rounding import rounded
from gapray.orbit.camera_search import found_camera, placed
from gapray.orbit.engines import Choice, Engine, chosen_engine
from gapray.orbit.scene import (
    Scene,
    carved_scene,
    laid_out,
    outline_distances,
    seen_from_views,
    silhouettes_of,
    unshifted,
)

LEVELS_PX = (0.0, -0.5, -1.0, -2.0)
"""The hull's surface is put at the one of these that fills the masks best: masks that are a little too small carve thin
parts away for good."""
MEND_ABOVE = 0.01
"""Share of the masks that the hull leaves uncovered, from which on wrong silhouettes are looked for."""
ROUND_ABOVE = 0.995
"""Re-projection IoU from which on masks are exact enough to round what they leave open."""
POOR_IOU = 0.9
"""A view whose mask and hull agree less is named in a warning."""
PLAIN_ENGINES: Mapping[Engine, str] = {
    "flow": "the product's shape does not help to draw its photos: frames in between come from optical flow",
    "nearest": "the product's shape does not help to draw its photos: frames in between repeat the nearest photo",
}


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
    engine: Engine
    """Draws the frames in between."""
    engine_errors: Mapping[Engine, float]
    """See `gapray.orbit.engines.Choice`."""
    reprojection_iou: tuple[float, ...]
    """Overlap of each view's mask with the hull seen from there, 0 … 1."""

    def warnings(self, names: Sequence[str]) -> list[str]:
        """Sentences for people about what looks wrong, naming the views."""
        poor = [
            f"{name}: its outline fits the other views badly (IoU {iou:.2f}); check its mask and azimuth"
            for name, iou in zip(names, self.reprojection_iou, strict=True)
            if iou < POOR_IOU
        ]
        turned = ["the photos run clockwise, against their azimuths"] if self.direction < 0 else []
        plain = [PLAIN_ENGINES[self.engine]] if self.engine in PLAIN_ENGINES else []
        return turned + poor + plain


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
    chosen = found_camera(
        photos, masks, azimuths, layout, size=settings.size, refine=settings.refine_camera, device=device
    )
    placements = placed(layout, chosen)
    scene = carved_scene(laid_out(photos, masks, azimuths, placements, settings.size, device), chosen, settings.voxels)
    scene, calibration = _refined(scene, chosen)
    if not (scene.nearness > NOTHING / 2).any():
        raise InputError("orbit.empty_hull", "the masks contradict each other: nothing is seen in all of them")
    if depths is not None:
        laid16 = [to_frame(one, at, settings.size) for one, at in zip(depths, placements, strict=True)]
        network = torch.tensor(np.stack(laid16).astype(np.float32) / DEPTH_MAX, device=device)
        fronts = trusted_fronts(scene.nearness, network, scene.alpha, azimuths, scene.camera)
        scene = seen_from_views(replace(scene, hull=carved_by_fronts(scene.hull, fronts, azimuths, scene.camera)))
    choice = (
        Choice(settings.engine, {}) if settings.engine != "auto" else chosen_engine(scene, rounding=calibration.rounded)
    )
    if choice.engine in PLAIN_ENGINES and chosen.shifted:
        # Shifts that come from a geometry which does not even help to draw the photos are not believed.
        laid = laid_out(photos, masks, azimuths, layout.placements, settings.size, device)
        scene = unshifted(scene, laid, chosen)
    return scene, replace(calibration, engine=choice.engine, engine_errors=choice.errors)


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
        engine="morph",
        engine_errors={},
        reprojection_iou=tuple(by_level[best].tolist()),
    )
    return seen_from_views(scene), calibration


def _iou(inside: Tensor, alpha: Tensor) -> Tensor:
    found, true = inside > 0, alpha > 0.5
    return (found & true).sum((1, 2)) / (found | true).sum((1, 2)).clamp(min=1)
