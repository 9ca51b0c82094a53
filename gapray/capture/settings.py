"""Settings of reading photos."""

from __future__ import annotations

from pydantic import Field

from gapray.settings import Gate, Result, Settings


class DecodeSettings(Settings):
    """Limits on photos, checked before any pixel is decoded, and the size and quality of the stored reference."""

    max_bytes: Gate[int] = Field(64 * 2**20, gt=0, description="Largest accepted file [bytes].")
    max_pixels: Gate[int] = Field(60_000_000, gt=0, description="Largest accepted width x height [pixels].")
    max_icc_bytes: Gate[int] = Field(4 * 2**20, gt=0, description="Largest accepted colour profile [bytes].")
    min_side: Gate[int] = Field(64, ge=16, description="Smallest accepted shorter side [pixels].")
    reference_side: Result[int] = Field(
        1024, ge=64, le=4096, description="Maximum longer side of the stored reference [pixels]."
    )
    reference_quality: Result[int] = Field(95, ge=1, le=100, description="JPEG quality of the stored reference.")
