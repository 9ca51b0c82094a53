"""The view morph: photos re-projected through the hull to any azimuth and blended (image-based rendering).

Weights follow the unstructured lumigraph (Buehler et al. 2001): a photo counts by how near its angle is and where it sees the
surface. Misalignment that the hull's shape leaves between the two nearest photos is corrected by optical flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gapray.capture.angles import angle_difference
from gapray.geometry.camera import OrbitCamera, frame_grid, sample
from gapray.geometry.carve import NOTHING, front
from gapray.orbit.scene import OrbitFrame, OrbitScene, enlarged, filled
from gapray.orbit.weights import neighbours

DEPTH_TOLERANCE = 0.05
"""A photo sees a surface point if its own depth there differs by less than this [half frames]."""
HELPERS = 5
"""Number of photos that may fill in what the two nearest do not see."""
HELPER_WEIGHTS = (2e-2, 2e-2, 3e-3, 1e-3, 3e-4)
"""Weight of a helper by its rank in angular distance."""
ANGLE_POWER = 2
FACING_POWER = 2
"""Exponents by which a photo's weight falls with its angle to the frame and with the surface's slant."""
DETAIL_POWER = 4
"""Exponent of the photos' weights for details, which thus come almost entirely from the better photo."""
BAND_BLUR = 0.012
NORMAL_BLUR = 0.008
"""Standard deviations of the Gaussians that separate shade from detail, and that smooth the surface for its normals [frame
sides]."""
COARSE_BLUR_PX = 2.0
"""Wider blurs are computed at half size [pixels]."""
FLOW_LIMIT = 0.055
"""Longest residual motion that is accepted [half frames]."""


def render(scene: OrbitScene, azimuth_deg: float, *, without: int | None = None, flow: bool = False) -> OrbitFrame:
    """Render one frame.

    Args:
        scene: From `build_scene`.
        azimuth_deg: Any angle.
        without: Leave this view out.
        flow: Align the two nearest photos by optical flow.
    """
    size, camera = scene.size, scene.camera
    near, inside = front(scene.hull, camera, azimuth_deg, size // 2)
    view_z, alpha = enlarged(filled(near), size), (enlarged(inside, size) + 0.5).clamp(0, 1)
    shown = (alpha > 0) & (view_z > NOTHING / 2)
    u, v = frame_grid(size, scene.colour.device)
    row, column = shown.nonzero(as_tuple=True)
    at = row, column
    points = camera.unproject(u[at], v[at], view_z[at], azimuth_deg)
    normals = _normals(view_z, shown, camera, azimuth_deg)[at]
    offsets = {
        view: angle_difference(captured, azimuth_deg)
        for view, captured in enumerate(scene.azimuths_deg)
        if view != without
    }
    low, high, fraction = neighbours(offsets)
    by_angle = {low: (1 - fraction) ** ANGLE_POWER, high: fraction**ANGLE_POWER} if low != high else {low: 1.0}
    ranked = sorted(offsets, key=lambda view: abs(offsets[view]))[:HELPERS]
    looks = {view: _look(scene, view, points, normals) for view in ranked}
    base, known = _mixed(looks, by_angle, ranked, at, size)
    photos = [_photo(looks[view], by_angle[view], base, at) for view in by_angle if view in looks]
    if flow and len(photos) == 2:
        pairs = zip((low, high), photos, _meeting(photos, fraction), strict=True)
        photos = [_moved(scene.colour[view], photo, looks[view], at, step) for view, photo, step in pairs]
    colour = _blended(photos, known) if photos else base
    visibility = torch.zeros_like(alpha)
    visibility[at] = torch.stack([looks[view].seen for view in by_angle if view in looks]).amax(0)
    return OrbitFrame(colour, torch.where(shown, alpha, 0), torch.where(shown, view_z, NOTHING), visibility)


@dataclass(frozen=True)
class _Look:
    """What one view shows at the frame's surface points."""

    colour: Tensor
    """[3, P]."""
    where: Tensor
    """[2, P]: u and v in the photo."""
    seen: Tensor
    """[P], 0 … 1: how certainly it sees them."""
    facing: Tensor
    """[P], 0 … 1: cosine between surface normal and view; a grazing photo has few pixels there, in the shade of the rim."""


def _look(scene: OrbitScene, view: int, points: Tensor, normals: Tensor) -> _Look:
    azimuth = scene.azimuths_deg[view]
    u, v, view_z = scene.camera.project(points, azimuth)
    own = scene.view_z[view]
    # The nearer of a pixel and its surroundings: at depth discontinuities bilinear values lie on no surface.
    around = functional.max_pool2d(own[None], 3, 1, 1)[0]
    surfaces = sample(torch.stack([own, around]), u, v)
    apart = (surfaces - view_z).abs().amin(0)
    seen = (1 - (apart - DEPTH_TOLERANCE) / DEPTH_TOLERANCE).clamp(0, 1) * ((u.abs() < 1) & (v.abs() < 1))
    toward = torch.as_tensor(scene.camera.axes(azimuth)[2], dtype=points.dtype, device=points.device)
    return _Look(
        sample(scene.colour[view], u, v, mode="bicubic"), torch.stack([u, v]), seen, (normals @ toward).clamp(0.05, 1)
    )


def _normals(view_z: Tensor, shown: Tensor, camera: OrbitCamera, azimuth_deg: float) -> Tensor:
    """Unit normals of the smoothed front in world coordinates, [S, S, 3]."""
    size = view_z.shape[-1]
    smooth = blurred(view_z[None], shown.float(), size * NORMAL_BLUR)[0]
    down, right = torch.gradient(smooth, spacing=2 / size)
    flat = torch.stack([-right, down, torch.ones_like(right)], -1)
    rows = torch.as_tensor(camera.axes(azimuth_deg), dtype=flat.dtype, device=flat.device)
    return functional.normalize(flat, dim=-1) @ rows


def _mixed(
    looks: dict[int, _Look], by_angle: dict[int, float], ranked: list[int], at: tuple[Tensor, Tensor], size: int
) -> tuple[Tensor, Tensor]:
    """A base colour everywhere, [3, S, S], from all helpers; and where any of them saw the surface, [S, S]."""
    weights = {
        view: looks[view].seen * looks[view].facing * (by_angle.get(view, 0.0) + HELPER_WEIGHTS[rank])
        for rank, view in enumerate(ranked)
    }
    total = torch.stack(list(weights.values())).sum(0)
    colour = torch.zeros(3, size, size, device=total.device)
    known = torch.zeros(size, size, device=total.device)
    colour[:, at[0], at[1]] = torch.stack([looks[view].colour * weights[view] for view in ranked]).sum(0) / (
        total + 1e-9
    )
    known[at] = (total > 1e-5).float()
    return _push_pull(colour, known), known


def _photo(look: _Look, by_angle: float, base: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
    """One of the two nearest photos re-projected into the frame: colour and weight, [4, S, S]."""
    image = torch.cat([base, torch.full_like(base[:1], 1e-4)])
    image[:3, at[0], at[1]] = torch.lerp(base[:, at[0], at[1]], look.colour, look.seen)
    image[3, at[0], at[1]] = (look.seen * look.facing**FACING_POWER * by_angle).clamp(min=1e-4)
    return image


def _blended(photos: list[Tensor], known: Tensor) -> Tensor:
    """Two-band blending (Burt and Adelson 1983): shades cross-fade, details come from the better photo alone.

    A plain mean of two photos that are a pixel apart loses print and grain.
    """
    colours = torch.stack([photo[:3] for photo in photos])
    weights = torch.stack([photo[3] for photo in photos])[:, None]
    sigma = known.shape[-1] * BAND_BLUR
    low = torch.stack([blurred(colour, known, sigma) for colour in colours])
    soft = weights / weights.sum(0)
    hard = weights**DETAIL_POWER
    hard = hard / hard.sum(0)
    return ((low * soft).sum(0) + ((colours - low) * hard).sum(0)).clamp(0, 1)


def blurred(image: Tensor, inside: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [C, S, S] over the pixels where `inside` [S, S] is 1."""
    if sigma > COARSE_BLUR_PX and image.shape[-1] % 2 == 0:
        # A wide blur has no detail to lose: half the size costs an eighth.
        coarse = functional.avg_pool2d(torch.cat([image * inside, inside[None]]), 2)
        covered = coarse[-1]
        below = blurred(coarse[:-1] / covered.clamp(min=1e-6), covered, sigma / 2)
        wide = functional.interpolate(below[None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
        return torch.where(inside > 0, wide, image)
    reach = max(1, round(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / sigma) ** 2)
    stacked = torch.cat([image * inside, inside[None]])[:, None]
    for shape, padding in (((1, 1, 1, -1), (0, reach)), ((1, 1, -1, 1), (reach, 0))):
        stacked = functional.conv2d(stacked, (taps / taps.sum()).view(shape), padding=padding)
    return torch.where(inside > 0, stacked[:-1, 0] / stacked[-1:, 0].clamp(min=1e-6), image)


def _push_pull(image: Tensor, known: Tensor) -> Tensor:
    """Fill [C, S, S] where `known` [S, S] is 0 with ever coarser averages (Gortler et al. 1996, "The lumigraph", 3.4)."""
    if float(known.min()) > 0 or image.shape[-1] < 2:
        return image
    half = image.shape[-1] // 2
    coarse = functional.adaptive_avg_pool2d(torch.cat([image * known, known[None]]), half)
    below = _push_pull(coarse[:-1] / coarse[-1].clamp(min=1e-6), (coarse[-1] > 0).float())
    smooth = functional.interpolate(below[None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
    return torch.where(known > 0, image, smooth)


def _meeting(photos: list[Tensor], fraction: float) -> list[Tensor]:
    """U and v in each photo of the frame's pixels, when both photos move along the flow between them, [2, S, S] each."""
    size = photos[0].shape[-1]
    first, second = (_grey(photo[:3]) for photo in photos)
    forward = _limited(_flow(first, second), FLOW_LIMIT * size / 2)
    backward = _limited(_flow(second, first), FLOW_LIMIT * size / 2)
    # Flow from the in-between frame to each side, to second order (Jiang et al. 2018, "Super SloMo", equation 4).
    to_first = -(1 - fraction) * fraction * forward + fraction**2 * backward
    to_second = (1 - fraction) ** 2 * forward - fraction * (1 - fraction) * backward
    u, v = frame_grid(size, photos[0].device)
    grid = torch.stack([u, v])
    return [
        grid + torch.tensor(motion, device=grid.device).permute(2, 0, 1) * 2 / size for motion in (to_first, to_second)
    ]


def _moved(colour: Tensor, photo: Tensor, look: _Look, at: tuple[Tensor, Tensor], to: Tensor) -> Tensor:
    """`_photo` read at other positions of the frame, sampling the photo only once: a second sampling would blur it."""
    size = photo.shape[-1]
    where = torch.zeros(2, size, size, device=photo.device)
    known = torch.zeros(size, size, device=photo.device)
    seen = torch.zeros(size, size, device=photo.device)
    where[:, at[0], at[1]] = look.where
    known[at], seen[at] = 1.0, look.seen
    u, v, sees, weight = sample(torch.cat([_push_pull(where, known), seen[None], photo[3:]]), to[0], to[1])
    return torch.cat([torch.lerp(photo[:3], sample(colour, u, v, mode="bicubic"), sees), weight[None]])


def _grey(image: Tensor) -> NDArray[np.uint8]:
    rgb = (image.permute(1, 2, 0).clamp(0, 1) * 255).byte().cpu().numpy()
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical flow by dense inverse search (Kroeger et al. 2016), OpenCV's medium preset: [S, S, 2] pixels."""
    return np.asarray(
        cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None), np.float32
    )


def _limited(motion: NDArray[np.float32], longest: float) -> NDArray[np.float32]:
    length = np.linalg.norm(motion, axis=-1, keepdims=True)
    return np.asarray(motion * np.minimum(1, longest / np.maximum(length, 1e-6)), np.float32)
