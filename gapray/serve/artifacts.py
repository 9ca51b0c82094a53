"""Uploads and results as files, local or in a bucket: ``uploads/<job>/…`` and ``results/<job>/<attempt>/…``."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from gapray.errors import ConfigError, InputError, ServeError

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
    """A folder of an fsspec file system."""

    filesystem: fsspec.AbstractFileSystem
    root: str

    @classmethod
    def at(cls, uri: str) -> Self:
        """The store at a local path or fsspec URI.

        Raises:
            ConfigError: `artifacts.unusable`.
        """
        try:
            filesystem, root = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise ConfigError("artifacts.unusable", f"{uri}: {error}") from error
        return cls(filesystem, str(root).rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Only this machine sees it."""
        return isinstance(self.filesystem, LocalFileSystem)

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole: on the disk before this returns, and never half there.

        Raises:
            ServeError: `artifacts.failed`.
        """
        target = f"{self.root}/{name}"
        try:
            if not self.is_local:
                self.filesystem.pipe_file(target, data)
                return
            os.makedirs(os.path.dirname(target), exist_ok=True)
            temporary = f"{target}.{uuid.uuid4().hex}.tmp"
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
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
            data: bytes = self.filesystem.cat_file(f"{self.root}/{name}", start=start, end=end)
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
        path = f"{self.root}/{folder}"
        try:
            self.filesystem.invalidate_cache(path)
            found = self.filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise ServeError("artifacts.failed", f"{folder}: {type(error).__name__}: {error}") from error
        return sorted(str(one).rpartition("/")[2] for one in found if not str(one).endswith(".tmp"))

    def remove(self, folder: str) -> None:
        """Remove a folder and what is in it; a missing one is no error."""
        try:
            self.filesystem.rm(f"{self.root}/{folder}", recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise ServeError("artifacts.failed", f"{folder}: {type(error).__name__}: {error}") from error


def content_type(name: str) -> str:
    """By the ending of a file that we wrote."""
    return CONTENT_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
