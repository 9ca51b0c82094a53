"""Edge maps by controlnet-aux, at the size of the photo."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.resample import resized


class CannyEdges:
    """controlnet-aux's CannyDetector, with which ControlNet's canny weights were trained.

    Its import loads torch and takes seconds, so instances should be reused.

    Args:
        low_threshold: Lower hysteresis threshold [grey levels].
        high_threshold: Upper hysteresis threshold [grey levels].
    """

    def __init__(self, low_threshold: int, high_threshold: int) -> None:
        self._detector = _canny_module().CannyDetector()
        self._thresholds = {"low_threshold": low_threshold, "high_threshold": high_threshold}

    def predict(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Detect the edges of a photo.

        Args:
            photo: uint8 [H, W, 3].

        Returns:
            uint8 [H, W], 0 or 255. The detector works at multiples of 64 pixels; its result is resized to the photo.
        """
        height, width = photo.shape[:2]
        side = min(height, width)
        detected = self._detector(photo, detect_resolution=side, image_resolution=side, **self._thresholds)
        edges = detected[..., 0] if detected.ndim == 3 else detected
        if edges.shape != (height, width):
            edges = resized(edges, (height, width), growth="linear")
        return np.where(edges >= 128, 255, 0).astype(np.uint8)


def _canny_module() -> types.ModuleType:
    """Import ``controlnet_aux.canny`` without running the package's ``__init__``.

    That file imports every annotator, which took 16 s on one core, against 4 s for this module (torch). ``sys.modules`` is
    restored, so that a later ``import controlnet_aux`` is complete.
    """
    name = "controlnet_aux"
    if name in sys.modules:
        return importlib.import_module(f"{name}.canny")
    spec = importlib.util.find_spec(name)
    assert spec is not None
    bare: Any = types.ModuleType(name)
    bare.__path__ = spec.submodule_search_locations
    sys.modules[name] = bare
    try:
        return importlib.import_module(f"{name}.canny")
    finally:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]


class NullCanny:
    """An edge map without edges, for measuring the cost of everything but the detector."""

    def predict(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Zeros, uint8 [H, W], for a photo of uint8 [H, W, 3]."""
        return np.zeros(photo.shape[:2], np.uint8)
