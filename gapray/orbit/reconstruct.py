"""From photos and masks to a scene: calibrate, find the direction, carve, mend, round, fuse depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapray.errors import InputError
from gapray.gap.package import DEPTH_MAX
from gapray.geometry.calibrate import Fit
from gapray.geometry.carve import NOTHING, carved_by_fronts, mended
from gapray.geometry.depth_fusion import trusted_fronts
from gapray.geometry.frame import lay_out, to_frame
from gapray.geometry.rounding import rounded
from gapray.orbit.camera_search import find_camera, placed
from gapray.orbit.engines import Engine, EngineChoice, choose_engine
from gapray.orbit.scene import (
    OrbitScene,
    carved_scene,
    frame_photos,
    outline_distances,
    seen_from_views,
    silhouettes_of,
    unshifted,
)
from gapray.orbit.settings import OrbitSettings

LEVELS_PX = (0.0, -0.5, -1.0, -2.0)
"""Candidate levels of the hull's surface; the one that fills the masks best is used, because masks that are slightly too small
carve thin parts away for good."""
MEND_ABOVE = 0.01
"""Wrong silhouettes are looked for when the hull leaves more than this fraction of the masks uncovered."""
ROUND_ABOVE = 0.995
"""Only masks with a larger re-projection IoU are exact enough for rounding."""
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
    """u of the turning axis, -1 … 1."""
    direction: int
    """+1, or -1 when the photos run in the opposite direction to their azimuths."""
    shifted: bool
    """Whether each view needed a shift and a scale: no fixed camera took the photos."""
    mended: bool
    """Whether parts that one or two masks had lost were restored."""
    rounded: bool
    """Whether ridges that no photo shows were rounded."""
    engine: Engine
    """The engine that draws the in-between frames."""
    engine_errors: Mapping[Engine, float]
    """Errors that decided the engine, see `gapray.orbit.engines.EngineChoice`."""
    reprojection_iou: tuple[float, ...]
    """Overlap of each view's mask with the hull seen from there, 0 … 1."""

    def warnings(self, names: Sequence[str]) -> list[str]:
        """Messages for people about what looks wrong, naming the views."""
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
) -> tuple[OrbitScene, Calibration]:
    """Calibrate the photos and carve the product.

    Args:
        photos: uint8 [H, W, 3] for each view; sizes may differ.
        masks: uint8 [H, W] for each view, 128 and above = product.
        azimuths_deg: One azimuth a view.
        settings: Size, framing and which refinements are on.
        depths: uint16 [H, W] for each view, as `GapView.depth`, if a network estimated them: they show concavities that no
            outline does.
        device: Where the tensors live.

    Raises:
        ValueError: A mask is empty, or there are fewer than three views.
        InputError: `mask.too_small` for a mask that vanishes in the frame; `orbit.empty_hull`.
    """
    if len(photos) < 3:
        raise ValueError(f"{len(photos)} views are too few for a hull")
    azimuths = tuple(float(azimuth) for azimuth in azimuths_deg)
    layout = lay_out([mask >= 128 for mask in masks], framing=settings.framing, margin=settings.margin)
    fit = find_camera(photos, masks, azimuths, layout, size=settings.size, refine=settings.refine_camera, device=device)
    placements = placed(layout, fit)
    scene = carved_scene(frame_photos(photos, masks, azimuths, placements, settings.size, device), fit, settings.voxels)
    scene, calibration = _refined(scene, fit)
    if not (scene.view_z > NOTHING / 2).any():
        raise InputError("orbit.empty_hull", "the masks contradict each other: nothing is seen in all of them")
    if depths is not None:
        framed = [to_frame(depth, at, settings.size) for depth, at in zip(depths, placements, strict=True)]
        network = torch.tensor(np.stack(framed).astype(np.float32) / DEPTH_MAX, device=device)
        fronts = trusted_fronts(scene.view_z, network, scene.alpha, azimuths, scene.camera)
        scene = seen_from_views(replace(scene, hull=carved_by_fronts(scene.hull, fronts, azimuths, scene.camera)))
    choice = (
        EngineChoice(settings.engine, {})
        if settings.engine != "auto"
        else choose_engine(scene, rounding=calibration.rounded)
    )
    if choice.engine in PLAIN_ENGINES and fit.shifted:
        # Shifts from a geometry that does not even help to draw the photos are not trusted.
        unshifted_photos = frame_photos(photos, masks, azimuths, layout.placements, settings.size, device)
        scene = unshifted(scene, unshifted_photos, fit)
    return scene, replace(calibration, engine=choice.engine, engine_errors=choice.errors)


def _refined(scene: OrbitScene, fit: Fit) -> tuple[OrbitScene, Calibration]:
    """Mend what wrong masks carved away, find the best level, round what nobody sees."""
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
    """IoU of the hull's outline and the mask in each view, [V]."""
    predicted, true = inside > 0, alpha > 0.5
    return (predicted & true).sum((1, 2)) / (predicted | true).sum((1, 2)).clamp(min=1)
