"""Profiles: all settings together. Precedence: profile < ``--config`` YAML < ``GAPRAY_SET_*`` environment < flags."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from gapray.environment import ENV_PREFIX
from gapray.errors import ConfigError
from gapray.fidelity.settings import FidelitySettings
from gapray.gap.settings import PackagingSettings
from gapray.inspect.settings import CheckSettings
from gapray.orbit.settings import OrbitSettings
from gapray.plain_yaml import first_problem, parse_mapping, parse_yaml, read_mapping
from gapray.settings import Role, Settings
from gapray.stills.settings import StillSettings
from gapray.video.settings import VideoSettings

MISSPELT_RATIO = 0.75
"""Minimum similarity of a name to be suggested (`difflib`): `sise` is 0.75 from `size`, `set` is 0.67 from `net`."""


class RunSettings(Settings, role=Role.WORK):
    """How the work is distributed; no result depends on it."""

    executor: Literal["ray_data", "local"] = Field(
        "ray_data",
        description="`local` runs the stages one after another in one process, without Ray: small jobs start seconds sooner.",
    )
    products_per_part: int = Field(
        16, ge=1, description="Products in one part file: what is committed, or lost by a kill, at once."
    )
    products_per_block: int = Field(4, ge=1, description="Products in the input of one task.")
    network_batch: int = Field(32, ge=1, description="Views in one forward pass of a network.")
    mask_workers: int | None = Field(None, ge=1, description="Mask actors; default: by the cluster's CPUs.")
    describe_workers: int | None = Field(
        None, ge=1, description="Depth and identity actors; default: 2 per GPU, or by the cluster's CPUs."
    )
    worker_threads: int = Field(2, ge=1, description="CPU threads of each worker that runs networks or geometry.")
    videos_per_part: int = Field(4, ge=1, description="Videos in one part of `videos`.")
    render_workers: int | None = Field(
        None, ge=1, description="Render actors; default: by the cluster's GPUs, or one per 2 CPUs."
    )
    generators_on_cpu: bool = Field(
        False, description="Without a GPU, run generators that need one on CPUs: minutes per frame."
    )
    decode_workers: int | None = Field(
        None, ge=1, description="Concurrent decode tasks; default: by the cluster's CPUs."
    )
    encode_workers: int | None = Field(None, ge=1, description="Encode actors; default: by the cluster's CPUs.")
    device_gb: float = Field(80.0, gt=0, description="Memory of one GPU of the cluster, for planning [GB].")
    max_cpus: int | None = Field(None, ge=1, description="Logical CPUs that an autoscaling cluster may grow to.")
    max_gpus: int | None = Field(None, ge=0, description="GPUs that an autoscaling cluster may grow to.")
    wait_for_nodes_s: float = Field(
        1800.0, ge=0, description="Longest wait for the first nodes of an autoscaling cluster [s]."
    )
    no_progress_s: float | None = Field(
        14_400.0,
        gt=0,
        description="A run without progress for this long ends, even if it waits for spot nodes [s]; null = never.",
    )
    part_bytes: int = Field(
        256 * 2**20,
        ge=2**20,
        description="Size at which a part of `views` ends; the last product in it is completed [bytes].",
    )
    cpu_hour_price: float | None = Field(
        None, ge=0, description="Price of one logical CPU per hour, for the run record."
    )
    gpu_hour_price: float | None = Field(None, ge=0, description="Price of one GPU per hour, for the run record.")


class Profile(Settings, role=Role.WORK):
    """A named set of models and settings: one YAML file in `gapray/profiles`."""

    name: str = Field(description="File name without its suffix.")
    description: str = Field(description="One sentence for `gapray models list`.")
    packaging: PackagingSettings = PackagingSettings()
    orbit: OrbitSettings = OrbitSettings()
    video: VideoSettings = VideoSettings()
    stills: StillSettings = StillSettings()
    fidelity: FidelitySettings = FidelitySettings()
    check: CheckSettings = CheckSettings()
    run: RunSettings = RunSettings()


def profile_names() -> list[str]:
    """Return the names of the profiles that ship with gapray, sorted."""
    folder = resources.files("gapray") / "profiles"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_profile(
    name: str = "classic",
    *,
    config_file: str | Path | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Profile:
    """Load a profile and apply a configuration file, the environment and overrides to it, in this order.

    Args:
        name: One of `profile_names()`.
        config_file: YAML with any of the profile's fields; groups of `packaging` may be at top level, as in `overrides`.
        overrides: Items such as ``mask.model=u2net``; the prefix ``packaging.`` is optional.
        environment: Variables to read instead of `os.environ`.

    Raises:
        ConfigError: `profile.unknown` or `config.invalid`.
    """
    if name not in profile_names():
        raise ConfigError("profile.unknown", f"there is no profile {name!r}; profiles: {', '.join(profile_names())}")
    text = (resources.files("gapray") / "profiles" / f"{name}.yaml").read_text()
    data: dict[str, Any] = {"name": name} | parse_mapping(text, f"profile {name}")
    if config_file is not None:
        data = _merge(data, _with_packaging_group(read_mapping(Path(config_file)), str(config_file)))
    for key, value in sorted((os.environ if environment is None else environment).items()):
        if key.startswith(ENV_PREFIX):
            _assign(data, key.removeprefix(ENV_PREFIX).lower().split("__"), value, key)
    _assign_all(data, overrides)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                "config.invalid", f"there is no setting {_short_name(where)}{_suggestion(where)}"
            ) from error
        raise ConfigError("config.invalid", f"setting {first_problem(error)}") from error


def with_flags(overrides: Sequence[str] | None, flags: Mapping[str, tuple[str, str | int | None]]) -> list[str]:
    """Add flags that set settings to the items of ``--set``.

    Args:
        overrides: Items of ``--set``.
        flags: Dotted name of a setting -> its flag and the flag's value, None if it was not given.

    Raises:
        ConfigError: `config.invalid` if a flag and ``--set`` give one setting different values.
    """
    data: dict[str, Any] = {}
    items = list(overrides or ())
    _assign_all(data, items)
    for name, (flag, value) in flags.items():
        if value is None:
            continue
        for other in _values_at(data, name.split(".")):
            if other != value:
                raise ConfigError(
                    "config.invalid", f"{name} has two values, {value} by {flag} and {other} by --set; give one of them"
                )
        items.append(f"{name}={value}")
    return items


def _values_at(data: Any, path: list[str]) -> list[Any]:
    """Return the value at a path in nested mappings, in a list; empty if there is none."""
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return []
        data = data[key]
    return [data]


def _suggestion(where: str) -> str:
    """Suggest the setting whose name is closest to a misspelt one, preferring settings of the same group."""
    parent, _, wrong = where.rpartition(".")
    names = sorted(_dotted_names(Profile), key=lambda name: name.rpartition(".")[0] != parent)
    last_parts = [name.rpartition(".")[2] for name in names]
    matches = difflib.get_close_matches(wrong, last_parts, 1, cutoff=MISSPELT_RATIO)
    return f"; did you mean {_short_name(names[last_parts.index(matches[0])])}?" if matches else ""


def _short_name(name: str) -> str:
    return name.removeprefix("packaging.")


def _dotted_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all settings of a model, nested groups included."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _dotted_names(field.annotation, f"{prefix}{name}.")
    return names


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _with_packaging_group(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """Move groups of `packaging` that a config file has at top level into `packaging`.

    Raises:
        ConfigError: `config.invalid` for a group that is in both places.
    """
    top_level = {name: value for name, value in settings.items() if name in PackagingSettings.model_fields}
    nested = settings.get("packaging") or {}
    if not top_level or not isinstance(nested, dict):
        return settings
    if duplicates := sorted(top_level.keys() & nested.keys()):
        raise ConfigError("config.invalid", f"{path}: {duplicates[0]} stands in `packaging` and outside of it")
    rest = {name: value for name, value in settings.items() if name not in top_level}
    return rest | {"packaging": {**nested, **top_level}}


def _assign_all(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set the settings of all items of ``--set``."""
    for item in overrides:
        path, equals, value = item.partition("=")
        if not equals:
            raise ConfigError("config.invalid", f"--set {item!r} is not of the form name.field=value")
        _assign(data, path.strip().split("."), value, f"--set {item}")


def _assign(data: dict[str, Any], path: list[str], value: str, origin: str) -> None:
    """Set one setting by its dotted path; `origin` names the flag or variable in errors."""
    if path[0] not in ("packaging", "orbit", "video", "stills", "fidelity", "check", "run"):
        path = ["packaging", *path]
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError("config.invalid", f"{origin}: {key} is no group of settings")
    data[path[-1]] = parse_yaml(value, origin)
