"""Tables that people write: CSV as spreadsheets, shops and scripts save it, whatever delimiter, encoding or spelling they use."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence

from gapray.errors import InputError

DELIMITERS = (",", ";", "\t", "|")
HEADER_ROWS = 20
"""The header is looked for in so many rows: some programs write a title above it."""
MAX_COLUMNS = 1000
OLD_ENCODINGS = (
    "cp1252",
    "mac_roman",
    "cp850",
    "cp1250",
    "cp1251",
    "cp932",
    "gb18030",
    "big5hkscs",
    "cp949",
    "latin-1",
)
"""Encodings that spreadsheets write when they do not write Unicode: Windows in Western, Central and Eastern Europe, old Macintosh
programs and DOS, Windows in Japan, China, Taiwan and Korea."""


def texts(data: bytes) -> Iterator[str]:
    """What a text file may say, the likeliest first; more than one where its encoding cannot be told.

    Args:
        data: UTF-8 or UTF-16 with or without a byte order mark, or one of `OLD_ENCODINGS`.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield data.decode("utf-16", "replace")
    elif b"\0" in data[:512]:  # Latin letters in UTF-16: every other byte is 0
        yield data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    else:
        try:
            yield data.decode("utf-8-sig")
        except UnicodeDecodeError:
            for encoding in OLD_ENCODINGS:
                yield data.decode(encoding, "replace")


def rows_of(
    text: str, columns: Mapping[str, Sequence[str]], *, also: Collection[str] = (), most_cells: int | None = None
) -> list[dict[str, str]]:
    """The rows of a CSV.

    Args:
        text: With any of `DELIMITERS`, line ends of any kind, empty rows and cells, a line ``sep=;`` and rows above the header.
        columns: Column -> what it may be called; case, spaces and what stands in brackets do not matter.
        also: Further columns that a table may have, as `plain_title` gives their titles.
        most_cells: Cells at most, empty ones included; None = as many as there are.

    Returns:
        One mapping a row, of `columns` and `also` only, with cells stripped of spaces; those of `also` may be empty. Rows without any content are left out.

    Raises:
        ValueError: When a column is missing, or a row has cells beyond the header's or lacks some of `columns`.
        InputError: `capture.table_too_large`: more than `most_cells`, or a row of more than `MAX_COLUMNS` cells. It comes before
            a cell is made, each of which takes some 60 bytes of memory for two of the file.
    """
    _refuse_more_cells(1 + text.count("\n") + text.count("\r"), most_cells)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    delimiters: tuple[str, ...] = DELIMITERS
    if lines and (marker := re.fullmatch(r'"?sep=(.)"?', lines[0].strip(), re.IGNORECASE)):
        lines, delimiters = lines[1:], (str(marker[1]),)
    wanted = {name: {plain_title(name), *map(plain_title, others)} for name, others in columns.items()}
    seen: list[str] = []
    for delimiter in delimiters:
        columns_at_most = 1 + max(line.count(delimiter) for line in lines)
        if columns_at_most > MAX_COLUMNS:
            message = f"a row of the table has {columns_at_most} columns; at most {MAX_COLUMNS} are read"
            raise InputError("capture.table_too_large", message)
        _refuse_more_cells(len(lines) + text.count(delimiter), most_cells)
        table = [[_content(cell) for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
        for index, header in enumerate(table[:HEADER_ROWS]):
            plain = [plain_title(cell) for cell in header]
            found = {name: [at for at, cell in enumerate(plain) if cell in names] for name, names in wanted.items()}
            if all(found.values()):
                if twice := [name for name, places in found.items() if len(places) > 1]:
                    raise ValueError(f"the column {twice[0]} stands twice")
                more = {title: at for at, title in enumerate(plain) if title in also}
                return list(_rows(table, index, {name: places[0] for name, places in found.items()}, more))
        first = next((row for row in table if any(row)), [])
        seen = max(seen, [cell for cell in first if cell], key=len)
    raise ValueError(f"the columns {' and '.join(columns)} are wanted; the table has {', '.join(seen[:8]) or 'none'}")


def number(text: object) -> float:
    """A number as people write it: with a decimal comma, a degree sign, spaces, a typographic minus.

    Raises:
        ValueError: For anything else, and for a comma beside a point.
    """
    plain = re.sub(r"\s|°|º", "", str(text)).replace("−", "-")
    plain = re.sub(r"deg(rees?)?$", "", plain, flags=re.IGNORECASE)
    return float(plain.replace(",", ".") if "." not in plain and plain.count(",") == 1 else plain)


def matched(name: str, names: set[str]) -> str | None:
    """Which of some file names is meant: the very name, else one that differs in Unicode form, in case, or by its ending alone.

    Args:
        name: As a table has it, perhaps without an ending.
        names: As they are on disk.

    Returns:
        None where there is none.

    Raises:
        ValueError: When several could be meant.
    """
    if name in names:
        return name
    for form in (_composed, _folded, _stem):
        found = sorted(known for known in names if form(known) == (_folded(name) if form is _stem else form(name)))
        if len(found) > 1:
            raise ValueError(f"{name!r} may be {found[0]!r} or {found[1]!r}")
        if found:
            return found[0]
    return None


def _content(cell: str) -> str:
    """A cell without blanks, and without the formula ``="000"`` by which Excel keeps zeros."""
    text = cell.strip(" \t\xa0\ufeff")
    return text[2:-1].strip() if len(text) > 2 and text.startswith('="') and text.endswith('"') else text


def _refuse_more_cells(cells: int, most: int | None) -> None:
    if most is not None and cells > most:
        raise InputError("capture.table_too_large", f"the table has {cells} cells; at most {most} are read")


def _rows(
    table: list[list[str]], header: int, places: Mapping[str, int], more: Mapping[str, int]
) -> Iterator[dict[str, str]]:
    titled = {at for at, cell in enumerate(table[header]) if cell}
    for index, row in enumerate(table[header + 1 :], header + 2):
        if not any(row):
            continue
        beyond = [cell for at, cell in enumerate(row) if cell and at not in titled]
        if beyond:
            raise ValueError(f"row {index} has a cell {beyond[0]!r} that belongs to no column")
        lacking = [name for name, at in places.items() if at >= len(row) or not row[at]]
        if lacking:
            raise ValueError(f"row {index} has no {lacking[0]}")
        yield {name: row[at] if at < len(row) else "" for name, at in {**more, **places}.items()}


def plain_title(title: str) -> str:
    """``Azimuth [deg]`` and ``azimuth`` are one title, and so are ``Product ID`` and ``product_id``."""
    return re.sub(r"\(.*?\)|\[.*?\]|[\s_\-.\"'\ufeff°]", "", unicodedata.normalize("NFC", title)).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _stem(name: str) -> str:
    return _folded(name).rpartition(".")[0]
