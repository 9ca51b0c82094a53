"""The artifact store: files in a local folder or a bucket, ``uploads/<job>/…`` and ``results/<job>/<attempt>/…``."""

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
"""Folder with one empty file, whose name is the id of the database that the files belong to."""
_REMOVALS = 5
"""How often a folder is removed again if something was written into it meanwhile."""

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
    """Files of jobs, by name, in a folder or bucket."""

    folder: Folder
    is_current: Callable[[str, int], bool] | None = None
    """Whether an attempt still owns its job, given the job's id and the attempt's number. Workers have it, so that they leave
    no files of a job that is deleted while they work on it. None: all results are written."""

    @classmethod
    def at(cls, uri: str, is_current: Callable[[str, int], bool] | None = None) -> Self:
        """Open the store at a local path or fsspec URI.

        Raises:
            ConfigError: `artifacts.unusable`.
        """
        try:
            return cls(Folder.at(uri), is_current)
        except CatalogError as error:
            raise ConfigError("artifacts.unusable", error.message) from error

    @property
    def is_local(self) -> bool:
        """Whether the store is in a local folder."""
        return isinstance(self.folder.filesystem, LocalFileSystem)

    def put(self, name: str, data: bytes) -> None:
        """Write a file atomically; it is on disk when this returns.

        Raises:
            ServeError: `artifacts.failed`.
            InputError: `job.cancelled` for a result of a job that the attempt no longer owns.
        """
        folder, _, file_name = name.rpartition("/")
        self._refuse_obsolete(name)
        try:
            self.folder.put(folder, file_name, pa.py_buffer(data))
        except Exception as error:
            self._refuse_obsolete(name)
            # Client libraries of buckets share no exception type.
            raise ServeError("artifacts.failed", f"{name}: {type(error).__name__}: {error}") from error
        # A deleted job is marked before its files are removed: a file written after the removal is noticed here.
        self._refuse_obsolete(name)

    def _refuse_obsolete(self, name: str) -> None:
        """Refuse a result of an attempt that no longer owns its job, and remove what the attempt has written."""
        kind, _, rest = name.partition("/")
        if self.is_current is None or kind != RESULTS:
            return
        job_id, attempt = rest.split("/")[:2]
        if not self.is_current(job_id, int(attempt)):
            self.remove(f"{RESULTS}/{job_id}/{attempt}")
            if self.is_local:  # buckets have no empty folders
                with suppress(OSError):
                    os.rmdir(self._path(f"{RESULTS}/{job_id}"))
            raise InputError("job.cancelled", f"attempt {attempt} of job {job_id} is no longer wanted")

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or the bytes [start, end) of it.

        Raises:
            InputError: `job.expired` if the file has been removed.
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
        """List the names of the files and folders in a folder, sorted; empty if there is no such folder.

        Raises:
            ServeError: `artifacts.failed`.
        """
        path = self._path(folder)
        try:
            self.folder.filesystem.invalidate_cache(path)
            paths = self.folder.filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise ServeError("artifacts.failed", f"{folder}: {type(error).__name__}: {error}") from error
        names = (str(path).rstrip("/").rpartition("/")[2] for path in paths)
        return sorted(name for name in names if not name.endswith(".tmp"))

    def remove(self, folder: str) -> None:
        """Remove a folder with its contents, if it exists.

        Raises:
            ServeError: `artifacts.failed`.
        """
        path, filesystem = self._path(folder), self.folder.filesystem
        try:
            for _ in range(_REMOVALS):
                with suppress(FileNotFoundError):  # the folder is gone, or a file in it was renamed after the listing
                    filesystem.invalidate_cache()
                    filesystem.rm(path, recursive=True)
                filesystem.invalidate_cache()
                if not filesystem.exists(path):
                    return
        except Exception as error:
            raise ServeError("artifacts.failed", f"{folder}: {type(error).__name__}: {error}") from error
        raise ServeError("artifacts.failed", f"{folder}: files are written into it while it is removed")

    def claim(self, database_id: str) -> str:
        """Claim the store for a database if no other has done so; returns the id of the database that owns it.

        Raises:
            ServeError: `artifacts.failed`.
        """
        if not self.names(_OWNER):
            self.put(f"{_OWNER}/{database_id}", b"")
        return self.names(_OWNER)[0]

    def _path(self, name: str) -> str:
        return f"{self.folder.path}/{name}"


def content_type(name: str) -> str:
    """Return the content type of an artifact, by the extension of its name."""
    return CONTENT_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
