"""A bucket that counts: every other file system than the local one is a bucket to the catalogue."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from gapray.catalog.storage import Folder


class CountedFileSystem(DirFileSystem):
    """Files below a folder of this machine, and how often they are listed, opened and read."""

    protocol = "counted"
    cachable = False

    def __init__(self, root: str) -> None:
        super().__init__(path=root, fs=LocalFileSystem())
        self.reset()

    def reset(self) -> None:
        self.listed: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.bytes = 0
        self.most_held = 0

    def ls(self, path, detail=True, **kwargs):
        self.listed[path.strip("/")] += 1
        return super().ls(path, detail=detail, **kwargs)

    def open(self, path, mode="rb", **kwargs):
        if "r" in mode:
            self.opened[path] += 1
        return _CountedFile(self, super().open(path, mode, **kwargs))


class _CountedFile:
    def __init__(self, counts: CountedFileSystem, file) -> None:
        self._counts, self._file = counts, file

    def read(self, *args):
        data = self._file.read(*args)
        self._counts.bytes += len(data)
        self._counts.most_held = max(self._counts.most_held, pa.total_allocated_bytes())
        return data

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def counted_folder(root: Path) -> Folder:
    """An empty catalogue in such a bucket."""
    root.mkdir(parents=True, exist_ok=True)
    return Folder(CountedFileSystem(str(root)), "catalog")
