"""The visual hull (Laurentini 1994) of calibrated silhouettes as a signed-distance field, and how a camera sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gapray.geometry.camera import OrbitCamera, frame_grid, sample

VOXELS = 144
"""Voxels along each side of the field."""
NOTHING = -9.0
"""View z where no surface is seen."""
COARSE_STEPS, FINE_STEPS = 56, 40
"""Samples along a ray, to find the hull and to find its surface."""
DENIALS = 2
"""At most this many masks may be overruled about a voxel."""
SUPPORT = 0.6
"""Fraction of the other views that must show unexplained product there."""
NEAR_PX = 9.0
"""Between two coarse samples farther than this outside the hull there is no surface."""


@dataclass(frozen=True)
class Hull:
    """Signed distance to the nearest of all outlines as the photos show them, in frame pixels; positive inside."""

    field: Tensor
    """float32 [N, N, N], axes z, y, x; spans ±`reach`."""
    reach: tuple[float, float]
    """Half extents of the field: horizontal, vertical [half frames]."""
    level: float = 0.0
    """The surface lies where the field equals this; below 0 the hull is slightly fuller than the silhouettes."""

    def at(self, points: Tensor) -> Tensor:
        """The field minus its level at world points [..., 3]; [...]."""
        across, up = self.reach
        scale = torch.tensor([1 / across, 1 / up, 1 / across], device=points.device)
        grid = (points * scale).reshape(1, -1, 1, 1, 3)
        values = functional.grid_sample(self.field[None, None], grid, align_corners=False, padding_mode="border")
        return values.reshape(points.shape[:-1]) - self.level


def carve(
    silhouettes: Sequence[tuple[Tensor, float]],
    camera: OrbitCamera,
    *,
    reach: tuple[float, float],
    voxels: int = VOXELS,
) -> Hull:
    """Carve the hull.

    Args:
        silhouettes: (signed distance [S, S] in pixels, azimuth in degrees) for each view. A product that is cut off by the
            photo's edge is not carved beyond it; where the photo shows background at its edge, nothing lies beyond it.
        camera: Shared by all views.
        reach: Half extents that enclose the product: horizontal, vertical [half frames].
        voxels: Along each side of the field.
    """
    points = lattice(reach, voxels, silhouettes[0][0].device)
    field = torch.full((voxels,) * 3, float("inf"), device=points.device)
    for distance, azimuth in silhouettes:
        u, v, _ = camera.project(points, azimuth)
        field = torch.minimum(field, _distance_at(distance, u, v))
    return Hull(field, reach)


def carved_by_fronts(hull: Hull, fronts: Tensor, azimuths_deg: Sequence[float], camera: OrbitCamera) -> Hull:
    """Carve away what lies in front of trusted surfaces, to reveal concavities.

    Args:
        hull: From `carve`.
        fronts: float32 [V, S, S], view z of each view's surface, `NOTHING` where it is not trusted.
        azimuths_deg: One azimuth a view.
        camera: The hull's camera.
    """
    points = lattice(hull.reach, hull.field.shape[0], hull.field.device)
    field = hull.field
    for view_z, azimuth in zip(fronts, azimuths_deg, strict=True):
        u, v, toward = camera.project(points, azimuth)
        trusted, surface = sample(torch.stack([(view_z > NOTHING / 2).float(), view_z]), u, v)
        behind = ((surface - toward) * view_z.shape[-1] / 2).clamp(-16, 16)
        field = torch.where(trusted > 0.99, torch.minimum(field, behind + hull.level), field)
    return replace(hull, field=field)


def mended(hull: Hull, silhouettes: Sequence[tuple[Tensor, float]], camera: OrbitCamera, uncovered: Tensor) -> Hull:
    """Restore what one or two wrong silhouettes carved away.

    A mask that lost a part of the product carves it for all views. Such voxels can be recognised: few views deny them, and
    most of the others show product there that nothing else explains.

    Args:
        hull: From `carve`.
        silhouettes: Those that the hull was carved from.
        camera: The hull's camera.
        uncovered: bool [V, S, S]: pixels of the mask on which no part of the hull is seen.
    """
    points = lattice(hull.reach, hull.field.shape[0], hull.field.device)
    thick = functional.max_pool2d(uncovered.float(), 3, 1, 1)
    levels, votes = [], torch.zeros_like(hull.field)
    for (distance, azimuth), missing in zip(silhouettes, thick, strict=True):
        u, v, _ = camera.project(points, azimuth)
        levels.append(_distance_at(distance, u, v))
        votes += (sample(missing[None], u, v)[0] > 0.5) & (levels[-1] > 0)
    lowest = torch.stack(levels).topk(min(DENIALS + 1, len(levels)), dim=0, largest=False).values
    field = hull.field
    for denials in range(1, len(lowest)):
        supported = (lowest[denials] > 0) & (votes >= (len(levels) - denials) * SUPPORT)
        field = torch.where(supported & (field <= 0), lowest[denials], field)
    return replace(hull, field=field)


def lattice(reach: tuple[float, float], voxels: int, device: torch.device | str) -> Tensor:
    """World coordinates of the voxel centres, float32 [N, N, N, 3], indexed z, y, x."""
    side = (torch.arange(voxels, device=device, dtype=torch.float32) + 0.5) / voxels * 2 - 1
    z, y, x = torch.meshgrid(side * reach[0], side * reach[1], side * reach[0], indexing="ij")
    return torch.stack([x, y, z], -1)


def _distance_at(distance: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to a photo's outline at u, v [...] of its plane, also beyond its edges; [...] pixels."""
    at_edge = sample(distance[None], u, v)[0]
    beyond = torch.hypot((u.abs() - 1).clamp(min=0), (v.abs() - 1).clamp(min=0)) * distance.shape[-1] / 2
    return torch.where(at_edge > 0, at_edge, at_edge - beyond)


def front(hull: Hull, camera: OrbitCamera, azimuth_deg: float, size: int) -> tuple[Tensor, Tensor]:
    """Find the hull's front surface in a view.

    Args:
        hull: From `carve`.
        camera: The camera.
        azimuth_deg: Azimuth of the view.
        size: Pixels along each side of the frame.

    Returns:
        View z of the first surface, float32 [size, size], `NOTHING` where there is none; and the largest field value
        along each ray, float32 [size, size]: the distance to the hull's outline in pixels of the field's own frame.
    """
    device = hull.field.device
    across, up = hull.reach
    radius = (2 * across**2 + up**2) ** 0.5
    nearest = min(radius, 1.05 * (across * 1.42 + up * 0.5))
    along = torch.linspace(nearest, -nearest, COARSE_STEPS, device=device)
    u, v = frame_grid(size // 4, device)
    near = hull.at(camera.unproject(u[..., None], v[..., None], along, azimuth_deg)) > -NEAR_PX
    first = near.float().argmax(-1)
    last = COARSE_STEPS - 1 - near.flip(-1).float().argmax(-1)
    some = near.any(-1)
    begin = torch.where(some, along[(first - 1).clamp(min=0)], NOTHING)
    end = torch.where(some, along[(last + 1).clamp(max=COARSE_STEPS - 1)], -NOTHING)
    begin = functional.max_pool2d(begin[None], 3, 1, 1)
    end = -functional.max_pool2d(-end[None], 3, 1, 1)
    begin, end = (functional.interpolate(plane[None], (size, size))[0, 0] for plane in (begin, end))
    row, column = (begin > end).nonzero(as_tuple=True)
    u, v = frame_grid(size, device)
    steps = torch.linspace(0, 1, FINE_STEPS, device=device)
    ray = torch.lerp(begin[row, column][:, None], end[row, column][:, None], steps)
    values = hull.at(camera.unproject(u[row, column][:, None], v[row, column][:, None], ray, azimuth_deg))
    hit = values > 0
    at = hit.float().argmax(1).clamp(min=1)
    pixel = torch.arange(len(at), device=device)
    before, after = values[pixel, at - 1], values[pixel, at]
    fraction = torch.where(before > 0, 0.0, (before / (before - after - 1e-9)).clamp(0, 1))
    surface = torch.lerp(ray[pixel, at - 1], ray[pixel, at], fraction)
    view_z = torch.full((size, size), NOTHING, device=device)
    view_z[row, column] = torch.where(hit.any(1), surface, NOTHING)
    inside = torch.full((size, size), float(hull.field.min()), device=device)
    inside[row, column] = values.amax(1)
    return view_z, inside
