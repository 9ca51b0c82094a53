"""Settings of stills."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from gapray.generators import GeneratorSettings
from gapray.settings import Gate, Result, canonical_hash
from gapray.stills.generators import STILL_GENERATORS
from gapray.stills.sdxl.settings import SdxlSettings

STILL_FORMAT = "2"
"""Incremented whenever the same package, scene, settings and weights would give a different picture."""


class StillSettings(GeneratorSettings):
    """Everything that determines a still, except scene and seed."""

    registry = STILL_GENERATORS
    backend: Result[str] = Field(
        "composite", description="What draws the scene: `composite`, `sdxl` or an installed generator."
    )
    megapixels: Result[float] = Field(
        1.0, gt=0, le=1.0, description="Maximum size, at the photo's aspect ratio [2^20 pixels]."
    )
    azimuth_deg: Result[float] = Field(0.0, ge=0, lt=360, description="Azimuth of the view that is shown [degrees].")
    min_same: Gate[float | None] = Field(
        0.05, ge=0, le=1, description="Minimum percentile among real photos of one product, 0 … 1; docs/fidelity.md."
    )
    sdxl: SdxlSettings = SdxlSettings()

    def digest(self, revisions: Mapping[str, str]) -> str:
        """Hash these settings and the weights they name; settings of other backends do not count.

        Args:
            revisions: Model name -> hash of its weights.

        Returns:
            64 hex digits.
        """
        return canonical_hash({"format": STILL_FORMAT, "stills": self.used(), "models": dict(revisions)})
