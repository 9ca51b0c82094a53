"""The interface between a packaged view and the backends that draw it into a scene: protocol, sizes, choice of view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import nearest_angle
from gapray.errors import InputError
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView
from gapray.resample import nearest, resized
from gapray.stills.scene import Scene
from gapray.stills.settings import StillSettings

MAX_ASPECT = 3.0
"""Pictures whose longer side is more than this many times the shorter one are refused."""
MULTIPLE_OF = 8
"""Sides are divisible by this: the size of a latent pixel of SDXL."""
THIN_LINE = 64
"""Thin lines fade when they are averaged; from this level on, the remainder of one counts as a line [grey levels]."""
_Level = TypeVar("_Level", np.uint8, np.uint16)
POSE_EDGES = 40, 100
"""Canny thresholds for a rendered map, which has no noise."""


@dataclass(frozen=True)
class Still:
    """A picture of a product in a scene."""

    image: NDArray[np.uint8]
    """uint8 [H, W, 3], sRGB."""
    placed: NDArray[np.uint8]
    """uint8 [H, W]: where the product was meant to stand, 128 and above."""
    pasted: bool
    """Whether the product's pixels are the photo's own; its identity then proves nothing about the backend."""


class StillBackend(Protocol):
    """Draws a view of a package into a scene."""

    name: str
    licence: str
    generative: bool
    """Whether it reads prompts, and draws shapes that no photo shows (`posed`)."""

    def generate(
        self, package: GapPackage, view: GapView, scene: Scene, settings: StillSettings, *, seeds: Sequence[int]
    ) -> list[Still]:
        """Draw a view into a scene, once for each seed.

        Args:
            package: All its views are references for the product's appearance.
            view: The view that is shown.
            scene: The scene to draw.
            settings: Settings of this call; the parts that they name were chosen when the backend was loaded.
            seeds: One for each picture.

        Raises:
            InputError: `still.*`.
            ModelError: `model.*`.
        """
        ...


def source_type(backend: StillBackend, still: Still) -> str:
    """IPTC's digital source type of a still's pixels (digitalsourcetype)."""
    if not backend.generative:
        return "compositeCapture"
    return "compositeWithTrainedAlgorithmicMedia" if still.pasted else "trainedAlgorithmicMedia"


def still_size(height: int, width: int, megapixels: float) -> tuple[int, int]:
    """Height and width of a still with the photo's aspect ratio.

    Args:
        height: Height of the photo.
        width: Width of the photo.
        megapixels: Maximum size of the still [2^20 pixels].

    Raises:
        InputError: `still.aspect` if one side is more than `MAX_ASPECT` times the other.
    """
    aspect = max(height, width) / min(height, width)
    if aspect > MAX_ASPECT:
        raise InputError(
            "still.aspect", f"{width} x {height}: one side is {aspect:.1f} times the other, {MAX_ASPECT:g} at most"
        )
    # Whole pixels: the root of a fractional number of pixels may be rounded up to a size that exceeds it.
    scale = math.sqrt(math.floor(megapixels * 2**20) / (height * width))
    tall, wide = (max(MULTIPLE_OF, int(side * scale / MULTIPLE_OF) * MULTIPLE_OF) for side in (height, width))
    return tall, wide


def best_view(package: GapPackage, azimuth_deg: float | None) -> GapView:
    """The view nearest to the requested azimuth, or to the front.

    Raises:
        InputError: `still.no_mask` when its mask is empty.
    """
    view = package.views[nearest_angle([view.azimuth_deg for view in package.views], azimuth_deg or 0.0)]
    if not (view.mask >= 128).any():
        raise InputError("still.no_mask", f"{package.product_id}: {view.name} has no mask")
    return view


def framed(view: GapView, size: tuple[int, int]) -> GapView:
    """Fit a view into [H, W] = `size`, centred; the photo's edge is extended around it, without product."""
    height, width = size
    scale = min(height / view.mask.shape[0], width / view.mask.shape[1])
    inner = max(1, round(view.mask.shape[0] * scale)), max(1, round(view.mask.shape[1] * scale))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    rim = top, height - inner[0] - top, left, width - inner[1] - left

    def bordered(image: NDArray[_Level], border: int) -> NDArray[_Level]:
        return np.asarray(cv2.copyMakeBorder(image, *rim, border, value=0), image.dtype)

    edges = resized(view.canny, inner) if scale < 1 else nearest(view.canny, inner)
    return replace(
        view,
        reference=bordered(resized(view.reference, inner), cv2.BORDER_REPLICATE),
        mask=bordered(resized(view.mask, inner), cv2.BORDER_CONSTANT),
        # Depth is not averaged: there is nothing half way between product and backdrop.
        depth=bordered(nearest(view.depth, inner), cv2.BORDER_CONSTANT),
        canny=bordered(np.where(edges >= THIN_LINE, np.uint8(255), np.uint8(0)), cv2.BORDER_CONSTANT),
    )


def posed(view: GapView, depth: NDArray[np.uint16], normals: NDArray[np.uint8] | None) -> GapView:
    """Give a view the shape of a rendered depth map, in a pose that no photo need show.

    Args:
        view: Provides everything except shape; its photo may show another side.
        depth: [H, W], larger is nearer, 0 = nothing.
        normals: [H, W, 3] in the same pose; edges are computed from them, or otherwise from the depth.

    Raises:
        InputError: `still.no_mask` if the depth map is empty.
    """
    solid = depth > 0
    if not solid.any():
        raise InputError("still.no_mask", "the depth map shows nothing: it is 0 everywhere")
    grey = (depth // ((DEPTH_MAX + 1) // 256)).astype(np.uint8)
    drawn = grey if normals is None else resized(normals, depth.shape)
    return replace(
        view,
        reference=resized(view.reference, depth.shape),
        mask=np.where(solid, np.uint8(255), np.uint8(0)),
        depth=depth,
        canny=np.asarray(cv2.Canny(drawn, *POSE_EDGES), np.uint8),
    )
