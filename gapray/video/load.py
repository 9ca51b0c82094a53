"""Load the video backend that the settings name."""

from __future__ import annotations

from gapray.models.store import card_revisions
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.synthesis.draw import CARD
from gapray.video.backend import VideoBackend
from gapray.video.settings import VideoSettings


def orbit_cards(settings: OrbitSettings) -> list[str]:
    """Names of the cards that may draw the in-between frames, whatever the backend."""
    return [CARD] if settings.engine in ("auto", "synthesis") else []


def video_revisions(video: VideoSettings, orbit: OrbitSettings) -> dict[str, str]:
    """Model name -> hash of its weights, for all models that draw a video; downloads what is not on this machine.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    return card_revisions([*orbit_cards(orbit), *video.cards()])


def load_backend(settings: VideoSettings, *, device: str | None = None) -> VideoBackend:
    """Load the backend that the settings name.

    Args:
        settings: The backend and its parts.
        device: ``cpu`` or ``cuda``; default: a GPU if there is one.

    Raises:
        ConfigError: `config.invalid`: the generator is not installed here.
        ModelError: A `model.*` code that names the card; there is no silent fallback to a weaker mode.
    """
    from gapray.models.load import best_device

    backend: VideoBackend = settings.generator.load(settings.chosen, device or best_device())
    return backend
