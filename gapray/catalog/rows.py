"""Construction of catalogue rows from packages and rejects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from gapray.capture.azimuths import AzimuthsBy
from gapray.gap.images import encode_png
from gapray.gap.package import GapView, PackageWarning, view_facts
from gapray.settings import canonical_hash


@dataclass(frozen=True)
class RunFacts:
    """Columns that all rows of one run share."""

    run_id: str
    settings: str
    """`PackagingSettings.digest`."""
    profile: str
    models: Mapping[str, str]
    """Role -> name@revision."""

    def model_columns(self) -> dict[str, str]:
        """Return the four `…_model` columns."""
        return {f"{role}_model": self.models[role] for role in ("mask", "depth", "canny", "identity")}


def view_row(
    view: GapView, reference: bytes, mask: bytes, *, product_id: str, key: str, facts: RunFacts, now: datetime
) -> dict[str, Any]:
    """Return a row of `views`; `reference` (JPEG) and `mask` (PNG) are the encoded images of `view`."""
    height, width = view.mask.shape
    return {
        "product_id": product_id,
        "key": key,
        "azimuth_deg": view.azimuth_deg,
        "name": view.name,
        "uri": view.uri,
        "sha256": view.sha256,
        "width": width,
        "height": height,
        "reference": reference,
        "mask": mask,
        "depth": encode_png(view.depth),
        "canny": encode_png(view.canny),
        "identity": view.identity,
        **view_facts(view),
        **facts.model_columns(),
        "run_id": facts.run_id,
        "created_at": now,
    }


def product_row(
    *,
    product_id: str,
    key: str,
    source: str,
    uri: str,
    azimuths_deg: list[float],
    depth_scale: float,
    depth_shift: float,
    facts: RunFacts,
    now: datetime,
    azimuths_by: AzimuthsBy | None = None,
    warnings: Sequence[PackageWarning] | None = None,
) -> dict[str, Any]:
    """Return a row of `products`; see `gapray.catalog.schemas.PRODUCTS` for its columns."""
    return {
        "product_id": product_id,
        "key": key,
        "source": source,
        "settings": facts.settings,
        "profile": facts.profile,
        "uri": uri,
        "views": len(azimuths_deg),
        "azimuths_deg": sorted(azimuths_deg),
        "depth_scale": depth_scale,
        "depth_shift": depth_shift,
        "azimuths_by": azimuths_by,
        "warnings": None if warnings is None else [vars(warning) for warning in warnings],
        **facts.model_columns(),
        "run_id": facts.run_id,
        "created_at": now,
    }


def reject_row(
    *,
    product_id: str,
    source: str,
    uri: str,
    code: str,
    message: str,
    facts: RunFacts,
    now: datetime,
    stage: Literal["package", "render", "score", "stills"] = "package",
    item: str = "",
) -> dict[str, Any]:
    """Return a row of `rejects`; see `gapray.catalog.schemas.REJECTS` for its columns."""
    return {
        "product_id": product_id,
        "key": canonical_hash([source, facts.settings, stage, item]),
        "source": source,
        "settings": facts.settings,
        "uri": uri,
        "stage": stage,
        "item": item,
        "code": code,
        "message": message,
        "run_id": facts.run_id,
        "created_at": now,
    }


def utc_now() -> datetime:
    """Return the current time, with the time zone UTC."""
    return datetime.now(UTC)
