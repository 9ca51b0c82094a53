"""Settings of a run: profile < ``--config`` YAML < ``GAPRAY_*`` environment < flags, checked by pydantic.

`PackagingSettings` holds everything that changes what a package contains, and only that: its hash is part of every
catalogue key. `RunSettings` holds how the work is spread, which no key may depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gapray.errors import ConfigError

ENV_PREFIX = "GAPRAY_SET_"
"""`GAPRAY_SET_MASK__MODEL=u2net` is the environment's way to say ``--set mask.model=u2net``."""

PACKAGE_FORMAT = 1
"""Raised whenever the same photos and settings would give another package; part of every settings hash."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DecodeSettings(_Settings):
    """Limits on a photo, checked on its header before any pixel is decoded, and the size it is kept at."""

    max_bytes: int = Field(64 * 2**20, gt=0, description="Largest accepted file [bytes].")
    max_pixels: int = Field(60_000_000, gt=0, description="Largest accepted width x height [pixels].")
    max_icc_bytes: int = Field(4 * 2**20, gt=0, description="Largest accepted colour profile [bytes].")
    min_side: int = Field(64, ge=16, description="Smallest accepted shorter side [pixels].")
    reference_side: int = Field(1024, ge=64, le=4096, description="Longer side of the kept reference at most [pixels].")
    reference_quality: int = Field(95, ge=1, le=100, description="JPEG quality of the kept reference.")


class MaskSettings(_Settings):
    """The product's silhouette."""

    model: str = Field("u2netp", description="Card of a rembg network.")
    backdrop_key: bool = Field(
        True, description="Sharpen by the colour of a plain backdrop where it agrees with the network."
    )
    cleanup: bool = Field(True, description="Keep the largest component and fill pin holes.")
    max_hole_share: float = Field(0.002, ge=0, le=1, description="Holes up to this share of the product are filled.")
    min_share: float = Field(
        0.01, ge=0, lt=1, description="A mask with a smaller share of the image rejects the product."
    )
    max_share: float = Field(
        0.95, gt=0, le=1, description="A mask with a larger share of the image rejects the product."
    )


class DepthSettings(_Settings):
    """Relative nearness of each pixel, on one scale for the whole capture set."""

    model: str = Field("hull", description="`hull` (visual hull of the silhouettes, no weights) or a depth card.")
    elevation_deg: float = Field(15.0, ge=-30, le=60, description="`hull` only: the camera's elevation [degrees].")
    work_side: int = Field(
        518, ge=14, multiple_of=14, description="Longer side of the image given to networks [pixels]."
    )


class CannySettings(_Settings):
    """Edges by controlnet-aux's CannyDetector."""

    low_threshold: int = Field(100, ge=0, le=255, description="Lower hysteresis threshold [grey levels].")
    high_threshold: int = Field(200, ge=0, le=255, description="Upper hysteresis threshold [grey levels].")


class IdentitySettings(_Settings):
    """The 512 appearance features of the identity embedding."""

    model: str = Field("colour-gradient-512", description="`colour-gradient-512` (no weights) or a CLIP card.")


class PackagingSettings(_Settings):
    """Everything that decides what a GAP package contains."""

    decode: DecodeSettings = DecodeSettings()
    mask: MaskSettings = MaskSettings()
    depth: DepthSettings = DepthSettings()
    canny: CannySettings = CannySettings()
    identity: IdentitySettings = IdentitySettings()

    def digest(self, revisions: Mapping[str, str]) -> str:
        """Hash of these settings and of the weights they name.

        Args:
            revisions: Model name -> sha256 of its weights, or a version for what has none.

        Returns:
            64 hex digits.
        """
        return canonical_hash({"format": PACKAGE_FORMAT, "settings": self.model_dump(), "models": dict(revisions)})


class RunSettings(_Settings):
    """How the work is spread; no result depends on it."""

    products_per_part: int = Field(16, ge=1, description="Products in one part file: the unit of commit and of loss.")
    products_per_block: int = Field(4, ge=1, description="Products in one task's input.")
    network_batch: int = Field(32, ge=1, description="Views in one forward pass of a network.")
    mask_workers: int | None = Field(None, ge=1, description="Mask actors; default: by the cluster's CPUs.")
    describe_workers: int | None = Field(None, ge=1, description="Depth and identity actors; default: 2 a GPU, or 1.")
    decode_workers: int | None = Field(None, ge=1, description="Decode tasks at once; default: by the cluster's CPUs.")
    encode_workers: int | None = Field(None, ge=1, description="Encode actors; default: by the cluster's CPUs.")
    device_gb: float = Field(80.0, gt=0, description="Memory of one GPU of the cluster, for planning [GB].")


class Profile(_Settings):
    """A named set of models and settings, one YAML file in `gapray/profiles`."""

    name: str = Field(description="The file's name without its ending.")
    description: str = Field(description="One sentence for `gapray models list`.")
    packaging: PackagingSettings = PackagingSettings()
    run: RunSettings = RunSettings()


def canonical_hash(value: object) -> str:
    """sha256 of `value` as JSON with sorted keys: the same for equal data on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def profile_names() -> list[str]:
    """The profiles that ship with gapray."""
    folder = resources.files("gapray") / "profiles"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_profile(
    name: str = "classic",
    *,
    config_file: str | Path | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Profile:
    """Build a profile from its file and what the user put over it.

    Args:
        name: One of `profile_names()`.
        config_file: YAML with any of the profile's fields.
        overrides: ``mask.model=u2net`` items (the prefix ``packaging.`` may be left out); they win over all else.
        environment: Stands in for `os.environ`.

    Raises:
        ConfigError: `profile.unknown` or `config.invalid`.
    """
    if name not in profile_names():
        raise ConfigError("profile.unknown", f"there is no profile {name!r}; profiles: {', '.join(profile_names())}")
    text = (resources.files("gapray") / "profiles" / f"{name}.yaml").read_text()
    data: dict[str, Any] = {"name": name} | (yaml.safe_load(text) or {})
    if config_file is not None:
        data = _merge(data, _read_yaml(Path(config_file)))
    for key, value in sorted((os.environ if environment is None else environment).items()):
        if key.startswith(ENV_PREFIX):
            _assign(data, key.removeprefix(ENV_PREFIX).lower().split("__"), value, key)
    for item in overrides:
        path, equals, value = item.partition("=")
        if not equals:
            raise ConfigError("config.invalid", f"--set {item!r} is not of the form name.field=value")
        _assign(data, path.strip().split("."), value, f"--set {item}")
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError("config.invalid", f"setting {where}: {first['msg']}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError("config.invalid", f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError("config.invalid", f"{path} holds no mapping of settings")
    return data


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _assign(data: dict[str, Any], path: list[str], value: str, said: str) -> None:
    groups: tuple[Literal["packaging"], Literal["run"]] = ("packaging", "run")
    if path[0] not in groups:
        path = ["packaging", *path]
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError("config.invalid", f"{said}: {key} is no group of settings")
    data[path[-1]] = yaml.safe_load(value)
