"""Mask networks, which turn photos into soft silhouettes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gapray.environment import preserved_environment
from gapray.errors import ModelError
from gapray.models.store import numba_cache


class MaskModel(Protocol):
    """A network that segments the product in photos."""

    def predict(self, photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Predict soft masks.

        Args:
            photos: uint8 [H, W, 3] each, sRGB; sizes may differ.

        Returns:
            uint8 [H, W] each, 0 = background … 255 = product.
        """
        ...


class RembgMask:
    """A rembg session (U2-Net and similar networks) on onnxruntime.

    Args:
        session: rembg's name for the network, such as ``u2netp``.
        weights: The verified ONNX file.
        threads: Threads per forward pass; onnxruntime does not read OMP_NUM_THREADS.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: `model.unknown`, or `model.failed` when onnxruntime cannot use the device.
    """

    def __init__(self, session: str, weights: Path, *, threads: int, device: str) -> None:
        import onnxruntime
        from PIL import Image

        with preserved_environment(**numba_cache("pymatting")):  # a dependency of rembg
            from rembg.sessions import sessions
        if session not in sessions:
            raise ModelError("model.unknown", f"rembg has no session {session!r}")
        # A subclass with the path of the weights: rembg's own session would download them to its own folder.
        located = type(
            session, (sessions[session],), {"download_models": classmethod(lambda cls, *args, **kwargs: str(weights))}
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        providers = ["CUDAExecutionProvider"] * (device == "cuda") + ["CPUExecutionProvider"]
        self._session = located(session, options, providers=providers)
        if providers[0] not in self._session.inner_session.get_providers():
            raise ModelError("model.failed", f"onnxruntime cannot run {session} on {device}")
        self._as_image = Image.fromarray

    def predict(self, photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Predict soft masks, uint8 [H, W], of uint8 [H, W, 3] photos."""
        return [np.asarray(self._session.predict(self._as_image(photo))[0], dtype=np.uint8) for photo in photos]


class NullMask:
    """A constant ellipse, for measuring the cost of everything but the network."""

    def predict(self, photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """The same ellipse for each photo, uint8 [H, W], 0 or 255."""
        masks = []
        for photo in photos:
            y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in photo.shape[:2])
            masks.append(np.where(x**2 + y[:, None] ** 2 < 0.5, 255, 0).astype(np.uint8))
        return masks
