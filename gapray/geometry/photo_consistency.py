"""Photo consistency: do the photos agree on the colours of a surface?

The notion is from Kutulakos and Seitz (2000, "A theory of shape by space carving"). Silhouettes of a can look alike from
many elevations; its print does not: under the wrong camera a photo re-projected into its neighbour does not line up with
what the neighbour shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gapray.geometry.camera import OrbitCamera, frame_grid
from gapray.geometry.carve import NOTHING

DEPTH_TOLERANCE = 0.06
"""A photo sees a surface point if its own surface there is nearer by less than this [half frames]."""
ANGLE_DEG = 35.0
"""Standard deviation of the Gaussian weight of a photo by its angular distance."""
UNSEEN = 1e-3
"""Weight of a photo that does not see a point: where no photo sees it, the nearest ones are still informative."""


def disagreement(
    colour: Tensor, alpha: Tensor, view_z: Tensor, azimuths_deg: Sequence[float], camera: OrbitCamera
) -> Tensor:
    """How poorly each photo is predicted from the others.

    Args:
        colour: float32 [V, 3, S, S], 0 … 1, extended beyond the masks.
        alpha: float32 [V, S, S], 0 … 1.
        view_z: float32 [V, S, S], the surface in each view [half frames], `NOTHING` beside it.
        azimuths_deg: One azimuth a view.
        camera: The camera under which the surface was found.

    Returns:
        Mean absolute difference of colour over each mask, and the full colour where there is no surface; [V], 0 … 1.
    """
    views, size = alpha.shape[0], alpha.shape[-1]
    shown = (view_z > NOTHING / 2) & (alpha > 0.5)
    u, v = frame_grid(size, alpha.device)
    points = torch.stack(
        [camera.unproject(u, v, near, azimuth) for near, azimuth in zip(view_z, azimuths_deg, strict=True)]
    ).flatten(1, 2)  # [i, S * S, 3]
    normals = _normals(view_z, azimuths_deg, camera).flatten(1, 2)
    total = torch.zeros(views, size * size, device=alpha.device)
    mixed = torch.zeros(3, views, size * size, device=alpha.device)
    # The nearer of a pixel and its surroundings: at depth discontinuities bilinear values lie on no surface.
    surface = torch.stack([view_z, functional.max_pool2d(view_z, 3, 1, 1)], 1)
    for other, azimuth in enumerate(azimuths_deg):
        u_there, v_there, near = camera.project(points, azimuth)
        grid = torch.stack([u_there, v_there], -1)[None]
        layers = torch.cat([colour[other], surface[other]])[None]
        taken = functional.grid_sample(layers, grid, align_corners=False, padding_mode="border")[0]
        seen = (2 - (taken[3:] - near).abs().amin(0) / DEPTH_TOLERANCE).clamp(0, 1)
        toward = torch.as_tensor(camera.axes(azimuth)[2], dtype=points.dtype, device=points.device)
        by_angle = torch.tensor(
            [0.0 if view == other else _by_angle(azimuth, own) for view, own in enumerate(azimuths_deg)],
            device=alpha.device,
        )
        weight = (seen + UNSEEN) * (normals @ toward).clamp(min=0.05) ** 2 * by_angle[:, None]
        total += weight
        mixed += weight * taken[:3]
    predicted = (mixed / total.clamp(min=1e-9)).view(3, views, size, size).transpose(0, 1)
    predicted = torch.where(shown[:, None], predicted, 0.0)
    wrong = (predicted - colour).abs().mean(1) * alpha
    return wrong.sum((1, 2)) / alpha.sum((1, 2)).clamp(min=1e-6)


def _by_angle(azimuth_deg: float, own_deg: float) -> float:
    """Weight of a photo at an azimuth for a view at another."""
    return math.exp(-0.5 * (math.remainder(azimuth_deg - own_deg, 360.0) / ANGLE_DEG) ** 2)


def _normals(view_z: Tensor, azimuths_deg: Sequence[float], camera: OrbitCamera) -> Tensor:
    """Unit normals of each view's surface in world coordinates, [V, S, S, 3]."""
    smooth = functional.avg_pool2d(view_z[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    down, right = torch.gradient(smooth, spacing=2 / view_z.shape[-1], dim=(1, 2))
    flat = functional.normalize(torch.stack([-right, down, torch.ones_like(right)], -1), dim=-1)
    rows = [torch.as_tensor(camera.axes(azimuth), dtype=flat.dtype, device=flat.device) for azimuth in azimuths_deg]
    return torch.stack([view @ axes for view, axes in zip(flat, rows, strict=True)])
