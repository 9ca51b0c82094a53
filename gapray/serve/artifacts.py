"""Uploads and results as files, local or in a bucket: ``uploads/<job>/…`` and ``results/<job>/<attempt>/…``."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, ConfigError, InputError, ServeError

UPLOADS, RESULTS = "uploads", "results"
_OWNER = "owner"
"""Folder of an empty file whose name is the id of the database that the files belong to."""
_REMOVALS = 5
"""Times a folder is removed while somebody writes into it."""

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
    holds: Callable[[str, int], bool] | None = None
    """Whether a job (its id) is still an attempt's. Given to workers, so that they leave nothing of a job that is deleted
    while they are at work on it; None = all results are written."""

    @classmethod
    def at(cls, uri: str, holds: Callable[[str, int], bool] | None = None) -> Self:
        """The store at a local path or fsspec URI.

        Raises:
            ConfigError: `artifacts.unusable`.
        """
        try:
            return cls(Folder.at(uri), holds)
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
            InputError: `job.cancelled` for a result of a job that is no longer the writer's.
        """
        inner, _, last = name.rpartition("/")
        self._refuse_lost(name)
        try:
            self.folder.put(inner, last, pa.py_buffer(data))
        except Exception as error:
            self._refuse_lost(name)
            # Client libraries of buckets share no exception type.
            raise ServeError("artifacts.failed", f"{name}: {type(error).__name__}: {error}") from error
        # Whoever deletes a job marks it before he removes its files: what was written after that is found here.
        self._refuse_lost(name)

    def _refuse_lost(self, name: str) -> None:
        kind, _, rest = name.partition("/")
        if self.holds is None or kind != RESULTS:
            return
        job_id, attempt = rest.split("/")[:2]
        if not self.holds(job_id, int(attempt)):
            self.remove(f"{RESULTS}/{job_id}/{attempt}")
            if self.is_local:  # buckets have no empty folders
                with suppress(OSError):
                    os.rmdir(self._path(f"{RESULTS}/{job_id}"))
            raise InputError("job.cancelled", f"attempt {attempt} of job {job_id} is no longer wanted")

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
        """Names of the files and folders in a folder, sorted; none when there is no such folder.

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
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if not name.endswith(".tmp"))

    def remove(self, folder: str) -> None:
        """Remove a folder and what is in it; a missing one is no error. When this returns, it is not there.

        Raises:
            ServeError: `artifacts.failed`.
        """
        path, filesystem = self._path(folder), self.folder.filesystem
        try:
            for _ in range(_REMOVALS):
                with suppress(FileNotFoundError):  # it is gone, or a file in it was renamed after it was listed
                    filesystem.invalidate_cache()
                    filesystem.rm(path, recursive=True)
                filesystem.invalidate_cache()
                if not filesystem.exists(path):
                    return
        except Exception as error:
            raise ServeError("artifacts.failed", f"{folder}: {type(error).__name__}: {error}") from error
        raise ServeError("artifacts.failed", f"{folder}: files are written into it while it is removed")

    def claim(self, database_id: str) -> str:
        """The id of the database whose jobs own these files: `database_id` where none was written down before.

        Raises:
            ServeError: `artifacts.failed`.
        """
        if not self.names(_OWNER):
            self.put(f"{_OWNER}/{database_id}", b"")
        return self.names(_OWNER)[0]

    def _path(self, name: str) -> str:
        return f"{self.folder.path}/{name}"


def content_type(name: str) -> str:
    """By the ending of a file that we wrote."""
    return CONTENT_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
