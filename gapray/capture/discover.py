"""Find capture sets: one product a subfolder, or one folder of one product, anywhere fsspec reads."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Literal

from gapray.capture.azimuths import AzimuthOptions, azimuths_from_names, orient, refuse_gaps
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.capture.storage import Entry, list_files, read_bytes
from gapray.errors import GaprayError, InputError

PHOTO_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp", ".gif"}
)
TABLE_NAMES = ("capture.csv", "capture.json", "views.json")
SIDE_FOLDERS = frozenset({"mask", "masks", "depth", "depths", "truth", "held_out", "thumbnails"})
"""Folders beside a product's photos that are not products."""
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
        InputError: When the source itself cannot be listed (`capture.not_found`, `capture.invalid_archive`,
            `capture.no_photos`, `capture.ambiguous_layout`).
    """
    entries = [entry for entry in list_files(uri) if _is_visible(entry)]
    folders = {folder: list(group) for folder, group in groupby(entries, key=lambda entry: entry.folder)}
    photographed = {folder for folder, group in folders.items() if any(_is_photo(entry) for entry in group)}
    if not photographed:
        raise InputError("capture.no_photos", f"no photo lies in {uri}")
    root = _root(folders, photographed)
    layout = options.layout if options.layout != "auto" else _layout(uri, root, photographed)
    if layout == "product":
        name = root.rpartition("/")[2] or PurePosixPath(uri.rstrip("/").removesuffix(".zip")).name or "product"
        yield _capture_set(name, uri, folders.get(root, []), options)
        return
    prefix = root + "/" if root else ""
    children = {folder.removeprefix(prefix).split("/")[0] for folder in folders if folder.startswith(prefix)} - {""}
    for child in sorted(children - SIDE_FOLDERS):
        yield _capture_set(child, uri.rstrip("/") + "/" + prefix + child, folders.get(prefix + child, []), options)


def _root(folders: dict[str, list[Entry]], photographed: set[str]) -> str:
    """The folder that holds the products: an archive's single outer folder is walked into."""
    root = ""
    while root not in photographed:
        prefix = root + "/" if root else ""
        children = {folder.removeprefix(prefix).split("/")[0] for folder in folders if folder.startswith(prefix)} - {""}
        if len(children) != 1 or prefix + next(iter(children)) in photographed:
            break
        root = prefix + next(iter(children))
    return root


def _layout(uri: str, root: str, photographed: set[str]) -> Literal["product", "products"]:
    if root not in photographed:
        return "products"
    prefix = root + "/" if root else ""
    below = {folder.removeprefix(prefix).split("/")[0] for folder in photographed if folder.startswith(prefix)}
    others = sorted(below - SIDE_FOLDERS - {"", root})
    if others:
        shown = ", ".join(others[:5])
        raise InputError("capture.ambiguous_layout", f"{uri} holds photos and folders of photos ({shown})")
    return "product"


def _capture_set(product_id: str, uri: str, entries: list[Entry], options: DiscoverOptions) -> CaptureSet | Reject:
    try:
        if PRODUCT_ID.fullmatch(product_id) is None:
            raise InputError("capture.invalid_product_id", f"{product_id!r} cannot be a product id")
        photos = {entry.name: entry for entry in entries if _is_photo(entry)}
        if not photos:
            raise InputError("capture.no_photos", f"no photo lies in {uri}")
        unsafe = [entry.name for entry in photos.values() if not entry.safe]
        if unsafe:
            raise InputError("capture.unsafe_path", f"{', '.join(unsafe[:3])} lies outside the source")
        table = next((entry for name in TABLE_NAMES for entry in entries if entry.name == name), None)
        if table is None:
            azimuths = azimuths_from_names(list(photos), options.azimuths)
        else:
            azimuths = orient(read_table(table, set(photos)), options.azimuths)
            if not options.azimuths.allow_missing:
                refuse_gaps(azimuths)
    except GaprayError as error:
        return Reject.of(product_id, uri, error)
    ordered = _thinned(sorted(azimuths.items(), key=lambda item: item[1]), options.given)
    return CaptureSet(
        product_id,
        uri,
        tuple(
            Photo(name, photos[name].uri, azimuth, photos[name].size, photos[name].stamp) for name, azimuth in ordered
        ),
    )


def _thinned(ordered: list[tuple[str, float]], given: int | None) -> list[tuple[str, float]]:
    """The photos nearest to `given` even steps from 0 degrees."""
    if given is None or len(ordered) <= given:
        return ordered
    off = [[abs((azimuth - 360 * step / given + 180) % 360 - 180) for _, azimuth in ordered] for step in range(given)]
    chosen = {min(range(len(ordered)), key=row.__getitem__) for row in off}
    return [item for index, item in enumerate(ordered) if index in chosen]


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
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
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


def _is_visible(entry: Entry) -> bool:
    parts = [*entry.folder.split("/"), entry.name]
    return not any(part.startswith(".") and part != "" for part in parts) and "__MACOSX" not in parts


def _is_photo(entry: Entry) -> bool:
    return PurePosixPath(entry.name).suffix.lower() in PHOTO_ENDINGS
