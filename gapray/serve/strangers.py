"""Products that a client's video is surely not of: the null of a foreign video's score, where no catalogue has other products.

They are the samples: the mug of the page, and the supplement jar.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from gapray.capture.decode import decode_photo


@dataclass(frozen=True)
class Stranger:
    """Photos of one product."""

    azimuths_deg: tuple[float, ...]
    photos: tuple[NDArray[np.uint8], ...]
    """[H, W, 3] each."""


def strangers() -> list[Stranger]:
    """All that ship with gapray, in a fixed order."""
    here = resources.files("gapray.serve")
    return [_read(here / "page" / "sample"), _read(here / "strangers")]


def _read(folder: resources.abc.Traversable) -> Stranger:
    """A product from its photos, named ``product_045.jpg``."""
    named = sorted((item.name, item) for item in folder.iterdir() if item.name.endswith(".jpg"))
    azimuths = tuple(float(name.removesuffix(".jpg").rpartition("_")[2]) for name, _ in named)
    return Stranger(azimuths, tuple(decode_photo(item.read_bytes()) for _, item in named))
