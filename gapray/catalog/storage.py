"""Files of a catalogue, local or in a bucket: list, read, and put a whole file so that it is complete or absent."""

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
    """The root of a catalogue."""

    filesystem: fsspec.AbstractFileSystem
    path: str

    @classmethod
    def at(cls, uri: str) -> Folder:
        """The folder at a local path or fsspec URI.

        Raises:
            CatalogError: `catalog.not_found` when the URI's protocol is unknown.
        """
        try:
            filesystem, path = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise CatalogError("catalog.not_found", f"{uri}: {error}") from error
        return cls(filesystem, str(path).rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's disks."""
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def arrow(self) -> FileSystem:
        """The same file system for pyarrow: Arrow's own where there is one, because it needs no Python to read."""
        return ArrowLocal() if self.is_local else PyFileSystem(FSSpecHandler(self.filesystem))

    def check_writable(self) -> None:
        """Refuse what could not be written after an hour's work before it begins. An object store tells at the first write.

        Raises:
            CatalogError: `catalog.write_failed`.
        """
        if self.is_local:
            there = next(folder for folder in (Path(self.path), *Path(self.path).parents) if folder.exists())
            with writing(CatalogError, "catalog.write_failed", self.path), tempfile.TemporaryFile(dir=there):
                pass

    def parts(self, table: str) -> list[str]:
        """Paths of the complete parts of a table, sorted."""
        return self.names(table, PART_SUFFIX)

    def names(self, inner: str, suffix: str) -> list[str]:
        """Paths of the complete files of one folder that end with `suffix`, sorted.

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
        """Write one file whole.

        Locally under a temporary name that no reader takes for a part, flushed to the disk, then renamed. Object stores
        show an upload only when it is complete.

        Raises:
            OSError: As the file system does; callers know what was to be written and give it a code.
        """
        folder = f"{self.path}/{table}"
        target = f"{folder}/{name}"
        if not self.is_local:
            self.filesystem.makedirs(folder, exist_ok=True)
            self.filesystem.pipe_file(target, data.to_pybytes())
            return
        os.makedirs(folder, exist_ok=True)
        # Not in the folder of a table: Polars reads every file of one, hidden or not.
        place = self.path if name.endswith(PART_SUFFIX) else folder
        temporary = f"{place}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError:
            with suppress(OSError):
                os.remove(temporary)  # a full disk needs the room for the reject that says so
            raise

    def read(self, path: str) -> bytes:
        """One file, by its path relative to the folder.

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
        """Remove the empty folders below one folder; buckets have none."""
        if not self.is_local:
            return
        for place, _, _ in os.walk(f"{self.path}/{inner}", topdown=False):
            if place != f"{self.path}/{inner}":
                with suppress(OSError):  # it is not empty
                    os.rmdir(place)

    def remove(self, path: str) -> None:
        """Remove one part; one that is gone already is no error."""
        try:
            self.filesystem.rm_file(path)
        except FileNotFoundError:
            return
