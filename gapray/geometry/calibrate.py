"""Calibrate the orbit's camera from silhouettes alone.

The right camera is the one whose visual hull fills the silhouettes: the hull of all masks but one, seen from that mask's
angle, must cover the mask (silhouette coherence; Hernandez, Schmitt and Cipolla 2007, "Silhouette coherence for camera
calibration under circular motion"). Coverage is measured at random pixels of each mask and is differentiable, so a
coarse grid followed by a quasi-Newton search finds elevation, field of view and axis and, where each photo was cropped on
its own, a shift and a scale for each view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapray.geometry.descend import minimize_lbfgs

ELEVATIONS_DEG = (0.0, 6.0, 12.0, 18.0, 24.0, 30.0, 36.0)
INVERSE_DISTANCES = (0.0, 0.15, 0.3)
MAX_INVERSE_DISTANCE = 0.45
MIN_ELEVATION_DEG, MAX_ELEVATION_DEG = -5.0, 60.0
SIDE = 96
"""Side at which masks are compared [pixels]."""
BLUR_PX = 0.7
GRID_PIXELS, GRID_DEPTHS = 100, 28
FIT_PIXELS, FIT_DEPTHS = 240, 40
"""Pixels of each mask and depths along each of their rays, for the grid and for the search."""
QUICK_FRACTION = 0.45
"""Fraction of those pixels that a quick search uses."""
SHIFT_GAIN = 0.75
"""Shifts are accepted when they leave at most this fraction of what a fixed camera leaves uncovered: 0.29 … 0.70 on ETH-80,
whose photos were each cropped on their own."""
SHIFT_PRICE = 1e-4
"""Weight of the penalty on squared shifts and log scales, in search units; what the outlines do not determine stays at 0."""
UNITS = (10.0, 0.2, 0.05, 0.05)
"""Search units of elevation [degrees], inverse distance, axis u, and of shifts and log scales."""


@dataclass(frozen=True)
class Fit:
    """A camera and how well it explains the silhouettes, for one direction of rotation."""

    elevation_deg: float
    """Above the horizon."""
    inverse_distance: float
    """1 / distance of the camera [1 / half frames]; 0 = orthographic."""
    axis_x: float
    """u of the turning axis, -1 … 1."""
    axis_y: float
    """v of the world's origin, -1 … 1."""
    direction: int
    """Direction of rotation, +1 or -1."""
    shifts: NDArray[np.float64]
    """[V, 3]: (du, dv) in view V of the point that belongs at the frame's origin; log of the view's scale."""
    shifted: bool
    """Whether `shifts` differ from 0, because no fixed camera explains the masks."""
    coverage: NDArray[np.float64]
    """[V], fraction of each mask that the hull of the others fills, 0 … 1."""


@dataclass(frozen=True)
class Rays:
    """Points along the rays through n pixels of each view [i], as every view [j] sees them; m points a ray."""

    x: Tensor
    """[i, n, m]: to the right of the axis, in the coordinates of view [i]."""
    back: Tensor
    """[i, n, m]: horizontally towards view [i]."""
    x_there: Tensor
    """[i, j, n, m]: as `x`, in the coordinates of view [j]."""
    back_there: Tensor
    """[i, j, n, m]: as `back`, in the coordinates of view [j]."""
    u: Tensor
    """[i, j, n, m]: where view [j] sees the point, -1 … 1."""
    v: Tensor
    """[i, j, n, m]: likewise."""
    seen: Tensor
    """[j, i, n, m]: the soft mask of view [j] there, 0 … 1."""


class Silhouettes:
    """Soft masks of one product, random pixels of them, and what the other masks say about the rays through those pixels."""

    def __init__(self, masks: Tensor, azimuths_deg: list[float], axis_y: float) -> None:
        small = torch.nn.functional.interpolate(masks[:, None], (SIDE, SIDE), mode="area")
        kernel = torch.exp(-0.5 * (torch.arange(-2, 3) / BLUR_PX) ** 2)
        kernel = (kernel / kernel.sum()).to(small)
        small = torch.nn.functional.conv2d(small, kernel.view(1, 1, 1, 5), padding=(0, 2))
        self.masks = torch.nn.functional.conv2d(small, kernel.view(1, 1, 5, 1), padding=(2, 0))
        self.azimuths = torch.tensor([math.radians(a) for a in azimuths_deg], device=masks.device)
        self.axis_y = axis_y
        self.views = len(azimuths_deg)
        side = masks.shape[-1]
        self.left, self.right = [], []
        for mask in masks:
            inside = (mask.amax(0) > 0.5).nonzero()[:, 0]
            self.left.append(float(inside.min()) / side * 2 - 1)
            self.right.append(float(inside.max() + 1) / side * 2 - 1)
        self.axis_x = float(np.mean(self.left + self.right))
        self.reach = 1.1 * max(self.axis_x - min(self.left), max(self.right) - self.axis_x)
        self.nothing = torch.zeros(self.views, 3, device=masks.device)

    def pixels(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """U and v of random pixels of each mask, [V, count] each; the same seed gives the same pixels."""
        rng = np.random.default_rng(seed)
        us, vs = [], []
        for mask in self.masks[:, 0].cpu().numpy():
            # Averaging to this size leaves no pixel of a speck that bright.
            rows, columns = np.nonzero(mask > min(0.5, mask.max() / 2))
            chosen = rng.integers(0, len(rows), count)
            us.append((columns[chosen] + 0.5) / SIDE * 2 - 1)
            vs.append((rows[chosen] + 0.5) / SIDE * 2 - 1)
        like = self.masks
        return torch.as_tensor(np.array(us)).to(like), torch.as_tensor(np.array(vs)).to(like)

    def rays(
        self,
        pixels: tuple[Tensor, Tensor],
        depths: int,
        camera: Tensor,
        direction: int,
        shifts: Tensor,
        azimuths: Tensor | None = None,
        sides: Tensor | None = None,
    ) -> Rays:
        """Follow the rays through pixels.

        Args:
            pixels: u and v, from `pixels()`.
            depths: Points along each ray.
            camera: [3]: elevation [rad], inverse distance, axis u.
            direction: Direction of rotation, +1 or -1.
            shifts: [V, 3], like `Fit.shifts`.
            azimuths: [V] in radians; default: the azimuths that the photos came with.
            sides: [V], -1 for a photo that is assumed to be mirrored about the axis, else 1.
        """
        elevation, k, axis_x = camera
        sin_e, cos_e = elevation.sin(), elevation.cos()
        at = self.azimuths if azimuths is None else azimuths
        side = torch.ones_like(at) if sides is None else sides
        along = torch.linspace(-self.reach, self.reach, depths, device=self.masks.device)
        scale = shifts[:, 2].exp()
        u = ((pixels[0] - shifts[:, :1]) / scale[:, None] - axis_x) * side[:, None]
        v = self.axis_y - (pixels[1] - shifts[:, 1:2]) / scale[:, None]
        w = 1 - k * along
        x, up = u[..., None] * w, v[..., None] * w  # [V, n, m]
        y = up * cos_e + along * sin_e
        back = along * cos_e - up * sin_e
        turn = direction * (at[:, None] - at[None])  # from view [i] to view [j]
        cos_t, sin_t = turn.cos()[..., None, None], turn.sin()[..., None, None]
        x_j = x[:, None] * cos_t + back[:, None] * sin_t  # [i, j, n, m]
        back_j = back[:, None] * cos_t - x[:, None] * sin_t
        toward = y[:, None] * sin_e + back_j * cos_e
        w_j = 1 / (1 - k * toward)
        u_j = (axis_x + x_j * w_j * side[None, :, None, None]) * scale[:, None, None] + shifts[:, 0][:, None, None]
        v_j = (self.axis_y - (y[:, None] * cos_e - back_j * sin_e) * w_j) * scale[:, None, None]
        v_j = v_j + shifts[:, 1][:, None, None]
        grid = torch.stack([u_j, v_j], -1).transpose(0, 1).flatten(1, 2)  # [j, i * n, m, 2]
        seen = torch.nn.functional.grid_sample(self.masks, grid, align_corners=False)[:, 0]
        return Rays(x, back, x_j, back_j, u_j, v_j, seen.view(self.views, self.views, *x.shape[1:]))

    def inside(self, rays: Rays) -> Tensor:
        """How certainly all other views see product at each point, [i, n, m], 0 … 1."""
        itself = torch.eye(self.views, device=rays.seen.device)[..., None, None]
        return (rays.seen + itself).amin(0).clamp(max=1)

    def coverage(
        self, pixels: tuple[Tensor, Tensor], depths: int, camera: Tensor, direction: int, shifts: Tensor
    ) -> Tensor:
        """Fraction of each mask's pixels that the other masks' hull covers, [V]; arguments as for `rays`."""
        return self.inside(self.rays(pixels, depths, camera, direction, shifts)).amax(-1).mean(-1)


def calibrate(
    masks: Tensor, azimuths_deg: list[float], *, axis_y: float, own_crops: bool, quick: bool = False
) -> list[Fit]:
    """Find the camera, once for each direction of rotation.

    Args:
        masks: float32 [V, S, S] in the frame, 0 … 1, none empty.
        azimuths_deg: One azimuth a view.
        axis_y: v of the world's origin: the middle of the product.
        own_crops: Each photo may have a frame of its own, so a shift and a scale for each view are searched as well.
        quick: Take a third of the time, for a camera that only starts another search.

    Returns:
        Two fits, for directions +1 and -1. Silhouettes alone often cannot tell them apart; for a level orthographic
        camera they never can.
    """
    problem = Silhouettes(masks, azimuths_deg, axis_y)
    fraction = QUICK_FRACTION if quick else 1.0
    coarse = problem.pixels(round(GRID_PIXELS * fraction), seed=0)
    pixels, depths = problem.pixels(round(FIT_PIXELS * fraction), seed=1), round(FIT_DEPTHS * max(fraction, 0.7))
    fits = []
    for direction in (1, -1):
        with torch.no_grad():
            _, start = max(
                (
                    float(
                        problem.coverage(
                            coarse,
                            GRID_DEPTHS,
                            torch.tensor([math.radians(elevation), k, problem.axis_x]).to(masks),
                            direction,
                            problem.nothing,
                        ).mean()
                    ),
                    (elevation, k, problem.axis_x),
                )
                for elevation in ELEVATIONS_DEG
                for k in INVERSE_DISTANCES
            )
        fits.append(_search(problem, pixels, depths, start, direction, own_crops))
    return fits


def _search(
    problem: Silhouettes,
    pixels: tuple[Tensor, Tensor],
    depths: int,
    start: tuple[float, float, float],
    direction: int,
    own_crops: bool,
) -> Fit:
    first = np.array([start[0] / UNITS[0], start[1] / UNITS[1], start[2] / UNITS[2]])
    fixed = _descend(problem, pixels, depths, direction, first)
    fit = _fit_of(problem, pixels, depths, direction, fixed)
    if own_crops:
        loose = _descend(problem, pixels, depths, direction, np.concatenate([fixed, np.zeros(3 * problem.views)]))
        shifted = _fit_of(problem, pixels, depths, direction, loose)
        if 1 - shifted.coverage.mean() < SHIFT_GAIN * (1 - fit.coverage.mean()):
            return shifted
    return fit


def reshifted(problem: Silhouettes, fit: Fit) -> Fit:
    """Search shifts and scales again for a fixed camera.

    Args:
        problem: The silhouettes.
        fit: The camera, and the shifts to start from.
    """
    camera = torch.tensor([math.radians(fit.elevation_deg), fit.inverse_distance, fit.axis_x]).to(problem.masks)
    pixels = problem.pixels(FIT_PIXELS, seed=1)

    def cost(values: Tensor) -> Tensor:
        shifts = values.view(problem.views, 3) * UNITS[3]
        shifts = shifts - shifts.mean(0)
        missed = 1 - problem.coverage(pixels, FIT_DEPTHS, camera, fit.direction, shifts).mean()
        return missed + SHIFT_PRICE * (values**2).sum()

    low, high = bounds(3 * problem.views)
    start = fit.shifts.ravel() / UNITS[3]
    found = minimize_lbfgs(cost, start, low[3:], high[3:], iterations=30, device=problem.masks.device)
    shifts = found.reshape(problem.views, 3) * UNITS[3]
    return replace(fit, shifts=shifts - shifts.mean(0))


def unpacked(values: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Convert search variables to a camera and shifts.

    Args:
        values: [3] or [3 + 3 V], in `UNITS`: elevation, inverse distance, axis u; then shifts and log scales of V views.
        views: V.

    Returns:
        Camera [3]: elevation [rad], inverse distance, axis u; and shifts [V, 3], 0 where `values` has none.
    """
    camera = torch.stack([torch.deg2rad(values[0] * UNITS[0]), values[1] * UNITS[1], values[2] * UNITS[2]])
    if len(values) == 3:
        return camera, torch.zeros(views, 3, device=values.device)
    shifts = values[3:].view(views, 3) * UNITS[3]
    # What moves or scales all views alike belongs to the camera and the unit of length.
    return camera, shifts - shifts.mean(0)


def bounds(loose: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds of the search variables, in `UNITS`; `loose` is the number of shifts and log scales.

    Returns:
        Lower and upper bounds, float64 [3 + loose] each.
    """
    low = np.array([MIN_ELEVATION_DEG / UNITS[0], 0.0, -20.0] + [-8.0] * loose)
    high = np.array([MAX_ELEVATION_DEG / UNITS[0], MAX_INVERSE_DISTANCE / UNITS[1], 20.0] + [8.0] * loose)
    return low, high


def _descend(
    problem: Silhouettes, pixels: tuple[Tensor, Tensor], depths: int, direction: int, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    def cost(values: Tensor) -> Tensor:
        camera, shifts = unpacked(values, problem.views)
        missed = 1 - problem.coverage(pixels, depths, camera, direction, shifts).mean()
        return missed + SHIFT_PRICE * (values[3:] ** 2).sum()

    low, high = bounds(len(start) - 3)
    return minimize_lbfgs(cost, start, low, high, iterations=30, device=problem.masks.device)


def _fit_of(
    problem: Silhouettes, pixels: tuple[Tensor, Tensor], depths: int, direction: int, values: NDArray[np.float64]
) -> Fit:
    with torch.no_grad():
        leaf = torch.tensor(values, dtype=torch.float32, device=problem.masks.device)
        camera, shifts = unpacked(leaf, problem.views)
        coverage = problem.coverage(pixels, depths, camera, direction, shifts)
    return Fit(
        elevation_deg=math.degrees(float(camera[0])),
        inverse_distance=float(camera[1]),
        axis_x=float(camera[2]),
        axis_y=problem.axis_y,
        direction=direction,
        shifts=shifts.double().cpu().numpy(),
        shifted=len(values) > 3,
        coverage=coverage.double().cpu().numpy(),
    )
