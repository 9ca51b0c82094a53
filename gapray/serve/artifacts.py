"""Uploads and results as files, local or in a bucket: ``uploads/<job>/…`` and ``results/<job>/<attempt>/…``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, ConfigError, InputError, ServeError

CONTENT_TYPES = {
    "mp4": "video/mp4",
    "gif": "image/gif",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "png": "image/png",
    "json": "application/json",
    "zip": "application/zip",
}


@dataclass(frozen=True)
class Artifacts:
    """The same kind of folder as a catalogue's, with other names in it."""

    folder: Folder

    @classmethod
    def at(cls, uri: str) -> Self:
        """The store at a local path or fsspec URI.

        Raises:
            ConfigError: `artifacts.unusable`.
        """
        try:
            return cls(Folder.at(uri))
        except CatalogError as error:
            raise ConfigError("artifacts.unusable", error.message) from error

    @property
    def is_local(self) -> bool:
        """Only this machine sees it."""
        return isinstance(self.folder.filesystem, LocalFileSystem)

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole: on the disk before this returns, and never half there.

        Raises:
            ServeError: `artifacts.failed`.
        """
        inner, _, last = name.rpartition("/")
        try:
            self.folder.put(inner, last, pa.py_buffer(data))
        except Exception as error:
            # Client libraries of buckets share no exception type.
            raise ServeError("artifacts.failed", f"{name}: {type(error).__name__}: {error}") from error

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A file, or the bytes [start, end) of it.

        Raises:
            InputError: `job.expired` when the file is gone.
            ServeError: `artifacts.failed`.
        """
        try:
            data: bytes = self.folder.filesystem.cat_file(self._path(name), start=start, end=end)
        except FileNotFoundError as error:
            raise InputError("job.expired", f"{name} was removed") from error
        except Exception as error:
            raise ServeError("artifacts.failed", f"{name}: {type(error).__name__}: {error}") from error
        return data

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none when there is no such folder.

        Raises:
            ServeError: `artifacts.failed`.
        """
        path = self._path(folder)
        try:
            self.folder.filesystem.invalidate_cache(path)
            found = self.folder.filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise ServeError("artifacts.failed", f"{folder}: {type(error).__name__}: {error}") from error
        return sorted(str(one).rpartition("/")[2] for one in found if not str(one).endswith(".tmp"))

    def remove(self, folder: str) -> None:
        """Remove a folder and what is in it; a missing one is no error."""
        try:
            self.folder.filesystem.rm(self._path(folder), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise ServeError("artifacts.failed", f"{folder}: {type(error).__name__}: {error}") from error

    def _path(self, name: str) -> str:
        return f"{self.folder.path}/{name}"


def content_type(name: str) -> str:
    """By the ending of a file that we wrote."""
    return CONTENT_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
