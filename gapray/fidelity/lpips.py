"""LPIPS (Zhang et al. 2018, "The unreasonable effectiveness of deep features"), version 0.1, by the `lpips` package."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapray.errors import ModelError
from gapray.fidelity.trunks import Backbone, Net, load_backbone

BATCH = 64
"""Pairs in one forward pass."""
KNOWN_ANSWER: dict[Net, float] = {"alex": 0.2096, "vgg": 0.3971}
"""LPIPS of `_known_pair` for each network, to 1e-3; measured with the backbones of `gapray.fidelity.trunks`."""


class Lpips:
    """Perceptual distance, 0 = identical, lower is better. Below .05: hard to tell apart; from .5 up: another view or object.

    The constructor checks the network against a known answer.

    Args:
        net: ``alex`` (the paper's best forward score, and the usual choice) or ``vgg``.
        device: ``cpu`` or ``cuda``.
        backbone: Default: found by `load_backbone`.

    Raises:
        ModelError: `model.unavailable`, `model.hash_mismatch` or `model.wrong_part`: without the right backbone no score is
            computed. `model.failed` when the self-test does not give the known answer.
    """

    def __init__(self, net: Net = "alex", *, device: str = "cpu", backbone: Backbone | None = None) -> None:
        import lpips

        self.backbone = backbone or load_backbone(net)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # raised by torchvision because of how lpips calls it
            model = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
        # The package names a layer sliceN.INDEX as torchvision does features.INDEX.
        names = {key: "features." + key.split(".", 1)[1] for key in model.net.state_dict()}
        model.net.load_state_dict({key: self.backbone.state[name] for key, name in names.items()})
        self._model, self._device = model.to(device).eval().requires_grad_(False), device
        self.net: Net = net
        answer = float(self.distance(*_known_pair())[0])
        if abs(answer - KNOWN_ANSWER[net]) > 1e-3:
            raise ModelError(
                "model.failed", f"LPIPS {net} gives {answer:.4f} for a pair known as {KNOWN_ANSWER[net]:.4f}"
            )

    @property
    def name(self) -> str:
        """Name of metric, version and backbone, for protocols and reports."""
        return f"lpips-{self.net} 0.1, trunk {self.backbone.sha256[:12]}"

    @torch.no_grad()
    def distance(
        self, images: NDArray[np.uint8], truths: NDArray[np.uint8], *, batch: int = BATCH
    ) -> NDArray[np.float64]:
        """LPIPS of each pair.

        Args:
            images: uint8 [N, S, S, 3], sRGB.
            truths: uint8, the same shape.
            batch: Pairs in one forward pass.

        Returns:
            float64 [N], 0 or more.
        """
        distances = [
            self._model(self._ready(images[at : at + batch]), self._ready(truths[at : at + batch]))
            .flatten()
            .double()
            .cpu()
            for at in range(0, len(images), batch)
        ]
        return cast("NDArray[np.float64]", torch.cat(distances).numpy()) if distances else np.zeros(0)

    def distances(
        self, pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], *, batch: int = BATCH
    ) -> list[float]:
        """`distance` of pairs of any sizes; pairs of one size go through the network together.

        Args:
            pairs: uint8 [S, S, 3] each, both images of a pair of one size.
            batch: Pairs in one forward pass.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, (image, _) in enumerate(pairs):
            by_size.setdefault(image.shape, []).append(index)
        distances = [0.0] * len(pairs)
        for indices in by_size.values():
            images, truths = (np.stack([pairs[index][side] for index in indices]) for side in (0, 1))
            for index, value in zip(indices, self.distance(images, truths, batch=batch), strict=True):
                distances[index] = float(value)
        return distances

    def all_pairs(self, images: NDArray[np.uint8], truths: NDArray[np.uint8]) -> NDArray[np.float64]:
        """`distance` of every image to every truth, with one network pass for each image instead of each pair.

        Args:
            images: uint8 [T, S, S, 3].
            truths: uint8 [A, S, S, 3].

        Returns:
            float64 [T, A].
        """
        [distances] = self.all_pairs_of([(images, truths)])
        return distances

    @torch.no_grad()
    def all_pairs_of(self, sets: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> list[NDArray[np.float64]]:
        """`all_pairs` of several sets with images of one size S, which go through the network together."""
        if not sets:
            return []
        images = np.concatenate([part for image_set in sets for part in image_set])
        totals = [torch.zeros(len(first), len(second), dtype=torch.float64) for first, second in sets]
        for level, features in enumerate(self._features(images)):
            weight = self._model.lins[level].model[-1].weight.flatten()
            lengths = [len(part) for image_set in sets for part in image_set]
            parts = iter((features * weight.sqrt()[:, None]).split(lengths))
            for total in totals:
                # sum w (a - b)^2 over channels, averaged over positions, as three products.
                a, b = next(parts), next(parts)
                squares = a.pow(2).sum((1, 2))[:, None] + b.pow(2).sum((1, 2))[None]
                total.add_(((squares - 2 * a.flatten(1) @ b.flatten(1).T) / a.shape[-1]).double().cpu())
        return [cast("NDArray[np.float64]", total.clamp(min=0).numpy()) for total in totals]

    def _features(self, images: NDArray[np.uint8]) -> list[Tensor]:
        """Features of every level, normalised to unit length, [N, C, positions]."""
        import lpips

        levels: list[list[Tensor]] = []
        for at in range(0, len(images), BATCH):
            outs: Sequence[Tensor] = self._model.net.forward(
                self._model.scaling_layer(self._ready(images[at : at + BATCH]))
            )
            levels.append([lpips.normalize_tensor(out).flatten(2) for out in outs])
        return [torch.cat(parts) for parts in zip(*levels, strict=True)]

    def _ready(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 [N, S, S, 3] -> float32 [N, 3, S, S], -1 … 1."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _known_pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A ramp with a disc, and the same with the disc moved and squares added; computed, so identical on every machine."""
    y, x = np.mgrid[:64, :64]
    disc = (x - 30) ** 2 + (y - 34) ** 2 < 200
    moved = (x - 36) ** 2 + (y - 30) ** 2 < 200
    ramp = np.stack([4 * x, 4 * y, 2 * (x + y)], -1)
    first = np.where(disc[..., None], [200, 60, 30], ramp)
    second = np.where(moved[..., None], [200, 60, 30], ramp + 24 * ((x // 8 + y // 8) % 2)[..., None])
    return first.clip(0, 255).astype(np.uint8)[None], second.clip(0, 255).astype(np.uint8)[None]
