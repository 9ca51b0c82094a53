"""From settings to loaded models."""

from __future__ import annotations

import platform

from gapray.config import PackagingSettings
from gapray.errors import ModelError
from gapray.models.canny import CannyEdges, NullCanny
from gapray.models.cards import WEIGHTLESS, WEIGHTLESS_REVISION, card_named, cards_of
from gapray.models.depth import DepthAnything, DepthModel, HullDepth, NullDepth
from gapray.models.identity import ColourGradient, IdentityModel, NullIdentity, OpenClip
from gapray.models.mask import MaskModel, NullMask, RembgMask
from gapray.models.store import Progress, locate


def revisions(settings: PackagingSettings, *, progress: Progress | None = None) -> dict[str, str]:
    """Model name -> hash of its weights, fetching what is not on this machine.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    names = (settings.mask.model, settings.depth.model, settings.identity.model)
    found = {name: WEIGHTLESS_REVISION for name in names if name in WEIGHTLESS}
    return found | {card.name: locate(card, progress=progress).revision for card in cards_of(settings)}


def mask_revision(settings: PackagingSettings) -> str:
    """Hash of the mask network's weights alone.

    Raises:
        ModelError: As `revisions`.
    """
    name = settings.mask.model
    return WEIGHTLESS_REVISION if name in WEIGHTLESS else locate(card_named(name)).revision


def require(*named: str) -> None:
    """Refuse to work with other weights here than a run's keys name: a worker may lie on another machine than its driver.

    Args:
        named: ``name@revision``, the revision as `revisions` has it or its first digits.

    Raises:
        ModelError: `model.mixed`, or as `revisions`.
    """
    for model in named:
        name, _, wanted = model.partition("@")
        here = WEIGHTLESS_REVISION if name in WEIGHTLESS else locate(card_named(name)).revision
        if not here.startswith(wanted):
            raise ModelError(
                "model.mixed",
                f"{name} on {platform.node()} is revision {here[:12]}, and {wanted[:12]} on the run's driver",
            )


def best_device() -> str:
    """``cuda`` when this process sees a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_mask(settings: PackagingSettings, *, threads: int, device: str = "cpu") -> MaskModel:
    """The mask model that the settings name.

    Raises:
        ModelError: As `revisions`, or `model.failed`.
    """
    if settings.mask.model == "null-model":
        return NullMask()
    located = locate(card_named(settings.mask.model))
    return RembgMask(settings.mask.model, next(iter(located.files.values())), threads=threads, device=device)


def load_depth(settings: PackagingSettings, *, device: str, batch: int) -> DepthModel:
    """The depth model that the settings name.

    Raises:
        ModelError: As `revisions`.
    """
    if settings.depth.model == "null-model":
        return NullDepth()
    if settings.depth.model == "hull":
        return HullDepth(settings.depth.elevation_deg)
    located = locate(card_named(settings.depth.model))
    files = located.files
    return DepthAnything(files["config.json"], files["model.safetensors"], device=device, batch=batch)


def load_identity(settings: PackagingSettings, *, device: str, batch: int) -> IdentityModel:
    """The identity model that the settings name.

    Raises:
        ModelError: As `revisions`.
    """
    if settings.identity.model == "null-model":
        return NullIdentity()
    if settings.identity.model == "colour-gradient-512":
        return ColourGradient()
    located = locate(card_named(settings.identity.model))
    return OpenClip(next(iter(located.files.values())), device=device, batch=batch)


def load_canny(settings: PackagingSettings) -> CannyEdges | NullCanny:
    """The edge detector. With a `null-model` mask model it is left out too, so that overhead can be measured alone."""
    if settings.mask.model == "null-model":
        return NullCanny()
    return CannyEdges(settings.canny.low_threshold, settings.canny.high_threshold)
