"""Loading the models that settings name."""

from __future__ import annotations

import platform

from gapray.errors import ModelError
from gapray.gap.settings import PackagingSettings
from gapray.models.canny import CannyEdges, NullCanny
from gapray.models.cards import WEIGHTLESS, WEIGHTLESS_REVISION, card_named, cards_of
from gapray.models.depth import DepthAnything, DepthModel, HullDepth, NullDepth
from gapray.models.fetch import Progress
from gapray.models.identity import ColourGradient, IdentityModel, NullIdentity, OpenClip
from gapray.models.mask import MaskModel, NullMask, RembgMask
from gapray.models.store import locate


def revisions(settings: PackagingSettings, *, progress: Progress | None = None) -> dict[str, str]:
    """Model name -> hash of its weights, which are fetched if they are not on this machine.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    names = (settings.mask.model, settings.depth.model, settings.identity.model)
    weightless = {name: WEIGHTLESS_REVISION for name in names if name in WEIGHTLESS}
    return weightless | {card.name: locate(card, progress=progress).revision for card in cards_of(settings)}


def mask_revision(settings: PackagingSettings) -> str:
    """Hash of the weights of the mask network.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    name = settings.mask.model
    return WEIGHTLESS_REVISION if name in WEIGHTLESS else locate(card_named(name)).revision


def require(*models: str) -> None:
    """Refuse weights that differ from those in a run's keys: a worker may be on another machine than its driver.

    Args:
        models: ``name@revision``, with a revision as from `revisions` or its first digits.

    Raises:
        ModelError: `model.mixed`, `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    for model in models:
        name, _, expected = model.partition("@")
        revision = WEIGHTLESS_REVISION if name in WEIGHTLESS else locate(card_named(name)).revision
        if not revision.startswith(expected):
            raise ModelError(
                "model.mixed",
                f"{name} on {platform.node()} is revision {revision[:12]}, and {expected[:12]} on the run's driver",
            )


def best_device() -> str:
    """``cuda`` if a GPU is visible to this process, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_mask(settings: PackagingSettings, *, threads: int, device: str = "cpu") -> MaskModel:
    """Load the mask model that the settings name.

    Raises:
        ModelError: `model.unknown`, `model.unavailable`, `model.hash_mismatch` or `model.failed`.
    """
    if settings.mask.model == "null-model":
        return NullMask()
    located = locate(card_named(settings.mask.model))
    return RembgMask(settings.mask.model, next(iter(located.files.values())), threads=threads, device=device)


def load_depth(settings: PackagingSettings, *, device: str, batch: int) -> DepthModel:
    """Load the depth model that the settings name.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    if settings.depth.model == "null-model":
        return NullDepth()
    if settings.depth.model == "hull":
        return HullDepth(settings.depth.elevation_deg)
    located = locate(card_named(settings.depth.model))
    files = located.files
    return DepthAnything(files["config.json"], files["model.safetensors"], device=device, batch=batch)


def load_identity(settings: PackagingSettings, *, device: str, batch: int) -> IdentityModel:
    """Load the identity model that the settings name.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    if settings.identity.model == "null-model":
        return NullIdentity()
    if settings.identity.model == "colour-gradient-512":
        return ColourGradient()
    located = locate(card_named(settings.identity.model))
    return OpenClip(next(iter(located.files.values())), device=device, batch=batch)


def load_canny(settings: PackagingSettings) -> CannyEdges | NullCanny:
    """Load the edge detector; a null one if the mask model is `null-model`, so that only overhead is measured."""
    if settings.mask.model == "null-model":
        return NullCanny()
    return CannyEdges(settings.canny.low_threshold, settings.canny.high_threshold)
