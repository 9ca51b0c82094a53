"""Data classes of the GAP: one `GapView` of plain arrays per photo, one `GapPackage` per product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference
from gapray.capture.azimuths import AzimuthsBy

DEPTH_MAX = 65535
"""Stored value of the nearest point; 0 is reserved for everything that is not the product."""

UNNAMED = "imported"
"""Name of unknown models and settings in tables. The depth of an unknown model may be scaled separately in each view."""


@dataclass(frozen=True)
class Quality:
    """Quality measurements on the product's pixels of one view, without thresholds."""

    sharpness: float
    """Variance of the 3 x 3 Laplacian of the grey image inside the mask [grey levels squared]."""
    clipped_dark: float
    """Fraction of the product's pixels at or below 2 in every channel, 0 … 1."""
    clipped_bright: float
    """Fraction of the product's pixels at or above 253 in every channel, 0 … 1."""


@dataclass(frozen=True)
class GapView:
    """One packaged view. All images have the same height and width."""

    name: str
    """File name of the photo."""
    azimuth_deg: float
    """Degrees in [0, 360), 0 = front, counter-clockwise seen from above."""
    uri: str
    """URI of the photo."""
    sha256: str
    """Hash of the photo's bytes."""
    reference: NDArray[np.uint8]
    """The photo, [H, W, 3], sRGB."""
    mask: NDArray[np.uint8]
    """[H, W], 0 = background … 255 = product; 128 and above counts as product."""
    depth: NDArray[np.uint16]
    """[H, W], 0 outside the product, else 1 (farthest point of the whole set) … 65535 (nearest)."""
    canny: NDArray[np.uint8]
    """Edges, [H, W], 0 or 255."""
    identity: NDArray[np.float32]
    """Identity embedding, [517], as defined in `gapray.gap.identity`."""
    quality: Quality


@dataclass(frozen=True)
class PackageWarning:
    """A possible problem with a product's photos that a person should look at."""

    code: str
    message: str
    """The problem, and what to do about it."""


@dataclass(frozen=True)
class GapPackage:
    """One product, packaged."""

    product_id: str
    key: str
    """Hash of the photos' bytes, their azimuths, the settings and the weights."""
    views: tuple[GapView, ...]
    """Ordered by azimuth."""
    depth_scale: float
    """The depth model's output is `depth_scale` * (value - 1) / 65534 + `depth_shift`, larger = nearer, in all views of the set."""
    depth_shift: float
    models: Mapping[str, str]
    """Role -> model and revision for the roles `mask`, `depth`, `canny`, `identity`; unknown ones may be missing."""
    azimuths_by: AzimuthsBy | None = None
    """Where the photos' azimuths come from; None when unknown."""
    remarks: tuple[str, ...] = ()
    """Remarks on the submitted photos for the client; they are not stored in catalogues or folders."""
    warnings: tuple[PackageWarning, ...] | None = None
    """Possible problems with the photos; None until they have been inspected."""

    @property
    def messages(self) -> tuple[str, ...]:
        """Messages of all warnings, and the remarks."""
        return (*(warning.message for warning in self.warnings or ()), *self.remarks)

    def view(self, azimuth_deg: float) -> GapView:
        """The view at `azimuth_deg`, to within 0.001 degrees.

        Raises:
            KeyError: There is no such view.
        """
        for view in self.views:
            if abs(angle_difference(view.azimuth_deg, azimuth_deg)) < 1e-3:
                return view
        raise KeyError(f"{self.product_id} has no view at {azimuth_deg:g} degrees")


def view_facts(view: GapView) -> dict[str, Any]:
    """Scalar measurements of one view, for tables and `metadata.json`."""
    inside = depth_inside(view.depth, view.mask)
    return {
        "mask_share": mask_share(view.mask),
        "depth_mean": float(inside.mean()),
        "depth_std": float(inside.std()),
        "depth_min": float(inside.min()),
        "depth_max": float(inside.max()),
        "sharpness": view.quality.sharpness,
        "clipped_dark": view.quality.clipped_dark,
        "clipped_bright": view.quality.clipped_bright,
    }


def mask_share(mask: NDArray[np.uint8]) -> float:
    """Fraction of the image that is covered by the product, 0 … 1."""
    return float((mask >= 128).mean())


def depth_inside(depth: NDArray[np.uint16], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Depth of the product's pixels, float32 [N], scaled to 0 … 1; a single 0 for an empty mask."""
    inside: NDArray[np.float32] = depth[mask >= 128].astype(np.float32) / np.float32(DEPTH_MAX)
    return inside if inside.size else np.zeros(1, np.float32)
