"""Storage of a catalogue's files, local or in a bucket: listing, reading, and atomic writing."""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem
from pyarrow.fs import LocalFileSystem as ArrowLocal

from gapray.errors import CatalogError, writing

PART_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Folder:
    """The root folder of a catalogue."""

    filesystem: fsspec.AbstractFileSystem
    path: str

    @classmethod
    def at(cls, uri: str) -> Folder:
        """Return the folder at a local path or fsspec URI.

        Raises:
            CatalogError: `catalog.not_found` if the URI's protocol is unknown.
        """
        try:
            filesystem, path = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise CatalogError("catalog.not_found", f"{uri}: {error}") from error
        return cls(filesystem, str(path).rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether the files are in this machine's file system."""
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def arrow(self) -> FileSystem:
        """The file system for pyarrow; locally Arrow's own, which reads without the GIL."""
        return ArrowLocal() if self.is_local else PyFileSystem(FSSpecHandler(self.filesystem))

    def check_writable(self) -> None:
        """Fail early if a local folder is not writable. An object store is only checked by the first write.

        Raises:
            CatalogError: `catalog.write_failed`.
        """
        if self.is_local:
            existing = next(folder for folder in (Path(self.path), *Path(self.path).parents) if folder.exists())
            with writing(CatalogError, "catalog.write_failed", self.path), tempfile.TemporaryFile(dir=existing):
                pass

    def parts(self, table: str) -> list[str]:
        """Return the paths of the complete parts of a table, sorted."""
        return self.names(table, PART_SUFFIX)

    def names(self, inner: str, suffix: str) -> list[str]:
        """Return the paths of the complete files of a subfolder that end with `suffix`, sorted; empty if it does not exist.

        Raises:
            CatalogError: `catalog.unreadable`.
        """
        folder = f"{self.path}/{inner}"
        self.filesystem.invalidate_cache(folder)
        try:
            names = self.filesystem.ls(folder, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise CatalogError("catalog.unreadable", f"{folder}: {error}") from error
        return sorted(
            str(name)
            for name in names
            if str(name).endswith(suffix) and not PurePosixPath(str(name)).name.startswith((".", "_"))
        )

    def put(self, table: str, name: str, data: pa.Buffer) -> None:
        """Write one file atomically.

        Locally it is written under a temporary name that readers ignore, flushed to disk, and renamed. In object stores an upload
        is visible only once it is complete.

        Args:
            table: A table or another subfolder.
            name: File name.
            data: Content.

        Raises:
            OSError: The file cannot be written; callers convert it to an error with a code.
        """
        folder = f"{self.path}/{table}"
        target = f"{folder}/{name}"
        if not self.is_local:
            self.filesystem.makedirs(folder, exist_ok=True)
            self.filesystem.pipe_file(target, data.to_pybytes())
            return
        os.makedirs(folder, exist_ok=True)
        # Not in a table's folder, of which Polars reads every file, even hidden ones.
        parent = self.path if name.endswith(PART_SUFFIX) else folder
        temporary = f"{parent}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError:
            with suppress(OSError):
                os.remove(temporary)  # a full disk needs the space for the reject
            raise

    def read(self, path: str) -> bytes:
        """Read one file by its path relative to the folder.

        Raises:
            CatalogError: `catalog.file_missing` or `catalog.unreadable`.
        """
        try:
            data: bytes = self.filesystem.cat_file(f"{self.path}/{path}")
        except FileNotFoundError as error:
            raise CatalogError("catalog.file_missing", f"{self.path}/{path} is not there") from error
        except OSError as error:
            raise CatalogError("catalog.unreadable", f"{self.path}/{path}: {error}") from error
        return data

    def prune(self, inner: str) -> None:
        """Remove empty folders below a subfolder; buckets have no folders."""
        if not self.is_local:
            return
        for directory, _, _ in os.walk(f"{self.path}/{inner}", topdown=False):
            if directory != f"{self.path}/{inner}":
                with suppress(OSError):  # it is not empty
                    os.rmdir(directory)

    def remove(self, path: str) -> None:
        """Remove one file by its full path; a missing file is not an error."""
        try:
            self.filesystem.rm_file(path)
        except FileNotFoundError:
            return
