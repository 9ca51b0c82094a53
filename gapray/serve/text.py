"""Checks of incoming text and JSON, so that everything accepted can be stored and shown again."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gapray.capture.tables import number
from gapray.errors import InputError

_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters except tab and line breaks, and lone surrogates, which UTF-8 cannot encode (Unicode 17, 3.9, D92)."""


MAX_NESTING = 16
"""Maximum nesting depth of lists and objects in a client's JSON."""
MAX_TEXT_LENGTH = 32_000
"""Maximum length of a text that is not an image [characters]; OpenAI's Images API allows prompts of this length."""
MAX_VALUES = 100_000
"""Maximum number of values in JSON within a field, where the settings are not at hand; the default of `limits.json_values`."""
_SLICE = 2**20
"""Characters that are processed in one call of C code, during which no other thread of the process runs."""


def strict_json(data: bytes | bytearray | str) -> Any:
    """Parse JSON (RFC 8259) without the extensions of Python's parser: no NaN, no infinities, no duplicate members.

    Of several members with one name, Python's parser would keep the last and silently drop the others.

    Raises:
        ValueError: The text is not JSON, or an object has a member twice.
        RecursionError: The text is nested too deeply for Python's parser.
    """
    return json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_object_without_duplicates)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        [(duplicate, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the member {duplicate[:60]!r} comes twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def refuse_many_values(what: str, data: bytes, max_values: int, code: str = "request.invalid") -> None:
    """Refuse JSON with too many values: three bytes of text can become a value that takes 100 bytes of memory.

    Args:
        what: Name of the JSON document, for the message.
        data: The text, not yet parsed.
        max_values: Maximum number of values.
        code: Error code.

    Raises:
        InputError: `code`.
    """
    values = 1
    for start in range(0, len(data), _SLICE):
        if (values := values + count_values(data[start : start + _SLICE])) > max_values:
            raise InputError(code, f"{what} holds more than {max_values} values")


def count_values(part: bytes) -> int:
    """Count the JSON values that begin in a part of a text, except the first, by their separators.

    Separators within strings are counted as well.
    """
    return part.count(b",") + part.count(b"[") + part.count(b"{")


def parse_number(value: Any) -> float:
    """Return a client's number, sent as a number or as text such as ``315°``. Booleans are refused, which Python would take for 1 and 0.

    Raises:
        TypeError: The value is neither a number nor a text.
        ValueError: The text is not a number.
        OverflowError: The number is too large for floating point.
    """
    if isinstance(value, bool):
        raise TypeError("a truth value is no number")
    return number(value) if isinstance(value, str) else float(value)


def refuse_nested(what: str, value: Any) -> None:
    """Refuse JSON data that is nested more than `MAX_NESTING` levels deep.

    Args:
        what: Name of the JSON document, for the message.
        value: JSON data.

    Raises:
        InputError: `request.invalid`.
    """
    level = [value]
    for _ in range(MAX_NESTING + 1):
        containers = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        ]
        if not containers:
            return
        level = [item for items in containers for item in items]
    raise InputError("request.invalid", f"{what} is nested more than {MAX_NESTING} levels deep")


def refuse_unusable(name: str, value: Any) -> None:
    """Refuse text with characters that a database, file or answer could not hold, anywhere in a value.

    Args:
        name: Name of the field, for the message; it is checked as well.
        value: Text, or JSON data, whose member names are checked as well. Bytes and numbers hold no text.

    Raises:
        InputError: `request.invalid`, naming the field and the character.
    """
    for text in _strings_in(name, value):
        if (match := _search_unusable(text)) is not None:
            kind = "half a surrogate pair" if match.group() >= "\ud800" else "a control character"
            where = escaped(name[:60])
            raise InputError("request.invalid", f"{where}: U+{ord(match.group()):04X} is {kind}, which no text holds")


def _search_unusable(text: str) -> re.Match[str] | None:
    for start in range(0, len(text), _SLICE):
        part = text[start : start + _SLICE]
        # Refused characters are never printable. `isprintable` is ten times as fast as the search; photos may come as text.
        if not part.isprintable() and (match := _UNUSABLE.search(part)) is not None:
            return match
    return None


def refuse_long(name: str, value: Any) -> None:
    """Refuse a text of more than `MAX_TEXT_LENGTH` characters, anywhere in a value.

    Args:
        name: Name of the field, for the message; it is checked as well.
        value: Text, or JSON data, whose member names are checked as well.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    for text in _strings_in(name, value):
        if len(text) > MAX_TEXT_LENGTH:
            raise InputError(
                "request.invalid",
                f"{name[:60]} holds a text of {len(text)} characters; at most {MAX_TEXT_LENGTH} are taken",
            )


def _strings_in(name: str, value: Any) -> Iterator[str]:
    """Yield the name, and every string and member name in JSON data. Iterative, because clients choose the nesting depth."""
    stack = [name, value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list):
            stack += item


def without_unusable(text: str) -> str:
    """Replace the characters that `refuse_unusable` refuses by ``_``; for names that are read, but never stored."""
    return _UNUSABLE.sub("_", text)


def escaped(text: str) -> str:
    """Escape the characters that `refuse_unusable` refuses, for messages."""
    return _UNUSABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
