"""Packaging of one product in this process, for notebooks, the server and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gapray.capture.capture_set import CaptureSet
from gapray.gap.package import GapPackage
from gapray.gap.settings import PackagingSettings
from gapray.models.depth import DepthModel, MaskedSet
from gapray.models.identity import IdentityModel
from gapray.models.load import best_device, load_canny, load_depth, load_identity, load_mask, revisions
from gapray.models.mask import MaskModel
from gapray.packaging.silhouette import silhouette
from gapray.packaging.steps import (
    Canny,
    content_key,
    decode_view,
    depth_range,
    depth_to_16bit,
    finish_view,
    refuse_repeats,
    work_image,
)


@dataclass(frozen=True)
class PackagingModels:
    """The models that packaging needs, to be loaded once."""

    mask: MaskModel
    depth: DepthModel
    identity: IdentityModel
    canny: Canny
    revisions: dict[str, str]
    """Model name -> hash of its weights."""

    @classmethod
    def load(cls, settings: PackagingSettings, *, device: str | None = None, threads: int = 1, batch: int = 32) -> Self:
        """Load the models that the settings name.

        Args:
            settings: Names of the models.
            device: ``cpu`` or ``cuda``; default: a GPU if there is one.
            threads: CPU threads of the mask network.
            batch: Views in one forward pass of the depth and identity networks.

        Raises:
            ModelError: `model.*`: weights are missing or wrong.
        """
        chosen = device or best_device()
        return cls(
            mask=load_mask(settings, threads=threads),
            depth=load_depth(settings, device=chosen, batch=batch),
            identity=load_identity(settings, device=chosen, batch=batch),
            canny=load_canny(settings),
            revisions=revisions(settings),
        )


MaskCallback = Callable[[float, NDArray[np.uint8], NDArray[np.uint8]], None]
"""Callback with the azimuth [degrees], photo (uint8 [H, W, 3]) and mask (uint8 [H, W]) of a view."""


def build_package(
    capture: CaptureSet, models: PackagingModels, settings: PackagingSettings, *, on_mask: MaskCallback | None = None
) -> GapPackage:
    """Package one product.

    Args:
        capture: The product's photos.
        models: From `PackagingModels.load` with the same settings.
        settings: Packaging settings.
        on_mask: Called for each view as soon as its mask is finished.

    Raises:
        InputError: `image.*`, `mask.*` or `capture.*`: the photos cannot be used.
    """
    decoded = [decode_view(photo, settings.decode) for photo in capture.photos]
    refuse_repeats(capture, [view.sha256 for view in decoded])
    masks = []
    for view in decoded:
        # One view at a time, as mask networks process them anyway, so that `on_mask` is called without delay.
        [soft] = models.mask.predict([view.pixels])
        masks.append(silhouette(view.pixels, soft, settings.mask))
        if on_mask:
            on_mask(view.photo.azimuth_deg, view.pixels, masks[-1])
    work = [work_image(view.pixels, mask, settings.depth.work_side) for view, mask in zip(decoded, masks, strict=True)]
    [nearness] = models.depth.predict([MaskedSet(work, [photo.azimuth_deg for photo in capture.photos])])
    features = models.identity.predict(work)
    scale, shift = depth_range(nearness, [view[..., 3] for view in work])
    views = tuple(
        finish_view(
            name=view.photo.name,
            azimuth_deg=view.photo.azimuth_deg,
            uri=view.photo.uri,
            sha256=view.sha256,
            reference=view.reference,
            mask=mask,
            depth=depth_to_16bit(view_nearness, mask, scale, shift),
            features=view_features,
            canny=models.canny,
        )
        for view, mask, view_nearness, view_features in zip(decoded, masks, nearness, features, strict=True)
    )
    key = content_key([(view.azimuth_deg, view.sha256) for view in views], settings.digest(models.revisions))
    names = model_names(settings, models.revisions)
    return GapPackage(capture.product_id, key, views, scale, shift, names, capture.azimuths_by)


def model_names(settings: PackagingSettings, revisions: dict[str, str]) -> dict[str, str]:
    """Return role -> ``name@revision`` of every model, as stored in tables and manifests."""
    named = {"mask": settings.mask.model, "depth": settings.depth.model, "identity": settings.identity.model}
    return {role: f"{name}@{revisions[name][:12]}" for role, name in named.items()} | {"canny": "controlnet-aux"}
