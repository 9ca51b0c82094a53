"""Find where a network's depth maps can be trusted: a joint scale first, then agreement between neighbouring views.

Silhouettes show no concavities; a depth network does, but only up to one scale and one shift for the whole set
(`GapView.depth` keeps one pair for each set), and not always correctly. Its surface is trusted where the neighbouring views'
own depth maps put the same surface, behind the hull's front but not far behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gapray.geometry.camera import OrbitCamera, frame_grid, sample
from gapray.geometry.carve import NOTHING

ROUNDS = 8
"""Iterations of the trimmed fit of scale and shift."""
KEPT_FRACTION = 0.7
"""Fraction of the pixels that the fit keeps, those with the smallest residuals: the hull's front is right only where nothing is
concave."""
MIN_CORRELATION = 0.6
"""Below this correlation with the hull, the network saw something else."""
AGREEMENT = 0.03
"""Two views' surfaces agree when they differ by less than this [half frames]."""
MIN_AGREEING_FRACTION = 0.7
"""Fraction of a pixel's 5 x 5 neighbourhood that must agree too."""
MAX_RELATIVE_DEPTH = 0.5
"""A surface behind the hull's front by more than this fraction of the product's extent is a wild guess."""


def trusted_fronts(
    hull_view_z: Tensor, network: Tensor, alpha: Tensor, azimuths_deg: Sequence[float], camera: OrbitCamera
) -> Tensor:
    """Surfaces behind the hull's front that two views agree on.

    Args:
        hull_view_z: float32 [V, S, S], the hull's front in each view, `NOTHING` beside it [half frames].
        network: float32 [V, S, S], the network's inverse depth on one scale for the set, larger is nearer; 0 = none.
        alpha: float32 [V, S, S], masks, 0 … 1.
        azimuths_deg: One azimuth a view.
        camera: The calibrated camera.

    Returns:
        View z, float32 [V, S, S] [half frames], `NOTHING` where no other view confirms it.
    """
    valid = (alpha > 0.99) & (hull_view_z > NOTHING / 2) & (network > 0)
    if int(valid.sum()) < 100:
        return torch.full_like(hull_view_z, NOTHING)
    scale, shift, correlation = _fitted(network[valid], hull_view_z[valid])
    if correlation < MIN_CORRELATION:
        return torch.full_like(hull_view_z, NOTHING)
    surface = scale * network + shift
    extent = float(hull_view_z[valid].max() - hull_view_z[valid].min())
    u, v = frame_grid(alpha.shape[-1], alpha.device)
    trusted = torch.full_like(hull_view_z, NOTHING)
    for view, azimuth in enumerate(azimuths_deg):
        points = camera.unproject(u, v, surface[view], azimuth)
        confirmed = torch.zeros_like(valid[view])
        for other in _next_to(view, azimuths_deg):
            ou, ov, view_z = camera.project(points, azimuths_deg[other])
            there, own = sample(torch.stack([surface[other], valid[other].float()]), ou, ov)
            confirmed |= (own > 0.99) & ((there - view_z).abs() < AGREEMENT)
        behind = hull_view_z[view] - surface[view]
        # Chance agreement is scattered; a surface is not.
        around = functional.avg_pool2d(confirmed.float()[None], 5, 1, 2)[0] > MIN_AGREEING_FRACTION
        keep = valid[view] & confirmed & around & (behind > 0) & (behind < MAX_RELATIVE_DEPTH * extent)
        trusted[view] = torch.where(keep, surface[view], NOTHING)
    return trusted


def _fitted(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
    """Scale and shift of a trimmed least-squares fit, and the correlation of the values that it kept."""
    keep = torch.ones_like(values, dtype=torch.bool)
    scale = shift = torch.zeros((), device=values.device)
    for _ in range(ROUNDS):
        x, y = values[keep], target[keep]
        spread = ((x - x.mean()) ** 2).mean()
        scale = (((x - x.mean()) * (y - y.mean())).mean() / spread.clamp(min=1e-9)).clamp(min=1e-6)
        shift = y.mean() - scale * x.mean()
        residual = (target - scale * values - shift).abs()
        ranked = residual.sort().values
        keep = residual <= ranked[int(KEPT_FRACTION * (len(ranked) - 1))]
    kept = torch.stack([values[keep], target[keep]])
    return scale, shift, float(torch.corrcoef(kept)[0, 1].nan_to_num())


def _next_to(view: int, azimuths_deg: Sequence[float]) -> list[int]:
    """The captured views on either side of this one."""
    order = sorted(range(len(azimuths_deg)), key=lambda index: azimuths_deg[index] % 360)
    position = order.index(view)
    return [order[position - 1], order[(position + 1) % len(order)]]
