"""Settings of the check of photos."""

from __future__ import annotations

from pydantic import Field

from gapray.settings import Role, Settings


class CheckSettings(Settings, role=Role.GATE):
    """Thresholds for accepting a photo (`gapray capture check`); calibrated in docs/capture.md."""

    max_azimuth_deg: float = Field(7.0, gt=0, le=90, description="Maximum distance from the nominal angle [degrees].")
    max_blur: float = Field(0.6, gt=0, le=1, description="Maximum blur; 0 = sharp, 1 = no detail left to blur.")
    max_softer: float = Field(1.5, ge=1, description="Maximum blur relative to the set's median.")
    max_burnt: float = Field(0.25, ge=0, le=1, description="Maximum fraction of the product that is overexposed.")
    max_black: float = Field(0.5, ge=0, le=1, description="Maximum fraction of the product that is black.")
    max_exposure_ev: float = Field(0.8, gt=0, description="Maximum difference from the set's exposure [stops].")
    max_white_balance: float = Field(0.15, gt=0, description="Maximum relative change of red or blue against green.")
    max_scale: float = Field(
        0.08, gt=0, description="Maximum relative difference in product size, corrected for perspective."
    )
    max_cut: float = Field(0.02, ge=0, le=1, description="Maximum fraction of the photo's border that is product.")
    max_clutter: float = Field(
        0.03, ge=0, le=1, description="Maximum fraction of the backdrop near the product that is edges."
    )
    max_unsure: float = Field(0.75, gt=0, description="Maximum ratio of soft to sharp pixels along the mask's outline.")
