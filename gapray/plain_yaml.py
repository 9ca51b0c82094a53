"""YAML as people mean it: the reader of files and values of settings.

It refuses what YAML would lose or read as something else without a word: a key that is there twice, and the numbers, dates and
times of YAML 1.1 (`010` is 8, `1_28` is 128, `1:30` is 90). Only `true` and `false` are booleans; `on`, `off`, `yes` and `no` are
text, which settings that are booleans accept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gapray.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")


class PlainModel(BaseModel):
    """Base class of settings: unknown names are refused, and so is a boolean in place of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _only_wanted_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted is not bool and bool not in get_args(wanted):
            raise PydanticCustomError("unwanted_boolean", "Input should not be true or false")
        return value


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without the booleans `on`, `off`, `yes` and `no`."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (declared by PyYAML)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_PlainLoader.add_implicit_resolver(f"{_TAG}bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML document; `where` names the file, flag or variable in errors.

    Raises:
        ConfigError: `config.invalid`.
    """
    loader = None
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, where, "", set())
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a number of too many digits
        raise ConfigError(
            "config.invalid", f"{where} is no YAML: {_reason(error)}; put text with ': ' or other marks in quotes"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """Parse a mapping of settings; an empty document is an empty mapping.

    Raises:
        ConfigError: `config.invalid`.
    """
    data = parse_yaml(text, where)
    if data is not None and not isinstance(data, dict):
        raise ConfigError("config.invalid", f"{where} holds no mapping of settings")
    return data or {}


def read_mapping(path: Path, where: str | None = None) -> dict[str, Any]:
    """Read a file of settings in UTF-8; see `parse_mapping`.

    Raises:
        ConfigError: `config.invalid`, also if the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config.invalid", f"cannot read {where or path}: {error}") from error
    return parse_mapping(text, where or str(path))


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, with the name of its setting."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    return f"{name}: {first['msg']}" if name else first["msg"]


def _check(node: yaml.Node, where: str, name: str, seen: set[int]) -> None:
    """Refuse keys that are there twice or hold dots, and scalars that YAML 1.1 reads as no one expects.

    Args:
        node: What to check, with all that is in it.
        where: File, flag or variable.
        name: Dotted name of the node.
        seen: Ids of nodes that were checked; aliases repeat nodes.

    Raises:
        ConfigError: `config.invalid`.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if not _is_plain(node):
            raise ConfigError(
                "config.invalid",
                f"{where}: {name + ': ' if name else ''}{node.value} is no plain number or text; "
                "write numbers in digits without leading zeros, and put text in quotes",
            )
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check(item, where, f"{name}.{index}" if name else str(index), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], list[str]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError("config.invalid", f"{where}: a key in line {key.start_mark.line + 1} is no text")
            full = f"{name}.{key.value}" if name else key.value
            line = key.start_mark.line + 1
            before = lines.setdefault((key.tag, key.value), [])
            before.append(str(line))
            if len(before) > 1:
                raise ConfigError("config.invalid", f"{where}: {full} is there twice, in line {' and '.join(before)}")
            group, dot, rest = key.value.partition(".")
            if dot:
                raise ConfigError("config.invalid", f"{where}: write {full} nested, as {group}: {{{rest}: …}}")
            _check(value, where, full, seen)


def _is_plain(node: yaml.ScalarNode) -> bool:
    kind = node.tag.removeprefix(_TAG)
    if kind == "int":
        return _PLAIN_INT.fullmatch(node.value) is not None
    if kind == "float":
        return not {"_", ":"} & set(node.value)
    if kind == "bool":  # with an explicit tag it may be any text
        return node.value.lower() in ("true", "false")
    return kind != "timestamp"


def _reason(error: Exception) -> str:
    """Return what is wrong in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return (str(error) or type(error).__name__).splitlines()[0]
