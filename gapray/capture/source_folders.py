"""The folders of a source of photos, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gapray.capture.kinds import HEAD_BYTES, is_photo, is_visible, photo_in_transfer, unfinished
from gapray.capture.storage import Entry, Listing, canonical_uri, is_local, printable, read_head
from gapray.errors import InputError

CATALOG_FOLDERS = {"products": ".parquet", "rejects": ".parquet", "manifests": ".parquet", "runs": ".json"}
"""Subfolder -> extension of the files in it, any of which mark a catalogue: a run that was killed early leaves only the last two."""
REPORT_FILES = frozenset({"data.js", "report.js"})
"""A folder that holds all of these is a report."""
LISTED_AHEAD = 256
"""Number of folders of a bucket that are listed before the first of them is used."""


@dataclass(frozen=True)
class SourceFolder:
    """Content of one folder of a source."""

    photos: list[Entry]
    others: list[Entry]
    """Other visible files."""
    children: list[str]
    """Names of subfolders that may hold products or photos."""
    hidden: list[str]
    """Names of hidden files and of those made by systems and programs; folders end with '/'."""

    @property
    def unused(self) -> list[str]:
        """Printable names of all files that are no photos, and of folders of systems and programs, which end with '/'."""
        return [*self.hidden, *(printable(entry.name) for entry in self.others)]

    @property
    def in_transfer(self) -> bool:
        """Whether it holds photos, but none whose transfer has finished."""
        return not self.photos and bool(unfinished(self.unused, ()))


@dataclass(frozen=True)
class SourceTree:
    """The tree of folders of a source, as its storage lists it."""

    uri: str
    listing: Listing
    excluded: frozenset[str]
    """Canonical URIs of what is not part of the source."""

    def folder(self, path: str) -> SourceFolder:
        """The content of a folder relative to the root.

        Raises:
            InputError: `capture.source_is_output`, or whatever `Listing.list_folder` raises.
        """
        files, children = self.listing.list_folder(path)
        here = canonical_uri(joined_path(self.uri.rstrip("/"), path)) if self.excluded else ""
        excluded = {name for name in [*children, *(entry.name for entry in files)] if f"{here}/{name}" in self.excluded}
        for name in excluded.intersection(children):
            if self._holds_product(joined_path(path, name)):
                output = joined_path(self.uri.rstrip("/"), joined_path(path, name))
                raise InputError("capture.source_is_output", f"{output} holds photos, and is where results go")
        visible = [entry for entry in files if is_visible(entry.name) and entry.name not in excluded]
        photos = [entry for entry in visible if is_photo_entry(entry)]
        photo_names = {entry.name for entry in photos}
        hidden = [entry.name for entry in files if not is_visible(entry.name)]
        apart = [name for name in children if not is_visible(name) or photo_in_transfer(name) is not None]
        hidden += [f"{name}/" for name in apart]
        return SourceFolder(
            photos,
            [entry for entry in visible if entry.name not in photo_names],
            [name for name in children if name not in apart and name not in excluded],
            list(map(printable, hidden)),
        )

    def _holds_product(self, path: str) -> bool:
        """Whether a folder meant for results holds photos and is not a catalogue or report yet."""
        try:
            folder = self.folder(path)
        except InputError:
            return False  # a link out of the source, or a folder that cannot be listed
        return bool(folder.photos) and not is_output(self, path, folder)


def locations_of(path: str) -> tuple[str, str]:
    """Canonical URIs of a path: with all links resolved, and with only those in its parent folders resolved."""
    folder, _, name = (os.path.abspath(path) if is_local(path) else path.rstrip("/")).rpartition("/")
    return canonical_uri(path), f"{canonical_uri(folder)}/{name}"


def find_root(source: SourceTree) -> tuple[str, SourceFolder, list[str]]:
    """The path of the folder that holds the products, its content, and the names of unused files above it.

    A chain of single folders, such as an archive's outer folder, is descended.
    """
    root, folder = "", source.folder("")
    passed: list[str] = []
    while not folder.photos and len(folder.children) == 1:
        path = joined_path(root, folder.children[0])
        try:
            child = source.folder(path)
        except InputError:
            break  # it becomes the reject of a product
        if child.photos or child.in_transfer or is_output(source, path, child):
            break
        passed += folder.unused
        root, folder = path, child
    return root, folder, passed


def any_photo_below(source: SourceTree, path: str) -> bool:
    """Whether a folder, or one in it, holds a photo."""
    try:
        folder = source.folder(path)
    except InputError:
        return False  # its content is unknown
    if folder.photos or is_output(source, path, folder):
        return bool(folder.photos)
    return any(any_photo_below(source, joined_path(path, child)) for child in folder.children)


def is_output(source: SourceTree, path: str, folder: SourceFolder) -> bool:
    """Whether a folder without photos was written by gapray: a catalogue, a report or a GAP folder."""
    names = {entry.name for entry in folder.others}
    if "multiview_manifest.json" in names or names >= REPORT_FILES:
        return True
    for name, suffix in CATALOG_FOLDERS.items():
        if name in folder.children:
            try:
                if any(entry.name.endswith(suffix) for entry in source.folder(joined_path(path, name)).others):
                    return True
            except InputError:
                continue  # its content is unknown
    return False


def listed_folders(source: SourceTree, paths: list[str]) -> Iterator[tuple[str, SourceFolder | InputError]]:
    """Each path with its folder, or the error that listing it raises, in order; those of a bucket are listed concurrently."""

    def list_folder(path: str) -> SourceFolder | InputError:
        try:
            return source.folder(path)
        except InputError as error:
            return error

    if source.listing.concurrency == 1:
        yield from ((path, list_folder(path)) for path in paths)
        return
    with ThreadPoolExecutor(source.listing.concurrency) as threads:
        for start in range(0, len(paths), LISTED_AHEAD):
            batch = paths[start : start + LISTED_AHEAD]
            yield from zip(batch, threads.map(list_folder, batch), strict=True)


def joined_path(folder: str, name: str) -> str:
    """The path of a folder's member; the root's is empty."""
    return f"{folder}/{name}" if folder else name


def is_photo_entry(entry: Entry) -> bool:
    """Whether a file is a photo, by its name or, where that says nothing, by its first bytes."""
    return is_photo(entry.name, lambda: read_head(entry.uri, HEAD_BYTES))
