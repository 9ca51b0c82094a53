"""The orbit's camera and its coordinate convention, shared by the whole project.

World: +y up, +z towards the camera at azimuth 0, +x to that camera's right. The camera at azimuth a and elevation e looks
at the origin from ``(sin a cos e, sin e, cos a cos e)``; a grows counter-clockwise seen from above. Lengths are in half
frames: the frame is a square picture whose coordinates u (right) and v (down) run from -1 to 1 between its outer edges.
View z is the coordinate towards the camera, 0 at the origin, larger = nearer (OpenGL's sign of z in view space).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def camera_axes(azimuth_deg: float, elevation_deg: float) -> NDArray[np.float64]:
    """Right, up and towards the camera as the rows of a rotation matrix.

    Args:
        azimuth_deg: Degrees, counter-clockwise seen from above.
        elevation_deg: Degrees above the horizon.

    Returns:
        float64 [3, 3], orthonormal, determinant +1.
    """
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    sin_a, cos_a, sin_e, cos_e = math.sin(azimuth), math.cos(azimuth), math.sin(elevation), math.cos(elevation)
    return np.array(
        [
            [cos_a, 0.0, -sin_a],
            [-sin_a * sin_e, cos_e, -cos_a * sin_e],
            [sin_a * cos_e, sin_e, cos_a * cos_e],
        ]
    )


@dataclass(frozen=True)
class OrbitCamera:
    """A fixed camera in front of a turntable: the same for every view except for the azimuth."""

    elevation_deg: float
    """Above the horizon."""
    inverse_distance: float
    """1 / distance from the origin [1 / half frame] = the tangent of half the frame's field of view; 0 = orthographic."""
    axis_x: float
    """u of the turning axis."""
    axis_y: float
    """v of the origin."""
    direction: int = 1
    """+1, or -1 when the photos run in the opposite direction to their azimuths."""

    def axes(self, azimuth_deg: float) -> NDArray[np.float64]:
        """`camera_axes` with this camera's direction and elevation."""
        return camera_axes(self.direction * azimuth_deg, self.elevation_deg)

    def project(self, points: Tensor, azimuth_deg: float) -> tuple[Tensor, Tensor, Tensor]:
        """Project world points into a view.

        Args:
            points: [..., 3].
            azimuth_deg: Azimuth of the view.

        Returns:
            u, v and view z, [...] each.
        """
        right, up, toward = self._rows(azimuth_deg, points)
        view_z = points @ toward
        scale = 1 / (1 - self.inverse_distance * view_z)
        return self.axis_x + (points @ right) * scale, self.axis_y - (points @ up) * scale, view_z

    def unproject(self, u: Tensor, v: Tensor, view_z: Tensor, azimuth_deg: float) -> Tensor:
        """World points [..., 3] seen at u, v with this view z, broadcast; the inverse of `project`."""
        right, up, toward = self._rows(azimuth_deg, view_z)
        scale = 1 - self.inverse_distance * view_z
        x, y = (u - self.axis_x) * scale, (self.axis_y - v) * scale
        return x[..., None] * right + y[..., None] * up + view_z[..., None] * toward

    def _rows(self, azimuth_deg: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.as_tensor(self.axes(azimuth_deg), dtype=like.dtype, device=like.device)
        return rows[0], rows[1], rows[2]


def frame_grid(size: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """U and v of the pixel centres of a frame with `size` x `size` pixels, float32 [size, size] each."""
    side = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(side, side, indexing="ij")
    return u, v


def sample(image: Tensor, u: Tensor, v: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Sample a frame at u, v; beyond its edge the nearest pixel is repeated.

    Args:
        image: [C, S, S].
        u: [...], -1 … 1 inside the frame.
        v: [...], likewise.
        mode: ``bilinear``, ``bicubic`` for colours that should stay sharp, or ``nearest``.

    Returns:
        [C, ...].
    """
    grid = torch.stack([u.reshape(1, -1), v.reshape(1, -1)], -1)[None]
    taken = torch.nn.functional.grid_sample(image[None], grid, mode=mode, align_corners=False, padding_mode="border")
    return taken[0, :, 0].reshape(image.shape[0], *u.shape)
