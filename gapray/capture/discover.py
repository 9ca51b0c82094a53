"""Discovery of capture sets: one product per subfolder, or a single product's folder, anywhere fsspec can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Literal

from gapray.capture.angles import angle_difference
from gapray.capture.azimuth_table import TABLE_NAMES, read_table
from gapray.capture.azimuths import AzimuthOptions, Reading, orient, read_names, refuse_gaps
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.capture.kinds import SIDE_FOLDERS, no_photos, refuse_unfinished
from gapray.capture.source_folders import (
    SourceFolder,
    SourceTree,
    any_photo_below,
    find_root,
    is_output,
    joined_path,
    listed_folders,
    locations_of,
)
from gapray.capture.stems import by_name
from gapray.capture.storage import ArchiveLimits, canonical_uri, listing_of, printable
from gapray.errors import GaprayError, InputError

SESSION_FOLDERS = frozenset({"capture", "output"})
"""A folder with these, compared case-insensitively, is a session of Capture One, not a folder of products."""
PRODUCT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class DiscoverOptions:
    """How to find and read products in a source of photos."""

    azimuths: AzimuthOptions = AzimuthOptions()
    layout: Literal["auto", "product", "products"] = "auto"
    """`product`: the source is one product. `products`: each subfolder is one. `auto`: whichever the source looks like."""
    given: int | None = None
    """Number of even steps to which a denser capture is thinned; the other photos are held out for scoring."""
    apart: tuple[str, ...] = ()
    """Paths or URIs of files and folders inside the source that are not part of it, such as the catalogue or a report."""
    archive: ArchiveLimits = ArchiveLimits()
    """Limits on a zip file."""

    def changed(self) -> list[str]:
        """Names of the options of reading photos and azimuths that are not at their default."""
        default = DiscoverOptions()
        azimuths = [name for name, value in vars(self.azimuths).items() if value != getattr(default.azimuths, name)]
        return azimuths + [name for name in ("layout", "given") if getattr(self, name) != getattr(default, name)]


def discover(
    uri: str, options: DiscoverOptions = DiscoverOptions(), *, beside: list[str] | None = None
) -> list[CaptureSet]:
    """All capture sets below `uri`, sorted by product.

    Args:
        uri: Local folder, zip file, or fsspec URI (``s3://``, ``gs://``, ``memory://`` …).
        options: Layout, and how names become azimuths.
        beside: Receives the names of unused files and folders next to the products; folders end with '/'.

    Raises:
        InputError: The `capture.*` error of the first product that cannot be used. `scan` yields it as a `Reject` instead.
    """
    captures: list[CaptureSet] = []
    for item in scan(uri, options, beside=beside):
        if isinstance(item, Reject):
            raise InputError(item.code, f"{item.product_id}: {item.message}")
        captures.append(item)
    return captures


def scan(
    uri: str, options: DiscoverOptions = DiscoverOptions(), *, beside: list[str] | None = None
) -> Iterator[CaptureSet | Reject]:
    """Yield the capture sets below `uri` one at a time; a product that cannot be used is yielded as a `Reject`.

    Args:
        uri: Local folder, zip file, or fsspec URI.
        options: Layout, and how names become azimuths.
        beside: Receives the names of unused files and folders next to the products; folders end with '/'.

    Raises:
        InputError: When the source itself cannot be used: `capture.not_found`, `capture.unreadable`,
            `capture.invalid_archive`, `capture.archive_too_large`, `capture.invalid_name`, `capture.no_photos`,
            `capture.unfinished`, `capture.ambiguous_layout`, or `capture.source_is_output` when results are written there.
    """
    beside = [] if beside is None else beside
    if printable(uri) != uri:
        raise InputError("capture.invalid_name", f"{printable(uri)}: not in UTF-8")
    source = SourceTree(
        uri, listing_of(uri, options.archive), frozenset(chain.from_iterable(map(locations_of, options.apart)))
    )
    if canonical_uri(uri) in source.excluded:
        raise InputError("capture.source_is_output", f"{uri} is both where photos are and where results go")
    root, folder, passed = find_root(source)
    if options.layout == "auto":
        _refuse_ambiguous_layout(source, root, folder)
    if options.layout == "product" or (options.layout == "auto" and folder.photos):
        if not folder.photos and not any_photo_below(source, root):
            raise no_photos(uri, folder.unused)
        name = root.rpartition("/")[2] or _stem_of_zip(PurePosixPath(uri.rstrip("/")).name) or "product"
        beside += passed
        deeper = [] if folder.photos else _folders_of_photos(source, root, folder)
        yield _capture_set(name, uri, folder, options, deeper)
        return
    sides = [f"{child}/" for child in folder.children if child in SIDE_FOLDERS]
    beside += [*passed, *(printable(entry.name) for entry in [*folder.photos, *folder.others]), *folder.hidden, *sides]
    withheld: list[CaptureSet | Reject] | None = []
    folders = [joined_path(root, child) for child in folder.children if child not in SIDE_FOLDERS]
    for path, subfolder in listed_folders(source, folders):
        if isinstance(subfolder, SourceFolder) and not subfolder.photos and is_output(source, path, subfolder):
            beside.append(f"{printable(path.rpartition('/')[2])}/")
            continue
        deeper = (
            [] if isinstance(subfolder, InputError) or subfolder.photos else _folders_of_photos(source, path, subfolder)
        )
        item = _capture_set(path.rpartition("/")[2], f"{uri.rstrip('/')}/{path}", subfolder, options, deeper)
        if withheld is None:
            yield item
        elif isinstance(subfolder, InputError) or subfolder.photos or subfolder.in_transfer:
            yield from [*withheld, item]
            withheld = None
        else:
            withheld.append(item)
    if withheld is not None:
        # No product has photos, so the source itself is at fault, unless there are photos deeper in it.
        if not folder.photos and not any_photo_below(source, root):
            raise no_photos(uri, [*beside, *chain.from_iterable(item.ignored for item in withheld)])
        yield from withheld


def _refuse_ambiguous_layout(source: SourceTree, root: str, folder: SourceFolder) -> None:
    """Refuse a root with photos as well as folders of photos, or with the folders of a session of Capture One.

    Those of a session hold the photos of one shoot at different stages, and are no products.

    Raises:
        InputError: `capture.ambiguous_layout`.
    """
    is_session = {name.casefold() for name in folder.children} >= SESSION_FOLDERS
    if not (folder.photos or is_session):
        return
    if found := _folders_of_photos(source, root, folder):
        shown = ", ".join(map(printable, found[:5]))
        message = f"{source.uri} holds photos and folders of photos ({shown})"
        if not folder.photos:
            message = (
                f"{joined_path(source.uri.rstrip('/'), root).rstrip('/')} is a session of Capture One, with photos in {shown}: put those "
                "to be used into a folder that has the product's name"
            )
        raise InputError("capture.ambiguous_layout", message)


def _folders_of_photos(source: SourceTree, path: str, folder: SourceFolder) -> list[str]:
    """Names of a folder's subfolders that hold photos, at any depth."""
    return [
        name
        for name in folder.children
        if name not in SIDE_FOLDERS and any_photo_below(source, joined_path(path, name))
    ]


def _capture_set(
    product_id: str, uri: str, folder: SourceFolder | InputError, options: DiscoverOptions, deeper: list[str]
) -> CaptureSet | Reject:
    """The capture set in a folder; `deeper` are the names of its subfolders that hold photos, if it holds none."""
    unused: set[str] = set()
    try:
        if isinstance(folder, InputError):
            raise folder
        unused.update(folder.unused)
        unused.update(f"{printable(name)}/" for name in folder.children)
        if PRODUCT_ID.fullmatch(product_id) is None:
            raise InputError("capture.invalid_product_id", f"{printable(product_id)!r} cannot be a product id")
        photos = {entry.name: entry for entry in folder.photos}
        tables = {entry.name.lower(): entry for entry in reversed(folder.others)}
        table = next((tables[name] for name in TABLE_NAMES if name in tables), None)
        if table is None:  # a table names the photos that it is about
            refuse_unfinished(sorted(unused), [*map(printable, photos)])
        if not photos:
            error = no_photos(printable(uri), [name for name in sorted(unused) if name.rstrip("/") not in deeper])
            where = f". Photos in its folders are not read: {', '.join(map(printable, deeper[:5]))}" if deeper else ""
            raise InputError(error.code, error.message + where)
        unnamed = [printable(name) for name in photos if printable(name) != name]
        if unnamed:
            raise InputError("capture.invalid_name", f"{', '.join(unnamed[:3])}: not in UTF-8")
        unsafe = [entry.name for entry in photos.values() if not entry.safe]
        if unsafe:
            raise InputError("capture.unsafe_path", f"{', '.join(unsafe[:3])} is a link, or a path, out of the source")
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
    """The photos nearest to `given` even steps from 0 degrees; all when `given` is None or there are no more than that."""
    if given is None or len(ordered) <= given:
        return ordered
    off = [[abs(angle_difference(azimuth, 360 * step / given)) for _, azimuth in ordered] for step in range(given)]
    chosen = {min(range(len(ordered)), key=row.__getitem__) for row in off}
    return [item for index, item in enumerate(ordered) if index in chosen]


def _stem_of_zip(name: str) -> str:
    return name[: -len(".zip")] if name.lower().endswith(".zip") else name
