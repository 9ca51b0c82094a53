"""Training losses."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from gapray.fidelity.trunks import load_backbone
from gapray.geometry.carve import NOTHING
from gapray.orbit.synthesis.network import RenderedFrames
from training.store import Batch

WEIGHTS = {
    "colour": 1.0,
    "edges": 1.0,
    "perceptual": 1.0,
    "coarse": 0.5,
    "worse": 1.0,
    "alpha": 0.4,
    "moved": 0.3,
    "surface": 0.3,
}
FAR = 0.15
"""Larger differences between true and estimated surfaces reflect the camera, not the search, and are clipped [half frames]."""
FADE = 0.8
"""Weight of a round of the search, relative to the following one."""


class Perceptual(nn.Module):
    """LPIPS with AlexNet, differentiable; images [B, 3, S, S], 0 … 1 -> [B].

    Raises:
        ModelError: The backbone is unavailable; the environment variable GAPRAY_MODELS names its folder.
    """

    def __init__(self) -> None:
        super().__init__()
        import lpips

        backbone = load_backbone("alex")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.model = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        names = {key: "features." + key.split(".", 1)[1] for key in self.model.net.state_dict()}
        self.model.net.load_state_dict({key: backbone.state[name] for key, name in names.items()})
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        """LPIPS of each pair of images, [B]."""
        return torch.as_tensor(self.model(image * 2 - 1, truth * 2 - 1)).flatten()


class Plain(nn.Module):
    """A substitute for `Perceptual` where no backbone is available: mean difference of images and of their edges."""

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        """Mean difference of each pair of images, [B]."""
        return (image - truth).abs().mean((1, 2, 3)) + edges(image, truth).mean((1, 2, 3))


def edges(image: Tensor, truth: Tensor) -> Tensor:
    """Difference of two images' horizontal and vertical gradients, [B, 6, S - 1, S - 1]."""
    difference = image - truth
    right = difference[..., :-1, 1:] - difference[..., :-1, :-1]
    down = difference[..., 1:, :-1] - difference[..., :-1, :-1]
    return torch.cat([right, down], 1).abs()


def losses(drawn: RenderedFrames, batch: Batch, background: Tensor, perceptual: nn.Module) -> dict[str, Tensor]:
    """Compute the terms of the loss, unweighted.

    Args:
        drawn: The network's output for `batch`.
        batch: The inputs with their truth.
        background: [B, 3, 1, 1], composited behind both.
        perceptual: Maps two images [B, 3, S, S] to a distance [B].
    """
    frames = batch.frames
    image = drawn.colour * drawn.alpha + background * (1 - drawn.alpha)
    truth = batch.truth + background * (1 - batch.alpha)
    morph = frames.morph * frames.alpha + background * (1 - frames.alpha)
    flow = frames.flow * frames.flow_alpha + background * (1 - frames.flow_alpha)
    distance = perceptual(image, truth)
    with torch.no_grad():
        simple = torch.minimum(perceptual(morph, truth), perceptual(flow, truth))
    halves = [functional.avg_pool2d(picture, 2) for picture in (image, truth)]
    rim = functional.max_pool2d(batch.alpha, 9, 1, 4) + functional.max_pool2d(-batch.alpha, 9, 1, 4)
    seen = drawn.seen[:, :, None] * (batch.alpha > 0.99)[:, None]
    apart = (drawn.moved - (batch.truth / batch.alpha.clamp(min=0.5))[:, None]).abs() * seen
    return {
        "colour": functional.l1_loss(image, truth),
        "edges": edges(image, truth).mean(),
        "perceptual": distance.mean(),
        "coarse": perceptual(*halves).mean(),
        "worse": (distance - simple).clamp(min=0).mean(),
        "alpha": ((drawn.alpha - batch.alpha).abs() * (1 + 4 * rim)).mean(),
        "moved": apart.sum() / (3 * seen.sum()).clamp(min=1),
        "surface": _surfaces(drawn, batch),
    }


def _surfaces(drawn: RenderedFrames, batch: Batch) -> Tensor:
    """Distance of each round's surface from the truth, the last weighted most [half frames]."""
    side = drawn.surfaces[0].shape[-1]
    step = batch.view_z.shape[-1] // side
    true = batch.view_z[..., step // 2 :: step, step // 2 :: step]
    known = (true > NOTHING / 2) & (batch.frames.view_z[..., step // 2 :: step, step // 2 :: step] > NOTHING / 2)
    total = torch.zeros((), device=true.device)
    for age, surface in enumerate(reversed(drawn.surfaces)):
        apart = torch.where(known, (surface - true).abs().clamp(max=FAR), 0)
        total = total + FADE**age * apart.sum() / known.sum().clamp(min=1)
    return total


def weighed(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum of the terms."""
    return torch.stack([WEIGHTS[name] * part for name, part in parts.items()]).sum()
