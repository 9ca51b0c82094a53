"""The base of all settings: what each of them affects, and hashing.

Every setting has a `Role`. The catalogue's keys hash only settings of role `RESULT`, so that changing a limit or a batch size
does not invalidate results. The groups of settings stand beside the code that reads them (`capture/settings.py` and so on);
`profile.py` loads them together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, ClassVar, Self, TypeVar

from gapray.plain_yaml import PlainModel


class Role(Enum):
    """What a setting affects."""

    RESULT = "result"
    """Pixels, masks, geometry or scores: part of the keys of all results that depend on it."""
    GATE = "gate"
    """Only what is accepted or passes. Verdicts are re-evaluated from stored scores; nothing is made or scored again."""
    WORK = "work"
    """Only how results are computed, distributed or named. They may differ by rounding."""


_T = TypeVar("_T")
Result = Annotated[_T, Role.RESULT]
Gate = Annotated[_T, Role.GATE]
Work = Annotated[_T, Role.WORK]


class Settings(PlainModel):
    """Base class of a group of settings.

    The role of all fields is the class keyword ``role``; otherwise each field is annotated with its own. Defining a class with a
    field that has no role raises `TypeError`.
    """

    roles: ClassVar[Mapping[str, Role]] = {}
    """Field -> role, except for nested groups, whose own fields have roles."""

    def __init_subclass__(cls, *, role: Role | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)  # pydantic calls `__pydantic_init_subclass__` once the fields are known

    @classmethod
    def __pydantic_init_subclass__(cls, *, role: Role | None = None, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        roles = {}
        for name, field in cls.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                continue
            own = next((mark for mark in field.metadata if isinstance(mark, Role)), role)
            if own is None:
                raise TypeError(f"{cls.__name__}.{name} does not say whether it changes results: give it a Role")
            roles[name] = own
        cls.roles = roles

    def results(self) -> dict[str, Any]:
        """Return the settings that affect results, as plain data to hash."""
        return {
            name: value.results() if isinstance(value, Settings) else value
            for name, value in self
            if isinstance(value, Settings) or self.roles[name] is Role.RESULT
        }

    def computed_as(self, other: Self) -> Self:
        """Return a copy of these settings with every field that does not affect results taken from `other`."""
        changed, others = {}, dict(other)
        for name, value in self:
            if isinstance(value, Settings):
                changed[name] = value.computed_as(others.get(name, value))
            elif self.roles[name] is not Role.RESULT:
                changed[name] = others[name]
        return self.model_copy(update=changed)


def canonical_hash(value: object) -> str:
    """Return the SHA-256 of `canonical_text`, as 64 hex digits."""
    return hashlib.sha256(canonical_text(value).encode()).hexdigest()


def canonical_text(value: object) -> str:
    """Serialise `value` to JSON with sorted keys, identically for equal data on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
