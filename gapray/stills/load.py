"""Load the still backend that the settings name."""

from __future__ import annotations

from gapray.models.store import card_revisions
from gapray.stills.settings import StillSettings
from gapray.stills.still import StillBackend


def still_revisions(settings: StillSettings) -> dict[str, str]:
    """Model name -> hash of its weights; downloads what is not on this machine.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    return card_revisions(settings.cards())


def load_still_backend(settings: StillSettings, *, device: str | None = None) -> StillBackend:
    """Load the backend that the settings name.

    Args:
        settings: The backend and its parts.
        device: ``cpu`` or ``cuda``; default: a GPU if there is one.

    Raises:
        ConfigError: `config.invalid`: the generator is not installed here.
        ModelError: A `model.*` code that names the card.
    """
    from gapray.models.load import best_device

    backend: StillBackend = settings.generator.load(settings.chosen, device or best_device())
    return backend
