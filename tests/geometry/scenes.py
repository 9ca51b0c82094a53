"""Solids drawn under an exact camera: masks, photos and surfaces to calibrate and carve from."""

import numpy as np
import torch

from gapray.geometry.camera import OrbitCamera, frame_grid

EIGHT = [45.0 * step for step in range(8)]


def box(points, half=(0.5, 0.6, 0.25)):
    """Inside value of an upright box, positive inside."""
    return (torch.tensor(half) - points.abs()).amin(-1)


def cylinder(points, radius=0.5, half=0.6):
    return torch.minimum(radius - points[..., [0, 2]].norm(dim=-1), half - points[..., 1].abs())


def letter(points):
    """An L of three slabs: nothing of it is symmetrical."""
    foot = box(points - torch.tensor([0.0, -0.45, 0.0]), (0.6, 0.15, 0.3))
    post = box(points - torch.tensor([-0.4, 0.0, 0.1]), (0.2, 0.6, 0.2))
    horn = box(points - torch.tensor([-0.2, 0.4, 0.25]), (0.15, 0.12, 0.35))
    return torch.maximum(torch.maximum(foot, post), horn)


def bowl(points):
    """A box with a pit in its front side, which no outline shows."""
    pit = box(points - torch.tensor([0.0, 0.0, 0.5]), (0.25, 0.3, 0.3))
    return torch.minimum(box(points, (0.5, 0.6, 0.5)), -pit)


def look(solid, camera: OrbitCamera, azimuth: float, size=96, steps=160):
    """Mask (uint8), view_z of the front (float32) and a photo that is painted by world position."""
    u, v = frame_grid(size)
    along = torch.linspace(1.3, -1.3, steps)
    points = camera.unproject(u[..., None], v[..., None], along, azimuth)
    inside = solid(points) > 0
    hit = inside.any(-1)
    first = along[inside.float().argmax(-1)]
    surface = camera.unproject(u, v, first, azimuth)
    paint = 0.5 + 0.4 * torch.sin(7 * surface + torch.tensor([0.0, 1.0, 2.0]))
    photo = torch.where(hit[..., None], paint, 1.0)
    view_z = torch.where(hit, first, -9.0)
    return (hit * 255).byte().numpy(), view_z.numpy(), (photo * 255).byte().numpy()


def shoot(solid, camera, azimuths=EIGHT, size=96):
    masks, fronts, photos = zip(*(look(solid, camera, azimuth, size) for azimuth in azimuths), strict=True)
    return np.stack(masks), np.stack(fronts), np.stack(photos)
