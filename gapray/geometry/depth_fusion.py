"""Where a network's depth maps may be believed: joint scale, then agreement between neighbouring views.

A silhouette sees no concavity; a depth network does, but only up to one scale and one shift for the whole set
(`GapView.depth` keeps one pair a set), and not always rightly. Its surface is trusted where the next views' own depth maps
put the same surface, behind the hull's front and not far behind it.
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
KEPT_SHARE = 0.7
"""Share of the pixels that are kept, those with the smallest residuals: the hull's front is right only where nothing is concave."""
LEAST_LIKENESS = 0.6
"""Correlation of network and hull below which the network saw something else."""
AGREEMENT = 0.03
"""Two views' surfaces agree when they differ by less [half frames]."""
WHOLE = 0.7
"""Share of a pixel's 5 x 5 surroundings that must agree too."""
DEEPEST = 0.5
"""A surface farther behind the hull's front than this share of the product's extent is a wild guess."""


def trusted_fronts(
    hull_nearness: Tensor, network: Tensor, alpha: Tensor, azimuths_deg: Sequence[float], camera: OrbitCamera
) -> Tensor:
    """Surfaces behind the hull's front that two views agree on.

    Args:
        hull_nearness: float32 [V, S, S], the hull's front in each view, `NOTHING` beside it [half frames].
        network: float32 [V, S, S], the network's nearness on one scale for the set, larger is nearer.
        alpha: float32 [V, S, S], masks.
        azimuths_deg: One a view.
        camera: The calibrated camera.

    Returns:
        float32 [V, S, S] nearness [half frames], `NOTHING` where no other view confirms it.
    """
    valid = (alpha > 0.99) & (hull_nearness > NOTHING / 2) & (network > 0)
    if int(valid.sum()) < 100:
        return torch.full_like(hull_nearness, NOTHING)
    scale, shift, likeness = _fitted(network[valid], hull_nearness[valid])
    if likeness < LEAST_LIKENESS:
        return torch.full_like(hull_nearness, NOTHING)
    surface = scale * network + shift
    extent = float(hull_nearness[valid].max() - hull_nearness[valid].min())
    u, v = frame_grid(alpha.shape[-1], alpha.device)
    trusted = torch.full_like(hull_nearness, NOTHING)
    for view, azimuth in enumerate(azimuths_deg):
        points = camera.unproject(u, v, surface[view], azimuth)
        confirmed = torch.zeros_like(valid[view])
        for other in _next_to(view, azimuths_deg):
            ou, ov, nearness = camera.project(points, azimuths_deg[other])
            there, own = sample(torch.stack([surface[other], valid[other].float()]), ou, ov)
            confirmed |= (own > 0.99) & ((there - nearness).abs() < AGREEMENT)
        behind = hull_nearness[view] - surface[view]
        # Agreement by chance is scattered; a surface is not.
        around = functional.avg_pool2d(confirmed.float()[None], 5, 1, 2)[0] > WHOLE
        keep = valid[view] & confirmed & around & (behind > 0) & (behind < DEEPEST * extent)
        trusted[view] = torch.where(keep, surface[view], NOTHING)
    return trusted


def _fitted(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
    """Scale and shift of a trimmed least-squares fit, and the correlation of what it kept."""
    keep = torch.ones_like(values, dtype=torch.bool)
    scale = shift = torch.zeros((), device=values.device)
    for _ in range(ROUNDS):
        x, y = values[keep], target[keep]
        spread = ((x - x.mean()) ** 2).mean()
        scale = (((x - x.mean()) * (y - y.mean())).mean() / spread.clamp(min=1e-9)).clamp(min=1e-6)
        shift = y.mean() - scale * x.mean()
        residual = (target - scale * values - shift).abs()
        ranked = residual.sort().values
        keep = residual <= ranked[int(KEPT_SHARE * (len(ranked) - 1))]
    kept = torch.stack([values[keep], target[keep]])
    return scale, shift, float(torch.corrcoef(kept)[0, 1].nan_to_num())


def _next_to(view: int, azimuths_deg: Sequence[float]) -> list[int]:
    """The captured views before and after this one."""
    order = sorted(range(len(azimuths_deg)), key=lambda index: azimuths_deg[index] % 360)
    place = order.index(view)
    return [order[place - 1], order[(place + 1) % len(order)]]
