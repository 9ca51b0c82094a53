"""Reading photos from where they lie: local files, zip archives, and any fsspec URI."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec

from gapray.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One file below a root, as its listing describes it."""

    folder: str
    """Folder below the root, '' for the root itself, '/'-separated."""
    name: str
    uri: str
    size: int
    stamp: str
    safe: bool
    """False when the file is a link out of the root, or its name climbs out of it."""


def is_local(uri: str) -> bool:
    """True for a plain path (or ``file://``), which needs no fsspec."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """The absolute path of a local URI."""
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def _opened(uri: str) -> AbstractContextManager[Any]:
    return open(local_path(uri), "rb") if is_local(uri) else fsspec.open(uri, "rb")


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """Read one whole file of at most `max_bytes` bytes.

    Raises:
        InputError: `image.unreadable`, `image.empty` or `image.too_many_bytes`.
    """
    name = PurePosixPath(uri.split("::", maxsplit=1)[0]).name
    try:
        with _opened(uri) as file:
            data: bytes = file.read(max_bytes + 1)
    except Exception as error:
        # fsspec backends raise whatever their client library raises; every one of them means the same to us.
        raise InputError("image.unreadable", f"{name}: {type(error).__name__}: {error}") from error
    if not data:
        raise InputError("image.empty", f"{name} holds no bytes")
    if len(data) > max_bytes:
        raise InputError("image.too_many_bytes", f"{name} is larger than {max_bytes} bytes")
    return data


def list_files(uri: str) -> Iterator[Entry]:
    """All files below `uri`, sorted by folder and name: a local folder, a zip file, or a folder of a bucket.

    Raises:
        InputError: `capture.not_found` or `capture.invalid_archive`.
    """
    if uri.lower().endswith(".zip"):
        yield from _list_zip(uri)
    elif is_local(uri):
        yield from _list_local(local_path(uri))
    else:
        yield from _list_remote(uri)


def _list_local(root: str) -> Iterator[Entry]:
    if not os.path.isdir(root):
        raise InputError("capture.not_found", f"{root} is no folder and no zip file")
    inside = os.path.realpath(root) + os.sep
    for folder, subfolders, names in os.walk(root, followlinks=False):
        subfolders.sort()
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in sorted(names):
            path = os.path.join(folder, name)
            safe = os.path.realpath(path).startswith(inside)
            try:
                status = os.stat(path) if safe else os.lstat(path)
            except OSError:
                status = os.lstat(path)
            yield Entry("" if relative == "." else relative, name, path, status.st_size, str(status.st_mtime_ns), safe)


def _list_zip(uri: str) -> Iterator[Entry]:
    try:
        with _opened(uri) as file:
            members = zipfile.ZipFile(file).infolist()
    except FileNotFoundError as error:
        raise InputError("capture.not_found", f"{uri} does not exist") from error
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError("capture.invalid_archive", f"{uri}: {error}") from error
    if any(member.flag_bits & 0x1 for member in members):
        raise InputError("capture.invalid_archive", f"{uri} is encrypted")
    outer = local_path(uri) if is_local(uri) else uri
    for member in sorted(members, key=lambda item: item.filename):
        if member.is_dir():
            continue
        path = PurePosixPath(member.filename.replace("\\", "/"))
        safe = not path.is_absolute() and ".." not in path.parts and "::" not in member.filename
        folder = "/".join(part for part in path.parent.parts if part not in ("/", "..", "."))
        stamp = f"crc:{member.CRC:08x}"
        yield Entry(folder, path.name, f"zip://{member.filename}::{outer}", member.file_size, stamp, safe)


def _list_remote(uri: str) -> Iterator[Entry]:
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
        found: dict[str, dict[str, Any]] = filesystem.find(root, detail=True)
    except Exception as error:
        # As in read_bytes: the client libraries share no exception type.
        raise InputError("capture.not_found", f"{uri}: {type(error).__name__}: {error}") from error
    if not found:
        raise InputError("capture.not_found", f"nothing lies below {uri}")
    base = root.strip("/")
    for path, info in sorted(found.items()):
        relative = PurePosixPath(path.strip("/").removeprefix(base).strip("/"))
        folder = "" if str(relative.parent) == "." else str(relative.parent)
        full = filesystem.unstrip_protocol(path)
        yield Entry(folder, relative.name, full, int(info.get("size") or 0), _stamp(info), ".." not in relative.parts)


def _stamp(info: dict[str, Any]) -> str:
    for field in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "updated", "created"):
        if info.get(field):
            return f"{field}:{info[field]}".replace('"', "")
    return "none"
