"""Find capture sets: one product a subfolder, or one folder of one product, anywhere fsspec reads."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from gapray.capture.azimuths import AzimuthOptions, Reading, by_name, orient, read_names, refuse_gaps, turned
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.capture.kinds import HEAD_BYTES, SIDE_FOLDERS, is_photo, is_visible
from gapray.capture.storage import (
    ArchiveLimits,
    Entry,
    Listing,
    is_local,
    listing_of,
    place_of,
    printable,
    read_bytes,
    read_head,
)
from gapray.capture.tables import matched, number, plain_title, rows_of, texts
from gapray.errors import GaprayError, InputError

TABLE_NAMES = ("capture.csv", "capture.json", "views.json")
"""Compared without regard to case."""
COLUMNS = {"file": ("filename",), "azimuth": ("azimuth_deg", "azimuth_degrees")}
DIRECTIONS = {
    **dict.fromkeys(("cw", "clockwise", "right"), "cw"),
    **dict.fromkeys(("ccw", "acw", "counterclockwise", "anticlockwise", "left"), "ccw"),
}
"""What a table may call a direction, as `plain_title` gives it -> that of `AzimuthOptions`."""
DIRECTION_TITLES = frozenset({"direction", "turndirection", "rotationdirection", "spindirection"})
PRODUCT_TITLES = frozenset(
    {"product", "productid", "productname", "sku", "gtin", "ean", "upc", "asin", "article", "articlenumber", "variant"}
)
"""Titles of columns that would change what a table says, as `plain_title` gives them."""
CATALOG_FOLDERS = {"products": ".parquet", "rejects": ".parquet", "manifests": ".parquet", "runs": ".json"}
"""A folder with such files in a folder of this name is a catalogue: a run that was killed early leaves the last two alone."""
REPORT_FILES = frozenset({"data.js", "report.js"})
"""A folder with these is a report."""
LISTED_AHEAD = 256
"""Folders of a bucket that are listed before the first of them is used."""
MAX_TABLE_BYTES = 2**20
MAX_TABLE_CELLS = 200_000
"""Most cells in a table of one product's photos."""
PRODUCT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class DiscoverOptions:
    """What a user can say about a source of photos."""

    azimuths: AzimuthOptions = AzimuthOptions()
    layout: Literal["auto", "product", "products"] = "auto"
    """`product`: the source is one product. `products`: each subfolder is one."""
    given: int | None = None
    """Number of even steps to which the photos of a denser capture are thinned; the others stay hidden, for scoring."""
    apart: tuple[str, ...] = ()
    """Paths or URIs of files and folders that are no part of a source in which they lie: the catalogue, a report."""
    archive: ArchiveLimits = ArchiveLimits()
    """What a zip file may list."""


@dataclass(frozen=True)
class _Folder:
    """What lies in one folder of a source."""

    photos: list[Entry]
    others: list[Entry]
    """Other files that people see."""
    children: list[str]
    """Subfolders that may hold products or photos."""
    aside: list[str]
    """Names of what systems and programs put there, and of hidden files; folders end with '/'."""


def discover(
    uri: str, options: DiscoverOptions = DiscoverOptions(), *, beside: list[str] | None = None
) -> list[CaptureSet]:
    """All capture sets below `uri`, sorted by product.

    Args:
        uri: Local folder, zip file, or fsspec URI (``s3://``, ``gs://``, ``memory://`` …).
        options: Layout, and how names become azimuths.
        beside: Gains what lies beside the products and is not used; folders end with '/'.

    Raises:
        InputError: The first product's `capture.*` error. `scan` goes on instead and yields it as a `Reject`.
    """
    found: list[CaptureSet] = []
    for item in scan(uri, options, beside=beside):
        if isinstance(item, Reject):
            raise InputError(item.code, f"{item.product_id}: {item.message}")
        found.append(item)
    return found


def scan(
    uri: str, options: DiscoverOptions = DiscoverOptions(), *, beside: list[str] | None = None
) -> Iterator[CaptureSet | Reject]:
    """As `discover`, one product at a time; a product that cannot be used comes as a `Reject`.

    Args:
        uri: Local folder, zip file, or fsspec URI.
        options: Layout, and how names become azimuths.
        beside: Gains what lies beside the products and is not used; folders end with '/'.

    Raises:
        InputError: When the source itself cannot be listed (`capture.not_found`, `capture.unreadable`,
            `capture.invalid_archive`, `capture.archive_too_large`, `capture.no_photos`, `capture.ambiguous_layout`), or is
            where results go (`capture.source_is_output`).
    """
    beside = [] if beside is None else beside
    if printable(uri) != uri:
        raise InputError("capture.invalid_name", f"{printable(uri)}: not in UTF-8")
    source = _Source(
        uri, listing_of(uri, options.archive), frozenset(place for path in options.apart for place in _places(path))
    )
    if place_of(uri) in source.apart:
        raise InputError("capture.source_is_output", f"{uri} is both where photos are and where results go")
    root, folder, passed = _root(source)
    if options.layout == "auto" and folder.photos:
        _refuse_both(source, root, folder.children)
    if options.layout == "product" or (options.layout == "auto" and folder.photos):
        if not folder.photos and not _photos_below(source, root):
            raise InputError("capture.no_photos", f"no photo lies in {uri}")
        name = root.rpartition("/")[2] or PurePosixPath(uri.rstrip("/").removesuffix(".zip")).name or "product"
        beside += passed
        yield _capture_set(name, uri, folder, options)
        return
    sides = [f"{child}/" for child in folder.children if child in SIDE_FOLDERS]
    beside += [*passed, *(printable(entry.name) for entry in [*folder.photos, *folder.others]), *folder.aside, *sides]
    held: list[CaptureSet | Reject] | None = []
    folders = [_joined(root, child) for child in folder.children if child not in SIDE_FOLDERS]
    for path, found in _looked_at(source, folders):
        if isinstance(found, _Folder) and not found.photos and _is_output(source, path, found):
            beside.append(f"{printable(path.rpartition('/')[2])}/")
            continue
        item = _capture_set(path.rpartition("/")[2], f"{uri.rstrip('/')}/{path}", found, options)
        if held is None:
            yield item
        elif isinstance(found, InputError) or found.photos:
            yield from [*held, item]
            held = None
        else:
            held.append(item)
    if held is not None:
        # Not one product has photos: then it is the source that is wrong, unless photos lie deeper in it.
        if not folder.photos and not _photos_below(source, root):
            raise InputError("capture.no_photos", f"no photo lies in {uri}")
        yield from held


@dataclass(frozen=True)
class _Source:
    uri: str
    listing: Listing
    apart: frozenset[str]

    def look(self, path: str) -> _Folder:
        """What lies in a folder below the root.

        Raises:
            InputError: As `Listing.look`.
        """
        files, children = self.listing.look(path)
        here = place_of(_joined(self.uri.rstrip("/"), path)) if self.apart else ""
        inside = {name for name in [*children, *(entry.name for entry in files)] if f"{here}/{name}" in self.apart}
        for name in inside.intersection(children):
            if self._holds_a_product(_joined(path, name)):
                place = _joined(self.uri.rstrip("/"), _joined(path, name))
                raise InputError("capture.source_is_output", f"{place} holds photos, and is where results go")
        seen = [entry for entry in files if is_visible(entry.name) and entry.name not in inside]
        photos = [entry for entry in seen if _is_photo(entry)]
        chosen = {entry.name for entry in photos}
        aside = [entry.name for entry in files if not is_visible(entry.name)]
        aside += [f"{name}/" for name in children if not is_visible(name)]
        return _Folder(
            photos,
            [entry for entry in seen if entry.name not in chosen],
            [name for name in children if is_visible(name) and name not in inside],
            list(map(printable, aside)),
        )

    def _holds_a_product(self, path: str) -> bool:
        """Whether photos lie in a folder that results would go to, and it is no catalogue or report yet."""
        try:
            found = self.look(path)
        except InputError:
            return False  # a link out of the source, or what cannot be listed
        return bool(found.photos) and not _is_output(self, path, found)


def _places(path: str) -> tuple[str, str]:
    """Where something lies, itself and, if it is a link, where the link lies."""
    folder, _, name = (os.path.abspath(path) if is_local(path) else path.rstrip("/")).rpartition("/")
    return place_of(path), f"{place_of(folder)}/{name}"


def _root(source: _Source) -> tuple[str, _Folder, list[str]]:
    """The folder that holds the products, what is in it, and what was passed by on the way to it.

    An archive's single outer folder is walked into.
    """
    root, folder = "", source.look("")
    passed: list[str] = []
    while not folder.photos and len(folder.children) == 1:
        inner = _joined(root, folder.children[0])
        try:
            found = source.look(inner)
        except InputError:
            break  # a product's folder that cannot be listed: its reject says so
        if found.photos or _is_output(source, inner, found):
            break
        passed += [*(printable(entry.name) for entry in folder.others), *folder.aside]
        root, folder = inner, found
    return root, folder, passed


def _refuse_both(source: _Source, root: str, children: list[str]) -> None:
    others = [name for name in children if name not in SIDE_FOLDERS and _photos_below(source, _joined(root, name))]
    if others:
        shown = ", ".join(map(printable, others[:5]))
        raise InputError("capture.ambiguous_layout", f"{source.uri} holds photos and folders of photos ({shown})")


def _photos_below(source: _Source, path: str) -> bool:
    try:
        folder = source.look(path)
    except InputError:
        return False  # nothing can be said of what lies there
    if folder.photos or _is_output(source, path, folder):
        return bool(folder.photos)
    return any(_photos_below(source, _joined(path, child)) for child in folder.children)


def _is_output(source: _Source, path: str, folder: _Folder) -> bool:
    """Whether a folder without photos is what gapray itself wrote earlier: a catalogue, a report or a GAP folder."""
    names = {entry.name for entry in folder.others}
    if "multiview_manifest.json" in names or names >= REPORT_FILES:
        return True
    for name, suffix in CATALOG_FOLDERS.items():
        if name in folder.children:
            try:
                if any(entry.name.endswith(suffix) for entry in source.look(_joined(path, name)).others):
                    return True
            except InputError:
                continue  # nothing can be said of what lies there
    return False


def _looked_at(source: _Source, paths: list[str]) -> Iterator[tuple[str, _Folder | InputError]]:
    """Each folder, or why it cannot be listed, in order; of a bucket many are asked for at once."""

    def look(path: str) -> _Folder | InputError:
        try:
            return source.look(path)
        except InputError as error:
            return error

    if source.listing.at_once == 1:
        yield from ((path, look(path)) for path in paths)
        return
    with ThreadPoolExecutor(source.listing.at_once) as threads:
        for start in range(0, len(paths), LISTED_AHEAD):
            chosen = paths[start : start + LISTED_AHEAD]
            yield from zip(chosen, threads.map(look, chosen), strict=True)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _capture_set(
    product_id: str, uri: str, folder: _Folder | InputError, options: DiscoverOptions
) -> CaptureSet | Reject:
    unused: set[str] = set()
    try:
        if isinstance(folder, InputError):
            raise folder
        unused.update([*folder.aside, *(printable(entry.name) for entry in folder.others)])
        unused.update(f"{printable(name)}/" for name in folder.children)
        if PRODUCT_ID.fullmatch(product_id) is None:
            raise InputError("capture.invalid_product_id", f"{printable(product_id)!r} cannot be a product id")
        photos = {entry.name: entry for entry in folder.photos}
        if not photos:
            raise InputError("capture.no_photos", f"no photo lies in {printable(uri)}")
        unnamed = [printable(name) for name in photos if printable(name) != name]
        if unnamed:
            raise InputError("capture.invalid_name", f"{', '.join(unnamed[:3])}: not in UTF-8")
        unsafe = [entry.name for entry in photos.values() if not entry.safe]
        if unsafe:
            raise InputError("capture.unsafe_path", f"{', '.join(unsafe[:3])} is a link, or a path, out of the source")
        tables = {entry.name.lower(): entry for entry in reversed(folder.others)}
        table = next((tables[name] for name in TABLE_NAMES if name in tables), None)
        if table is None:
            reading = read_names(by_name(list(photos)), options.azimuths)
        else:
            unused.discard(table.name)
            reading = Reading(
                orient(read_table(table, set(photos), options.azimuths.direction), options.azimuths), "table"
            )
            refuse_gaps(reading.azimuths, allow_missing=options.azimuths.allow_missing)
        unused.update(set(photos) - set(reading.azimuths))
    except GaprayError as error:
        tables_beside = sorted(
            name for name in unused if name.lower().endswith((".csv", ".tsv", ".xlsx", ".ods", ".json"))
        )
        if error.code == "capture.ambiguous_azimuths" and tables_beside:
            error = InputError(
                error.code, f"{error.message}; {tables_beside[0]} is not read, the table's name is capture.csv"
            )
        return Reject.of(printable(product_id), printable(uri), error, tuple(sorted(unused)))
    ordered = _thinned(sorted(reading.azimuths.items(), key=lambda item: item[1]), options.given)
    return CaptureSet(
        product_id,
        uri,
        tuple(
            Photo(name, photos[name].uri, azimuth, photos[name].size, photos[name].stamp) for name, azimuth in ordered
        ),
        reading.by,
        tuple(sorted(unused)),
    )


def _thinned(ordered: list[tuple[str, float]], given: int | None) -> list[tuple[str, float]]:
    """The photos nearest to `given` even steps from 0 degrees."""
    if given is None or len(ordered) <= given:
        return ordered
    off = [[abs(turned(azimuth, 360 * step / given)) for _, azimuth in ordered] for step in range(given)]
    chosen = {min(range(len(ordered)), key=row.__getitem__) for row in off}
    return [item for index, item in enumerate(ordered) if index in chosen]


def read_table(entry: Entry, photos: set[str], direction: Literal["ccw", "cw"] = "ccw") -> dict[str, float]:
    """File -> azimuth from `capture.csv` (columns file, azimuth) or `capture.json` / `views.json`.

    JSON is a list of objects, such a list under ``frames`` or ``views``, or a plain mapping of file to azimuth. The
    azimuth's field may be ``azimuth`` or ``azimuth_deg``; degrees of any size are taken modulo 360. Dialects of CSV,
    encodings and spellings of names: `gapray.capture.tables`. A table that names another direction than is meant, or more than one
    product, is refused; other columns are not looked at.

    Args:
        entry: The table.
        photos: Names of the photos beside it.
        direction: In which its azimuths are meant to grow.

    Returns:
        Names as they are in `photos`, by azimuth in [0, 360) degrees.

    Raises:
        InputError: `capture.invalid_table`, `capture.table_too_large`, or `capture.unsafe_path` when a row names a file elsewhere.
    """
    if entry.size > MAX_TABLE_BYTES:
        message = f"{entry.name} has {entry.size} bytes; at most {MAX_TABLE_BYTES} are read"
        raise InputError("capture.table_too_large", message)
    try:
        data = read_bytes(entry.uri, MAX_TABLE_BYTES)
    except InputError as error:
        raise InputError("capture.invalid_table", f"{entry.name}: {error.message}") from error
    first: InputError | None = None
    for text in texts(data):
        try:
            return _azimuths(entry.name, text, photos, direction)
        except InputError as error:
            first = first or error
    assert first is not None  # there is always a text
    raise first


def _azimuths(table: str, text: str, photos: set[str], direction: str) -> dict[str, float]:
    try:
        if table.lower().endswith(".csv"):
            rows = rows_of(text, COLUMNS, also=DIRECTION_TITLES | PRODUCT_TITLES, most_cells=MAX_TABLE_CELLS)
        else:
            rows = _json_rows(json.loads(text))
        _refuse_contradictions(rows, direction)
        azimuths: dict[str, float] = {}
        for row in rows:
            name = str(row["file"]).strip()
            azimuth = number(row["azimuth"] if "azimuth_deg" not in row else row["azimuth_deg"])
            if row.get("azimuth") not in (None, "") and number(row["azimuth"]) != azimuth:
                raise ValueError(f"{name} has two azimuths")
            if not abs(azimuth) < 1e6:
                raise ValueError(f"azimuth {azimuth} of {name}")
            if "/" in name or "\\" in name or name.startswith(".."):
                raise InputError("capture.unsafe_path", f"{table} names {name!r}, which is not a file beside it")
            photo = matched(name, photos)
            if photo is None:
                raise ValueError(f"there is no photo {name!r}")
            if photo in azimuths:
                raise ValueError(f"{name} stands twice")
            azimuths[photo] = azimuth % 360.0
    except (csv.Error, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError("capture.invalid_table", f"{table}: {type(error).__name__}: {error}") from error
    return dict(sorted(azimuths.items(), key=lambda item: item[1]))


def _refuse_contradictions(rows: list[dict[str, str]], direction: str) -> None:
    """Refuse a table by what its other columns say.

    Raises:
        ValueError: When they name another direction, or more than one product.
    """
    for title in sorted({key for row in rows for key in row}):
        told = sorted({str(row[title]) for row in rows if row.get(title) not in (None, "")})
        if plain_title(title) in DIRECTION_TITLES:
            other = [word for word in told if DIRECTIONS.get(plain_title(word)) != direction]
            if other:
                raise ValueError(
                    f"the column {title} says {other[0]!r}, and the azimuths are read as {direction}: pass --direction cw "
                    "(in a request: direction=cw) if they grow clockwise, and take the column out if it means something else"
                )
        elif plain_title(title) in PRODUCT_TITLES and len(told) > 1:
            raise ValueError(f"the column {title} names more than one product: {', '.join(told[:5])}")


def _json_rows(data: object) -> list[dict[str, str]]:
    if isinstance(data, dict):
        inner = data.get("frames", data.get("views"))
        of_all = {str(key): value for key, value in data.items() if isinstance(value, str)}
        if inner is None:
            return [{"file": name, "azimuth": azimuth} for name, azimuth in data.items()]
        data = [{**of_all, **row} for row in inner]
    if not isinstance(data, list):
        raise ValueError("neither a list nor a mapping")
    return [{str(key).strip().lower(): value for key, value in row.items()} for row in data]


def _is_photo(entry: Entry) -> bool:
    return is_photo(entry.name, lambda: read_head(entry.uri, HEAD_BYTES))
