"""LPIPS (Zhang et al. 2018), version 0.1, by the `lpips` package with a trunk whose hash is known."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from gapray.errors import ModelError
from gapray.models.cards import card_named
from gapray.models.store import locate

TRUNK = "lpips-alexnet"
"""Card of torchvision's AlexNet convolutions, the trunk that the package's linear heads were trained on."""


class Lpips:
    """Perceptual distance, 0 = identical; below .05 hard to tell apart side by side, .5 another view or object.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: `model.unavailable` or `model.hash_mismatch`: without the right trunk there is no number.
    """

    def __init__(self, *, device: str = "cpu") -> None:
        import lpips

        located = locate(card_named(TRUNK))
        [path] = located.files.values()
        self.revision = located.revision
        trunk = torch.load(path, map_location="cpu", weights_only=True)
        net = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        state = {}
        for key in net.net.state_dict():
            name = "features." + key.split(".", 1)[1]
            if name not in trunk:
                raise ModelError("model.wrong_part", f"{TRUNK} lacks {name}")
            state[key] = trunk[name]
        net.net.load_state_dict(state)
        self._net, self._device = net.to(device).eval(), device

    @torch.no_grad()
    def distance(self, images: NDArray[np.uint8], truths: NDArray[np.uint8]) -> NDArray[np.float64]:
        """One number a pair.

        Args:
            images: uint8 [N, S, S, 3], sRGB.
            truths: The same shape.

        Returns:
            float64 [N].
        """
        pair = [
            torch.from_numpy(one).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1 for one in (images, truths)
        ]
        return cast("NDArray[np.float64]", self._net(*pair).flatten().double().cpu().numpy())
