"""Generators by name: gapray's own, and those that installed packages offer by entry points (docs/generators.md).

Nothing heavy is imported before a generator is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Self

from pydantic import Field, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gapray.errors import ConfigError
from gapray.plain_yaml import PlainModel
from gapray.settings import Result, Settings


class NoSettings(Settings):
    """The settings of a generator that has none."""


def _no_cards(settings: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class GeneratorSpec:
    """What is known of a generator before it is loaded."""

    settings: type[Settings]
    """Its group of settings. Requests over HTTP set those fields that have a parameter's name, such as `prompt`."""
    load: Callable[[Any, str], Any]
    """Loads it, given an instance of `settings` and the device, ``cpu`` or ``cuda``."""
    cards: Callable[[Any], list[str]] = _no_cards
    """Names of the model cards that it needs with these settings, in a fixed order."""
    vram_gb: float | None = None
    """GPU memory that it needs besides its cards' weights [GB]; None = it needs a GPU only if it has cards."""
    version: str = ""
    """Part of the keys of its pictures, unless empty: to be changed whenever the same input would give different pixels. gapray's own
    generators have a format of the whole key for this."""


class Registry:
    """The generators of one kind of picture.

    Args:
        group: Group of the entry points by which packages offer them.
        own: gapray's own; their names cannot be taken.
    """

    def __init__(self, group: str, own: Mapping[str, GeneratorSpec]) -> None:
        self.group = group
        self.own = own
        self.find = cache(self._find)

    def names(self) -> list[str]:
        """Names of all generators on this machine, sorted."""
        return sorted({*self.own, *(entry.name for entry in entry_points(group=self.group))})

    def _find(self, name: str) -> GeneratorSpec | None:
        """Return the generator called `name`; None if there is none. Only the package that offers it is imported.

        Raises:
            ConfigError: `config.invalid` if that package cannot be imported, or if several offer the name.
        """
        if name in self.own:
            return self.own[name]
        entries = list(entry_points(group=self.group, name=name))
        if not entries:
            return None
        if len({entry.value for entry in entries}) > 1:
            packages = ", ".join(sorted(entry.dist.name for entry in entries if entry.dist))
            raise ConfigError("config.invalid", f"several packages offer the generator {name!r}: {packages}")
        try:
            found = entries[0].load()
        except Exception as error:
            raise ConfigError(
                "config.invalid", f"the generator {name!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, GeneratorSpec):
            kind = type(found).__name__
            raise ConfigError(
                "config.invalid", f"the entry point of the generator {name!r} names a {kind}, no GeneratorSpec"
            )
        return found


class GeneratorSettings(Settings, extra="allow"):
    """Settings of one kind of picture. Each generator's own settings are a group under its name.

    The groups of gapray's own generators are fields; those of installed packages are added when settings are read.
    """

    registry: ClassVar[Registry]
    backend: Result[str] = Field(description="Name of the generator.")

    @model_validator(mode="before")
    @classmethod
    def _read_installed_groups(cls, data: Any) -> Any:
        """Validate the groups of installed generators, and add the chosen one's if it is not given."""
        if not isinstance(data, Mapping):
            return data
        others = {name: value for name, value in data.items() if name not in cls.model_fields}
        chosen = data.get("backend")
        names = {*others, *([chosen] if isinstance(chosen, str) else [])} - cls.model_fields.keys()
        found = {name: cls.registry.find(name) for name in names}
        fields: dict[str, Any] = {
            name: (generator.settings, generator.settings())
            for name, generator in found.items()
            if generator is not None and generator.settings is not NoSettings
        }
        groups = create_model("Groups", __base__=PlainModel, **fields).model_validate(others)  # refuses other names
        return {**data, **{name: getattr(groups, name) for name in fields}}

    @field_validator("backend")
    @classmethod
    def _is_a_generator(cls, value: str) -> str:
        if cls.registry.find(value) is None:
            names = ", ".join(cls.registry.names())
            raise PydanticCustomError(
                "unknown_generator", "there is no generator of this name; generators: {names}", {"names": names}
            )
        return value

    @property
    def generator(self) -> GeneratorSpec:
        """The generator that `backend` names.

        Raises:
            ConfigError: `config.invalid`: it was installed where these settings were made, and is not here.
        """
        found = self.registry.find(self.backend)
        if found is None:
            raise ConfigError("config.invalid", f"the generator {self.backend!r} is not installed on this machine")
        return found

    @property
    def chosen(self) -> Settings:
        """The settings of the generator that `backend` names."""
        group: Settings = getattr(self, self.backend, NoSettings())
        return group

    def with_chosen(self, values: Mapping[str, Any]) -> Self:
        """Return a copy with settings of the chosen generator replaced; those that it does not have are left out.

        A single number for a setting that has one for each network, such as `control_scale`, holds for all of them.
        """
        chosen = self.chosen
        changes = {name: value for name, value in values.items() if name in type(chosen).model_fields}
        for name, value in changes.items():
            before = getattr(chosen, name)
            if isinstance(before, tuple) and not isinstance(value, tuple):
                changes[name] = (value,) * len(getattr(chosen, "controlnets", before))
        return self.model_copy(update={self.backend: chosen.model_copy(update=changes)}) if changes else self

    def cards(self) -> list[str]:
        """Names of the model cards that the chosen generator needs, in a fixed order."""
        return self.generator.cards(self.chosen)

    def used(self) -> dict[str, Any]:
        """Return what affects results, as plain data to hash: settings without the groups of other generators, and its version."""
        groups = {name for name, value in self if isinstance(value, Settings)}
        used = {name: value for name, value in self.results().items() if name not in groups or name == self.backend}
        return used | ({"version": self.generator.version} if self.generator.version else {})
