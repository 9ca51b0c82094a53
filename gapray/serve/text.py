"""Text and JSON that can be kept and shown again: checked where they come in, so that nothing behind needs to."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gapray.capture.tables import number
from gapray.errors import InputError

_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but tab and line breaks, and halves of surrogate pairs, which UTF-8 cannot hold (Unicode 17, 3.9, D92)."""


NESTING = 16
"""Lists and objects within each other that a client may send."""
LONGEST = 32_000
"""Characters of a text that is no picture: as many as OpenAI's Images API takes of a prompt."""
VALUES = 100_000
"""Values of JSON within a body whose limits are not at hand; `limits.json_values` is as much."""
_SLICE = 2**20
"""Characters that are looked at in one call of C code, during which no other thread of the process runs."""


def strict_json(data: bytes | bytearray | str) -> Any:
    """The value of a JSON text (RFC 8259), which has no NaN and no infinities, and no member of an object twice.

    Of two members with one name Python's parser keeps the last, and what the other one said would be lost.

    Raises:
        ValueError: It is no JSON, or a member comes twice.
        RecursionError: It is nested as deep as Python's parser goes.
    """
    return json.loads(data, parse_constant=_refused, object_pairs_hook=_members)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the member {twice[:60]!r} comes twice")
    return found


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def refuse_many_values(what: str, data: bytes, most: int, code: str = "request.invalid") -> None:
    """Refuse a JSON text of many values, each of which takes up to 100 bytes of memory for three of the text.

    Args:
        what: Holds them, for the message.
        data: The text, not yet parsed.
        most: Values that it may hold.
        code: Of the error.

    Raises:
        InputError: With that code.
    """
    values = 1
    for start in range(0, len(data), _SLICE):
        if (values := values + values_in(data[start : start + _SLICE])) > most:
            raise InputError(code, f"{what} holds more than {most} values")


def values_in(part: bytes) -> int:
    """How many JSON values begin in a part of a text: all but its first stand behind these; those within texts count too."""
    return part.count(b",") + part.count(b"[") + part.count(b"{")


def number_of(value: Any) -> float:
    """A number that a client sent, as such or as text such as ``315°``; Python counts `True` as 1, which no client means.

    Raises:
        TypeError: It is no number and no text.
        ValueError: It is another text.
        OverflowError: It is beyond floating point.
    """
    if isinstance(value, bool):
        raise TypeError("a truth value is no number")
    return number(value) if isinstance(value, str) else float(value)


def refuse_nested(what: str, value: Any) -> None:
    """Refuse JSON data with lists and objects within each other, more than `NESTING` levels deep.

    Args:
        what: Is nested, for the message.
        value: JSON data.

    Raises:
        InputError: `request.invalid`.
    """
    within = [value]
    for _ in range(NESTING + 1):
        lists = [item.values() if isinstance(item, dict) else item for item in within if isinstance(item, dict | list)]
        if not lists:
            return
        within = [item for items in lists for item in items]
    raise InputError("request.invalid", f"{what} is nested more than {NESTING} levels deep")


def refuse_unusable(name: str, value: Any) -> None:
    """Refuse text that no database, file or answer could hold, wherever in a value it stands.

    Args:
        name: Of the field, for the message.
        value: Text, or JSON data; its members' names are looked at too. Bytes and numbers hold no text.

    Raises:
        InputError: `request.invalid`, naming field and character.
    """
    for text in _texts_in(name, value):
        if (found := _unusable_in(text)) is not None:
            kind = "half a surrogate pair" if found.group() >= "\ud800" else "a control character"
            where = shown(name[:60])
            raise InputError("request.invalid", f"{where}: U+{ord(found.group()):04X} is {kind}, which no text holds")


def _unusable_in(text: str) -> re.Match[str] | None:
    for start in range(0, len(text), _SLICE):
        part = text[start : start + _SLICE]
        # `isprintable` is false of all that is refused; it is ten times as fast, and photos come as text too.
        if not part.isprintable() and (found := _UNUSABLE.search(part)) is not None:
            return found
    return None


def refuse_long(name: str, value: Any) -> None:
    """Refuse a text of more than `LONGEST` characters, wherever in a value it stands.

    Args:
        name: Of the field, for the message.
        value: Text, or JSON data; its members' names are looked at too.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    for text in _texts_in(name, value):
        if len(text) > LONGEST:
            raise InputError(
                "request.invalid", f"{name[:60]} holds a text of {len(text)} characters; at most {LONGEST} are taken"
            )


def _texts_in(name: str, value: Any) -> Iterator[str]:
    """The name, and every text of JSON data with its members' names. No recursion: how deep the data lies is the client's choice."""
    todo = [name, value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo += item.keys()
            todo += item.values()
        elif isinstance(item, list):
            todo += item


def usable(text: str) -> str:
    """The same with ``_`` for what `refuse_unusable` refuses: for names that are only read, never kept."""
    return _UNUSABLE.sub("_", text)


def shown(text: str) -> str:
    """The same with escapes for what `refuse_unusable` refuses: for messages."""
    return _UNUSABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
