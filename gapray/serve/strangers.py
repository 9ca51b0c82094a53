"""Sample products that a client's video certainly does not show: the null hypothesis when a foreign video is scored.

A server has no catalogue with other products. The samples are the web page's mug and a supplement jar.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from gapray.capture.decode import decode_photo


@dataclass(frozen=True)
class SampleProduct:
    """Photos of one product."""

    azimuths_deg: tuple[float, ...]
    photos: tuple[NDArray[np.uint8], ...]
    """One [H, W, 3] RGB image per azimuth."""


def sample_products() -> list[SampleProduct]:
    """Load the sample products that ship with gapray, in a fixed order."""
    package = resources.files("gapray.serve")
    return [_load(package / "page" / "sample"), _load(package / "strangers")]


def _load(folder: resources.abc.Traversable) -> SampleProduct:
    """Load a product from its photos, named ``product_045.jpg``."""
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".jpg"))
    azimuths = tuple(float(name.removesuffix(".jpg").rpartition("_")[2]) for name, _ in files)
    return SampleProduct(azimuths, tuple(decode_photo(file.read_bytes()) for _, file in files))
