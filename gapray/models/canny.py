"""Edges by controlnet-aux, at the view's own size."""

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
    """controlnet-aux's CannyDetector, the one that ControlNet's canny weights were trained with.

    Its import brings torch and takes seconds: keep one of these for long.

    Args:
        low_threshold: Lower hysteresis threshold, grey levels.
        high_threshold: Upper hysteresis threshold, grey levels.
    """

    def __init__(self, low_threshold: int, high_threshold: int) -> None:
        self._detector = _canny_module().CannyDetector()
        self._thresholds = {"low_threshold": low_threshold, "high_threshold": high_threshold}

    def predict(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Edges of one photo.

        Args:
            photo: uint8 [H, W, 3].

        Returns:
            uint8 [H, W], 0 or 255. The detector works on sides that are multiples of 64; the edges are brought back.
        """
        height, width = photo.shape[:2]
        side = min(height, width)
        found = self._detector(photo, detect_resolution=side, image_resolution=side, **self._thresholds)
        edges = found[..., 0] if found.ndim == 3 else found
        if edges.shape != (height, width):
            edges = resized(edges, (height, width), growth="linear")
        return np.where(edges >= 128, 255, 0).astype(np.uint8)


def _canny_module() -> types.ModuleType:
    """``controlnet_aux.canny`` without the package's own ``__init__``.

    That file imports every annotator and took 16 s of one core here, against 4 s for this module (torch). The package is
    left as it was, so that a later ``import controlnet_aux`` is a whole one.
    """
    name = "controlnet_aux"
    if name in sys.modules:
        return importlib.import_module(f"{name}.canny")
    found = importlib.util.find_spec(name)
    assert found is not None
    bare: Any = types.ModuleType(name)
    bare.__path__ = found.submodule_search_locations
    sys.modules[name] = bare
    try:
        return importlib.import_module(f"{name}.canny")
    finally:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]


class NullCanny:
    """No edges: measures what everything but the detector costs."""

    def predict(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `CannyEdges.predict`."""
        return np.zeros(photo.shape[:2], np.uint8)
