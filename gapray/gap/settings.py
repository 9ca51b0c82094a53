"""Settings of packages."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from gapray.capture.settings import DecodeSettings
from gapray.settings import Role, Settings, canonical_hash

PACKAGE_FORMAT = 3
"""Incremented whenever the same photos and settings would give a different package; part of every settings hash."""


class MaskSettings(Settings, role=Role.RESULT):
    """Segmentation of the product."""

    model: str = Field("u2netp", description="Card of a rembg network.")
    backdrop_key: bool = Field(
        True, description="Refine the outline by the colour of a plain backdrop where it agrees with the network."
    )
    cleanup: bool = Field(True, description="Keep the largest component and fill pinholes.")
    max_hole_share: float = Field(0.002, ge=0, le=1, description="Holes up to this fraction of the product are filled.")
    min_share: float = Field(
        0.01, ge=0, lt=1, description="A mask that covers a smaller fraction of the image rejects the product."
    )
    max_share: float = Field(
        0.95, gt=0, le=1, description="A mask that covers a larger fraction of the image rejects the product."
    )


class DepthSettings(Settings, role=Role.RESULT):
    """Relative depth of each pixel, on one scale for the whole capture set."""

    model: str = Field("hull", description="`hull` (visual hull of the silhouettes, no weights) or a depth card.")
    elevation_deg: float = Field(15.0, ge=-30, le=60, description="`hull` only: the camera's elevation [degrees].")
    work_side: int = Field(518, ge=14, multiple_of=14, description="Longer side of the networks' input [pixels].")


class CannySettings(Settings, role=Role.RESULT):
    """Edge maps by controlnet-aux's CannyDetector."""

    low_threshold: int = Field(100, ge=0, le=255, description="Lower hysteresis threshold [grey levels].")
    high_threshold: int = Field(200, ge=0, le=255, description="Upper hysteresis threshold [grey levels].")


class IdentitySettings(Settings, role=Role.RESULT):
    """The 512 appearance features of the identity embedding."""

    model: str = Field("colour-gradient-512", description="`colour-gradient-512` (no weights) or a CLIP card.")


class PackagingSettings(Settings):
    """Everything that decides what a GAP package contains."""

    decode: DecodeSettings = DecodeSettings()
    mask: MaskSettings = MaskSettings()
    depth: DepthSettings = DepthSettings()
    canny: CannySettings = CannySettings()
    identity: IdentitySettings = IdentitySettings()

    def digest(self, revisions: Mapping[str, str]) -> str:
        """Hash these settings and the weights they name.

        Args:
            revisions: Model name -> sha256 of its weights, or a version for models without weights.

        Returns:
            64 hex digits.
        """
        return canonical_hash({"format": PACKAGE_FORMAT, "settings": self.results(), "models": dict(revisions)})
