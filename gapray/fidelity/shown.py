"""Normalise both sides of a comparison: cut out by the same network, on white, in one frame, at one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError
from gapray.gap.package import GapPackage
from gapray.gap.settings import MaskSettings
from gapray.geometry.frame import Layout, Placement, lay_out, mask_box, to_frame
from gapray.models.mask import MaskModel
from gapray.orbit.settings import OrbitSettings
from gapray.packaging.silhouette import silhouette

BOX_FRACTION = 1 / 1.1
"""Fraction of the frame's side that the longer side of the product's box fills under framing ``boxes``."""
Framing = Literal["camera", "boxes"]
"""``camera``: images stay in the orbit's frame, where the given photos lie. ``boxes``: each image is centred and scaled by its
own product's bounding box, for photos that each have a frame of their own and for foreign videos."""


@dataclass(frozen=True)
class NormalizedView:
    """One side of a comparison: a product cut out, on white, in a square."""

    azimuth_deg: float
    image: NDArray[np.uint8]
    """uint8 [S, S, 3], sRGB, on white."""
    mask: NDArray[np.uint8]
    """uint8 [S, S], 128 and above = product."""


@dataclass(frozen=True)
class Cut:
    """A picture, uint8 [H, W, 3], and its product's silhouette, uint8 [H, W]."""

    azimuth_deg: float
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def cut_out(
    images: Sequence[NDArray[np.uint8]],
    azimuths_deg: Sequence[float],
    network: MaskModel,
    settings: MaskSettings,
    *,
    within: Sequence[NDArray[np.uint8] | None] | None = None,
) -> list[Cut]:
    """Cut products out of truth and generated images alike. An image without a product gets an empty mask, and scores badly.

    Args:
        images: uint8 [H, W, 3] each.
        azimuths_deg: One azimuth an image.
        network: The packages' mask network.
        settings: The packages' mask settings.
        within: Masks that are already known, None for the others.
    """
    known = list(within) if within is not None else [None] * len(images)
    unknown = [image for image, mask in zip(images, known, strict=True) if mask is None]
    soft = iter(network.predict(unknown) if unknown else [])
    cuts = []
    for azimuth, image, mask in zip(azimuths_deg, images, known, strict=True):
        cuts.append(Cut(azimuth, image, _silhouette(image, next(soft), settings) if mask is None else mask))
    return cuts


def known_masks(package: GapPackage, mask_model: str | None) -> list[NDArray[np.uint8] | None]:
    """A package's masks for `cut_out`'s `within`, or None for each if another network made them: both sides are cut out alike.

    Args:
        package: The package whose photos are cut out.
        mask_model: name@revision of the network that cuts out the other side.
    """
    same = package.models.get("mask") == mask_model
    return [view.mask if same else None for view in package.views]


def _silhouette(image: NDArray[np.uint8], soft: NDArray[np.uint8], settings: MaskSettings) -> NDArray[np.uint8]:
    try:
        return silhouette(image, soft, settings)
    except InputError:
        return np.zeros(image.shape[:2], np.uint8)


def orbit_layout(masks: Sequence[NDArray[np.uint8]], settings: OrbitSettings) -> Layout:
    """Where the orbit's frame lies in the photos; the layout that `gapray.orbit.reconstruct.build_scene` starts from."""
    return lay_out([mask >= 128 for mask in masks], framing=settings.framing, margin=settings.margin)


def scale_placement(placement: Placement, kept: tuple[int, ...], actual: tuple[int, ...]) -> Placement:
    """Transfer a placement to a photo of another size: packages store photos smaller than the camera's.

    Args:
        placement: Placement in a photo of the package.
        kept: [H, W] of that photo.
        actual: [H, W] of the other photo.
    """
    scale = max(actual) / max(kept)
    return Placement(placement.x * scale, placement.y * scale, placement.half * scale)


def normalize_view(cut: Cut, size: int, *, framing: Framing, placement: Placement | None = None) -> NormalizedView:
    """Lay a cut-out on white, in a square of one size.

    Args:
        cut: Picture and silhouette.
        size: Side in pixels; images are reduced by area averaging.
        framing: See `Framing`.
        placement: ``camera`` only: where the frame lies in the picture; default: all of it, as in the orbit's own frames.
    """
    height, width = cut.mask.shape
    at = placement or Placement(width / 2, height / 2, max(width, height) / 2)
    if framing == "boxes" and (cut.mask >= 128).any():
        left, right, upper, lower = mask_box(cut.mask >= 128)
        at = Placement((left + right) / 2, (upper + lower) / 2, max(right - left, lower - upper) / 2 / BOX_FRACTION)
    alpha = cut.mask[..., None].astype(np.float32) / 255
    on_white = np.rint(cut.image * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return NormalizedView(
        cut.azimuth_deg,
        to_frame(on_white, at, size, outside=255),
        to_frame(cut.mask, at, size),
    )
