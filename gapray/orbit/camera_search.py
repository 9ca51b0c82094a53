"""Find the camera that outlines and colours agree on.

Round products defeat outlines alone: a can looks nearly the same from 12 and from 25 degrees above. So cameras are judged by
both: how much of the masks their hull leaves uncovered, and how poorly each photo is predicted from the others. What neither
determines, such as a plain cup's elevation, is settled by what photographers usually do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from gapray.errors import InputError
from gapray.geometry.calibrate import (
    FIT_DEPTHS,
    FIT_PIXELS,
    MAX_ELEVATION_DEG,
    MAX_INVERSE_DISTANCE,
    MIN_ELEVATION_DEG,
    UNITS,
    Fit,
    Silhouettes,
    calibrate,
    reshifted,
)
from gapray.geometry.frame import Layout, Placement, mask_box, to_frame
from gapray.geometry.photo_consistency import disagreement
from gapray.orbit.scene import FramedPhotos, carved_scene, frame_photos

QUICK_SIZE, QUICK_VOXELS = 64, 40
SIZE, VOXELS = 96, 48
"""Side [pixels] of the photos that are predicted from each other, and voxels: to choose a start, and to search from it."""
STARTS_DEG = (5.0, 15.0, 25.0, 35.0)
"""Elevations tried in addition to the one that fits the outlines best."""
INVERSE_DISTANCES = (0.05, 0.15, 0.25, 0.35)
EVALUATIONS = 26
"""Maximum number of cost evaluations of the simplex search."""
STEPS = (5.0, 0.08, 0.02)
"""Edges of the initial simplex: elevation [degrees], inverse distance, axis u."""
COLOUR_FLOOR, COVER_FLOOR = 0.01, 0.005
"""Noise of a photo's colours and of a mask's outline; smaller differences do not count."""
COVER_WEIGHT = 0.5
"""Weight of the outlines relative to the colours; both enter as logarithms, so their units do not matter."""
USUAL_ELEVATION_DEG, USUAL_INVERSE_DISTANCE = (15.0, 15.0), (0.25, 0.12)
"""Mean and standard deviation of common practice: phones are held slightly above the product, one to four product sizes away."""
USUAL_WEIGHT = 0.02
"""Weight of common practice, which decides what the photos leave open."""
DIRECTION_DOUBT = 0.98
"""The photos' order is reversed only if that multiplies their disagreement by less than this."""


def find_camera(
    photos: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    azimuths_deg: tuple[float, ...],
    layout: Layout,
    *,
    size: int,
    refine: bool,
    device: str,
) -> Fit:
    """Find the camera and the direction of rotation.

    Args:
        photos: uint8 [H, W, 3] for each view.
        masks: uint8 [H, W] for each view, none empty.
        azimuths_deg: One azimuth a view.
        layout: Placement of the photos in the frame.
        size: Side of the frame in which outlines are compared [pixels].
        refine: Search by colours and outlines; otherwise the camera that fits the outlines best is returned.
        device: Where the tensors live.

    Raises:
        InputError: `mask.too_small` when nothing of a mask is left in the frame.
    """
    cut = [to_frame(mask, at, size) for mask, at in zip(masks, layout.placements, strict=True)]
    for azimuth, mask in zip(azimuths_deg, cut, strict=True):
        if not (mask >= 128).any():
            raise InputError(
                "mask.too_small", f"the mask at {azimuth:g} degrees is next to nothing in the orbit's frame"
            )
    alpha = torch.tensor(np.stack(cut), device=device).float() / 255
    axis_y = float(np.mean([_middle(mask) for mask in cut]))
    fits = calibrate(alpha, list(azimuths_deg), axis_y=axis_y, own_crops=layout.own_crops, quick=True)
    outlines = Silhouettes(alpha, list(azimuths_deg), axis_y)
    quick, fine = (
        [frame_photos(photos, masks, azimuths_deg, placed(layout, fit), side, device) for fit in fits]
        for side in (QUICK_SIZE, SIZE)
    )
    wrong = [_disagreement(fit, framed, QUICK_VOXELS) for fit, framed in zip(fits, quick, strict=True)]
    chosen = 1 if wrong[1] < DIRECTION_DOUBT * wrong[0] else 0
    return _searched(fits[chosen], quick[chosen], fine[chosen], outlines) if refine else fits[chosen]


def placed(layout: Layout, fit: Fit) -> list[Placement]:
    """Placements of the frame in the photos, with the fit's shifts and scales applied."""
    return [
        at.moved(du, dv, float(np.exp(log_scale)))
        for at, (du, dv, log_scale) in zip(layout.placements, fit.shifts, strict=True)
    ]


def _middle(mask: NDArray[np.uint8]) -> float:
    """V of the middle of a mask's bounding box."""
    _, _, upper, lower = mask_box(mask >= 128)
    return (upper + lower) / len(mask) - 1


def _searched(fit: Fit, quick: FramedPhotos, fine: FramedPhotos, outlines: Silhouettes) -> Fit:
    """Choose the best of several starts and refine it by a simplex search: the colour cost has steps and no useful gradient."""
    pixels = outlines.pixels(FIT_PIXELS, seed=1)
    shifts = torch.tensor(fit.shifts, device=outlines.masks.device).float()

    def covered(at: Fit) -> Tensor:
        camera = torch.tensor([math.radians(at.elevation_deg), at.inverse_distance, at.axis_x], device=shifts.device)
        return outlines.coverage(pixels, FIT_DEPTHS, camera, at.direction, shifts)

    def missed(at: Fit) -> float:
        return 1 - float(covered(at).mean())

    def cost(at: Fit, framed: FramedPhotos, voxels: int) -> float:
        return (
            math.log(_disagreement(at, framed, voxels) + COLOUR_FLOOR)
            + COVER_WEIGHT * math.log(missed(at) + COVER_FLOOR)
            + USUAL_WEIGHT * _off(at.elevation_deg, USUAL_ELEVATION_DEG)
            + USUAL_WEIGHT * _off(at.inverse_distance, USUAL_INVERSE_DISTANCE)
        )

    starts = [fit]
    for elevation in STARTS_DEG:
        at_distance = [replace(fit, elevation_deg=elevation, inverse_distance=k) for k in INVERSE_DISTANCES]
        starts.append(min(at_distance, key=missed))
    start = min(starts, key=lambda at: cost(at, quick, QUICK_VOXELS))

    def at(values: NDArray[np.float64]) -> Fit:
        elevation, k, axis_x = values * np.array(UNITS[:3])
        return replace(
            fit,
            elevation_deg=float(np.clip(elevation, MIN_ELEVATION_DEG, MAX_ELEVATION_DEG)),
            inverse_distance=float(np.clip(k, 0, MAX_INVERSE_DISTANCE)),
            axis_x=float(axis_x),
        )

    first = np.array([start.elevation_deg, start.inverse_distance, start.axis_x])
    steps = np.array(STEPS)
    if first[1] + steps[1] > MAX_INVERSE_DISTANCE:
        steps[1] = -steps[1]
    simplex = np.vstack([first, first + np.diag(steps)]) / np.array(UNITS[:3])
    options = {"initial_simplex": simplex, "maxfev": EVALUATIONS, "xatol": 0.02, "fatol": 1e-4}
    result = minimize(lambda values: cost(at(values), fine, VOXELS), simplex[0], method="Nelder-Mead", options=options)
    best = at(result.x)
    if fit.shifted:
        best = reshifted(outlines, best)
        shifts = torch.tensor(best.shifts, device=shifts.device).float()
    return replace(best, coverage=covered(best).double().cpu().numpy())


def _off(value: float, usual: tuple[float, float]) -> float:
    return ((value - usual[0]) / usual[1]) ** 2


def _disagreement(fit: Fit, framed: FramedPhotos, voxels: int) -> float:
    scene = carved_scene(framed, fit, voxels)
    views = disagreement(scene.colour, scene.alpha, scene.view_z, scene.azimuths_deg, scene.camera)
    return float(views.mean())
