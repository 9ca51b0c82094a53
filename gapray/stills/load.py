"""Load the still backend that the settings name."""

from __future__ import annotations

from gapray.models.cards import card_named
from gapray.models.store import Progress, locate
from gapray.stills.composite import Composite
from gapray.stills.settings import StillSettings
from gapray.stills.still import StillBackend


def still_cards(settings: StillSettings) -> list[str]:
    """Names of the cards that the chosen backend needs, in a fixed order; none for `composite`."""
    if settings.backend == "composite":
        return []
    chosen = settings.sdxl
    return [chosen.base, *chosen.controlnets, *([chosen.ip_adapter] if chosen.ip_adapter else [])]


def still_revisions(settings: StillSettings, *, progress: Progress | None = None) -> dict[str, str]:
    """Model name -> hash of its weights; downloads what is not on this machine.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    return {name: locate(card_named(name), progress=progress).revision for name in still_cards(settings)}


def load_still_backend(settings: StillSettings, *, device: str | None = None) -> StillBackend:
    """Load the backend that the settings name.

    Args:
        settings: The backend and its parts.
        device: ``cpu`` or ``cuda``; default: a GPU if there is one.

    Raises:
        ModelError: A `model.*` code that names the card.
    """
    if settings.backend == "composite":
        return Composite()
    from gapray.models.load import best_device
    from gapray.stills.sdxl.load import load_sdxl

    return load_sdxl(settings, device=device or best_device())
