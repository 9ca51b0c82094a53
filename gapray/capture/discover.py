"""Find capture sets: one product a subfolder, or one folder of one product, anywhere fsspec reads."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from gapray.capture.azimuths import AzimuthOptions, Reading, orient, read_names, refuse_gaps, turned
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.capture.storage import Entry, Listing, listing_of, read_bytes
from gapray.errors import GaprayError, InputError

PHOTO_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp", ".gif"}
)
TABLE_NAMES = ("capture.csv", "capture.json", "views.json")
SIDE_FOLDERS = frozenset({"mask", "masks", "depth", "depths", "truth", "held_out", "thumbnails"})
"""Folders beside a product's photos that are not products."""
LISTED_AHEAD = 256
"""Folders of a bucket that are listed before the first of them is used."""
MAX_TABLE_BYTES = 4 * 2**20
PRODUCT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class DiscoverOptions:
    """What a user can say about a source of photos."""

    azimuths: AzimuthOptions = AzimuthOptions()
    layout: Literal["auto", "product", "products"] = "auto"
    """`product`: the source is one product. `products`: each subfolder is one."""
    given: int | None = None
    """Of a denser capture only the photos nearest to so many even steps; the others stay hidden, for scoring."""


def discover(uri: str, options: DiscoverOptions = DiscoverOptions()) -> list[CaptureSet]:
    """All capture sets below `uri`, sorted by product.

    Args:
        uri: Local folder, zip file, or fsspec URI (``s3://``, ``gs://``, ``memory://`` …).
        options: Layout, and how names become azimuths.

    Raises:
        InputError: The first product's `capture.*` error. `scan` goes on instead and yields it as a `Reject`.
    """
    found: list[CaptureSet] = []
    for item in scan(uri, options):
        if isinstance(item, Reject):
            raise InputError(item.code, f"{item.product_id}: {item.message}")
        found.append(item)
    return found


def scan(uri: str, options: DiscoverOptions = DiscoverOptions()) -> Iterator[CaptureSet | Reject]:
    """As `discover`, one product at a time; a product that cannot be used comes as a `Reject`.

    Raises:
        InputError: When the source itself cannot be listed (`capture.not_found`, `capture.unreadable`,
            `capture.invalid_archive`, `capture.no_photos`, `capture.ambiguous_layout`).
    """
    source = listing_of(uri)
    root, files, children = _root(source)
    photographed = any(map(_is_photo, files))
    if options.layout == "auto" and photographed:
        _refuse_both(uri, source, root, children)
    if options.layout == "product" or (options.layout == "auto" and photographed):
        if not photographed and not _photos_below(source, root):
            raise InputError("capture.no_photos", f"no photo lies in {uri}")
        name = root.rpartition("/")[2] or PurePosixPath(uri.rstrip("/").removesuffix(".zip")).name or "product"
        yield _capture_set(name, uri, files, options)
        return
    held: list[CaptureSet | Reject] | None = []
    folders = [_joined(root, child) for child in children if child not in SIDE_FOLDERS]
    for folder, entries in _files_of(source, folders):
        item = _capture_set(folder.rpartition("/")[2], f"{uri.rstrip('/')}/{folder}", entries, options)
        if held is None:
            yield item
        elif isinstance(entries, InputError) or any(map(_is_photo, entries)):
            yield from [*held, item]
            held = None
        else:
            held.append(item)
    if held is not None:
        # Not one product has photos: then it is the source that is wrong, unless photos lie deeper in it.
        if not photographed and not _photos_below(source, root):
            raise InputError("capture.no_photos", f"no photo lies in {uri}")
        yield from held


def _root(source: Listing) -> tuple[str, list[Entry], list[str]]:
    """The folder that holds the products, with what is in it: an archive's single outer folder is walked into."""
    root, (files, children) = "", _look(source, "")
    while not any(map(_is_photo, files)) and len(children) == 1:
        inner = _joined(root, children[0])
        try:
            inner_files, inner_children = _look(source, inner)
        except InputError:
            break  # a product's folder that cannot be listed: its reject says so
        if any(map(_is_photo, inner_files)):
            break
        root, files, children = inner, inner_files, inner_children
    return root, files, children


def _refuse_both(uri: str, source: Listing, root: str, children: list[str]) -> None:
    others = [name for name in children if name not in SIDE_FOLDERS and _photos_below(source, _joined(root, name))]
    if others:
        shown = ", ".join(others[:5])
        raise InputError("capture.ambiguous_layout", f"{uri} holds photos and folders of photos ({shown})")


def _photos_below(source: Listing, folder: str) -> bool:
    try:
        files, children = _look(source, folder)
    except InputError:
        return False  # nothing can be said of what lies there
    return any(map(_is_photo, files)) or any(_photos_below(source, _joined(folder, child)) for child in children)


def _files_of(source: Listing, folders: list[str]) -> Iterator[tuple[str, list[Entry] | InputError]]:
    """Each folder with its files, or why it cannot be listed, in order; of a bucket many are asked for at once."""

    def files(folder: str) -> list[Entry] | InputError:
        try:
            return _look(source, folder)[0]
        except InputError as error:
            return error

    if source.at_once == 1:
        yield from ((folder, files(folder)) for folder in folders)
        return
    with ThreadPoolExecutor(source.at_once) as threads:
        for start in range(0, len(folders), LISTED_AHEAD):
            chosen = folders[start : start + LISTED_AHEAD]
            yield from zip(chosen, threads.map(files, chosen), strict=True)


def _look(source: Listing, folder: str) -> tuple[list[Entry], list[str]]:
    """As `Listing.look`, without what is hidden."""
    files, children = source.look(folder)
    return [one for one in files if _is_visible(one.name)], [one for one in children if _is_visible(one)]


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _capture_set(
    product_id: str, uri: str, entries: list[Entry] | InputError, options: DiscoverOptions
) -> CaptureSet | Reject:
    try:
        if PRODUCT_ID.fullmatch(product_id) is None:
            raise InputError("capture.invalid_product_id", f"{product_id!r} cannot be a product id")
        if isinstance(entries, InputError):
            raise entries
        photos = {entry.name: entry for entry in entries if _is_photo(entry)}
        if not photos:
            raise InputError("capture.no_photos", f"no photo lies in {uri}")
        unsafe = [entry.name for entry in photos.values() if not entry.safe]
        if unsafe:
            raise InputError("capture.unsafe_path", f"{', '.join(unsafe[:3])} lies outside the source")
        table = next((entry for name in TABLE_NAMES for entry in entries if entry.name == name), None)
        if table is None:
            reading = read_names(list(photos), options.azimuths)
        else:
            reading = Reading(orient(read_table(table, set(photos)), options.azimuths), "table")
            if not options.azimuths.allow_missing:
                refuse_gaps(reading.azimuths)
    except GaprayError as error:
        return Reject.of(product_id, uri, error)
    ordered = _thinned(sorted(reading.azimuths.items(), key=lambda item: item[1]), options.given)
    return CaptureSet(
        product_id,
        uri,
        tuple(
            Photo(name, photos[name].uri, azimuth, photos[name].size, photos[name].stamp) for name, azimuth in ordered
        ),
        reading.by,
    )


def _thinned(ordered: list[tuple[str, float]], given: int | None) -> list[tuple[str, float]]:
    """The photos nearest to `given` even steps from 0 degrees."""
    if given is None or len(ordered) <= given:
        return ordered
    off = [[abs(turned(azimuth, 360 * step / given)) for _, azimuth in ordered] for step in range(given)]
    chosen = {min(range(len(ordered)), key=row.__getitem__) for row in off}
    return [item for index, item in enumerate(ordered) if index in chosen]


def is_photo_name(name: str) -> bool:
    """Whether a file is named as a photo."""
    return PurePosixPath(name).suffix.lower() in PHOTO_ENDINGS


def read_table(entry: Entry, photos: set[str]) -> dict[str, float]:
    """File -> azimuth from `capture.csv` (columns file, azimuth) or `capture.json` / `views.json`.

    JSON is a list of objects, such a list under ``frames`` or ``views``, or a plain mapping of file to azimuth. The
    azimuth's field may be ``azimuth`` or ``azimuth_deg``; degrees of any size are taken modulo 360.

    Raises:
        InputError: `capture.invalid_table`, or `capture.unsafe_path` when a row names a file elsewhere.
    """
    try:
        text = read_bytes(entry.uri, MAX_TABLE_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text))) if entry.name.endswith(".csv") else _json_rows(json.loads(text))
        azimuths: dict[str, float] = {}
        for row in rows:
            name = str(row["file"]).strip()
            azimuth = float(row["azimuth"] if "azimuth_deg" not in row else row["azimuth_deg"])
            if not abs(azimuth) < 1e6:
                raise ValueError(f"azimuth {azimuth} of {name}")
            if "/" in name or "\\" in name or name.startswith(".."):
                raise InputError("capture.unsafe_path", f"{entry.name} names {name!r}, which is not a file beside it")
            if name in azimuths:
                raise ValueError(f"{name} stands twice")
            if name not in photos:
                raise ValueError(f"there is no photo {name!r}")
            azimuths[name] = azimuth % 360.0
    except InputError as error:
        if error.code == "capture.unsafe_path":
            raise
        raise InputError("capture.invalid_table", f"{entry.name}: {error.message}") from error
    except (csv.Error, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError("capture.invalid_table", f"{entry.name}: {type(error).__name__}: {error}") from error
    return dict(sorted(azimuths.items(), key=lambda item: item[1]))


def _json_rows(data: object) -> list[dict[str, str]]:
    if isinstance(data, dict):
        inner = data.get("frames", data.get("views"))
        if inner is None:
            return [{"file": name, "azimuth": azimuth} for name, azimuth in data.items()]
        data = inner
    if not isinstance(data, list):
        raise ValueError("neither a list nor a mapping")
    return data


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_photo(entry: Entry) -> bool:
    return is_photo_name(entry.name)
