"""Settings of scores and of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gapray.settings import Role, Settings

SCORE_FORMAT = 3
"""Incremented whenever the same video, photos and settings would get different scores. Format 1 drew left-out views with the
profile's settings."""


class GateSettings(Settings, role=Role.GATE):
    """Thresholds that a video must meet to pass. A null threshold is not checked; an unmeasured number does not fail."""

    max_lpips: float | None = Field(0.2, gt=0, description="Maximum mean LPIPS (alex) at in-between angles.")
    max_worst_lpips: float | None = Field(0.4, gt=0, description="Maximum LPIPS at the worst in-between angle.")
    min_iou: float | None = Field(0.8, ge=0, le=1, description="Minimum mean silhouette IoU at in-between angles.")
    max_flicker: float | None = Field(None, gt=0, description="Maximum flow-warp error, 0 … 1.")
    max_loop_gap: float | None = Field(
        2.5, gt=0, description="Maximum LPIPS of the step that closes the loop over that of the mean step."
    )
    min_span_deg: float | None = Field(
        330.0, ge=0, le=360, description="Minimum part of the turn that is shown [degrees]."
    )


class FidelitySettings(Settings, role=Role.RESULT):
    """How videos are scored, and the gate that they must pass."""

    net: Literal["alex", "vgg"] = Field("alex", description="Backbone of LPIPS.")
    size: int = Field(256, ge=64, le=1024, description="Side of the compared images [pixels]; the literature uses 256.")
    native: bool = Field(True, description="Also measure LPIPS at the video's own size.")
    leave_out: int = Field(
        2,
        ge=1,
        le=16,
        description="Without held-out photos: number of views that are left out in turn, redrawn and compared.",
    )
    angle_tolerance_deg: float = Field(
        2.5, ge=0, le=15, description="Maximum distance in angle between a held-out photo and its frame [degrees]."
    )
    baselines: bool = Field(True, description="Also score nearest view, cross-fade, flow morph and front view only.")
    gate: GateSettings = GateSettings()
