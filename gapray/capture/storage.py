"""Reading photos from where they are stored: local files, zip archives and any fsspec URI."""

from __future__ import annotations

import os
import zipfile
from collections import Counter, defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Protocol, cast

import fsspec

from gapray.errors import InputError

DIRECTORY_BYTES_PER_ENTRY = 256
"""Bytes allowed for each entry in an archive's central directory: 46 of header, the name, and the extra fields that programs add."""


@dataclass(frozen=True)
class ArchiveLimits:
    """Limits on an archive's directory, which is held in memory at about 1.5 kB per file or folder."""

    entries: int = 200_000
    """Maximum number of files and folders."""
    depth: int = 32
    """Maximum depth of nested folders."""
    name: int = 1024
    """Maximum length of a path inside the archive [characters]."""


@dataclass(frozen=True)
class Entry:
    """One file below a root, as its listing describes it."""

    folder: str
    """Folder relative to the root, '/'-separated; '' for the root itself."""
    name: str
    """File name without its folder."""
    uri: str
    """Local path or fsspec URI to read it from."""
    size: int
    """Size [bytes]."""
    stamp: str
    """Changes when the file does: modification time, CRC or ETag."""
    safe: bool
    """False when the file is a link to somewhere outside the root, or its name leads out of it."""


def is_local(uri: str) -> bool:
    """Whether a URI is a plain path or ``file://``, which needs no fsspec."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """The absolute path of a local URI."""
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def _open(uri: str) -> AbstractContextManager[Any]:
    return open(local_path(uri), "rb") if is_local(uri) else fsspec.open(uri, "rb")


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """Read a whole file of at most `max_bytes` bytes.

    Raises:
        InputError: `image.unreadable`, `image.empty` or `image.too_many_bytes`.
    """
    name = PurePosixPath(uri.split("::", maxsplit=1)[0]).name
    try:
        with _open(uri) as file:
            data: bytes = file.read(max_bytes + 1)
    except MemoryError:
        raise  # says nothing of the file; the others are wrapped
    except Exception as error:
        # fsspec backends raise whatever their client library raises; all of it means that the file cannot be read.
        raise InputError("image.unreadable", f"{name}: {type(error).__name__}: {error}") from error
    if not data:
        raise InputError("image.empty", f"{name} holds no bytes")
    if len(data) > max_bytes:
        raise InputError("image.too_many_bytes", f"{name} is larger than {max_bytes} bytes")
    return data


def read_head(uri: str, size: int) -> bytes:
    """The first `size` bytes of a file; empty when it cannot be read, which `read_bytes` then reports."""
    try:
        with _open(uri) as file:
            return bytes(file.read(size))
    except MemoryError:
        raise
    except Exception:  # see `read_bytes`
        return b""


def printable(name: str) -> str:
    """A name fit for tables and terminals: bytes that are not UTF-8 become escape sequences."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def canonical_uri(uri: str) -> str:
    """A canonical URI, equal for any two ways of naming the same folder: links resolved, no trailing '/'."""
    return os.path.realpath(local_path(uri)) if is_local(uri) else uri.rstrip("/")


class Listing(Protocol):
    """The content of a source, listed folder by folder: a source of a million products is never held in memory."""

    concurrency: int
    """Number of folders worth listing at the same time."""

    def list_folder(self, folder: str) -> tuple[list[Entry], list[str]]:
        """The files of one folder relative to the root ('' for the root itself) and the names of its subfolders, both sorted.

        Raises:
            InputError: `capture.unreadable`; `capture.unsafe_path` for a link out of the root or to one of its own parents;
                `capture.not_found` for the root of a bucket.
        """


def listing_of(uri: str, limits: ArchiveLimits = ArchiveLimits()) -> Listing:
    """The listing of a local folder, a zip file, or a folder of a bucket.

    Args:
        uri: Local path or fsspec URI.
        limits: Limits on a zip file.

    Raises:
        InputError: `capture.not_found`, `capture.invalid_archive` or `capture.archive_too_large`.
    """
    if uri.lower().endswith(".zip"):
        return _ZipListing(uri, limits)
    return _LocalListing(local_path(uri)) if is_local(uri) else _RemoteListing(uri)


class _LocalListing:
    concurrency = 1

    def __init__(self, root: str) -> None:
        if not os.path.isdir(root):
            if os.path.isfile(root):
                raise InputError("capture.unsupported_source", f"{root} is a file, but no zip file")
            raise InputError("capture.not_found", f"{root} does not exist")
        self._root, self._inside = root, os.path.realpath(root) + os.sep

    def list_folder(self, folder: str) -> tuple[list[Entry], list[str]]:
        """The files and subfolders of a folder; links to folders are followed within the root."""
        files, subfolders = [], []
        self._refuse_link(folder)
        try:
            with os.scandir(os.path.join(self._root, folder)) as items:
                for item in sorted(items, key=lambda item: item.name):
                    if os.path.isdir(item.path):
                        subfolders.append(item.name)
                    else:
                        files.append(self._entry(folder, item))
        except OSError as error:
            raise InputError("capture.unreadable", f"the folder cannot be listed: {error}") from error
        return files, subfolders

    def _refuse_link(self, folder: str) -> None:
        path = os.path.join(self._root, folder)
        if not os.path.islink(path):
            return
        target = os.path.realpath(path)
        if not (target + os.sep).startswith(self._inside):
            raise InputError(
                "capture.unsafe_path", f"{printable(folder)} is a link to {printable(target)}, outside the source"
            )
        parents = folder.split("/")[:-1]
        ancestors = {os.path.realpath(os.path.join(self._root, *parents[:depth])) for depth in range(len(parents) + 1)}
        if target in ancestors:
            raise InputError("capture.unsafe_path", f"{printable(folder)} is a link to a folder that contains it")

    def _entry(self, folder: str, item: os.DirEntry[str]) -> Entry:
        safe = not item.is_symlink() or os.path.realpath(item.path).startswith(self._inside)
        try:
            status = item.stat(follow_symlinks=safe)
        except OSError:
            status = item.stat(follow_symlinks=False)
        return Entry(folder, item.name, item.path, status.st_size, str(status.st_mtime_ns), safe)


class _BoundedReads:
    """A file whose single reads are bounded: `zipfile` reads an archive's whole central directory in one call.

    The size that the archive states cannot be checked instead: it is stored in several places, and `zipfile` chooses among them.
    """

    def __init__(self, file: Any, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > self._max_bytes:
            message = f"the archive's directory has {size} bytes; at most {self._max_bytes} are read"
            raise InputError("capture.archive_too_large", message)
        # Without a size, `zipfile` is looking for the end of central directory record.
        return bytes(self._file.read(size if size >= 0 else self._max_bytes))


def members_of(file: Any, limits: ArchiveLimits) -> list[zipfile.ZipInfo]:
    """The members of a zip file, by its central directory, whose size is checked before it is read.

    Args:
        file: Open binary file.
        limits: Limits on the number of entries, their depth and the length of their names.

    Raises:
        InputError: `capture.archive_too_large`.
        zipfile.BadZipFile, OSError, ValueError, NotImplementedError: The file is not a zip file.
    """
    end_record = 2**16 + 22  # with a comment of maximum length (APPNOTE.TXT, 4.3.16)
    max_bytes = max(DIRECTORY_BYTES_PER_ENTRY * limits.entries, end_record)
    members = zipfile.ZipFile(cast("IO[bytes]", _BoundedReads(file, max_bytes))).infolist()
    if len(members) > limits.entries:
        message = f"the archive holds {len(members)} entries; at most {limits.entries} are read"
        raise InputError("capture.archive_too_large", message)
    for member in members:
        depth = member.filename.count("/") + member.filename.count("\\")
        if len(member.filename) > limits.name or depth > limits.depth:
            name = printable(member.filename[:40])
            raise InputError(
                "capture.archive_too_large",
                f"the archive's entry {name!r}… has a name of {len(member.filename)} characters in {depth} folders; "
                f"at most {limits.name} in {limits.depth} are read",
            )
    return members


class _ZipListing:
    concurrency = 1

    def __init__(self, uri: str, limits: ArchiveLimits) -> None:
        try:
            with _open(uri) as file:
                members = members_of(file, limits)
        except FileNotFoundError as error:
            raise InputError("capture.not_found", f"{uri} does not exist") from error
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError("capture.invalid_archive", f"{uri}: {error}") from error
        if any(member.flag_bits & 0x1 for member in members):
            raise InputError("capture.invalid_archive", f"{uri} is encrypted")
        names = [member.filename for member in members if not member.is_dir()]
        if repeated := sorted({name for name, count in Counter(names).items() if count > 1}):
            raise InputError("capture.invalid_archive", f"{uri} holds {printable(repeated[0])} more than once")
        outer = local_path(uri) if is_local(uri) else uri
        self._files: defaultdict[str, list[Entry]] = defaultdict(list)
        self._folders: defaultdict[str, set[str]] = defaultdict(set)
        for member in sorted(members, key=lambda item: item.filename):
            if not member.is_dir():
                self._add(member, outer)
            if len(members) + len(self._folders) > limits.entries:
                message = f"the archive holds more than {limits.entries} files and folders"
                raise InputError("capture.archive_too_large", message)

    def _add(self, member: zipfile.ZipInfo, outer: str) -> None:
        path = PurePosixPath(_member_name(member).replace("\\", "/"))
        safe = not path.is_absolute() and ".." not in path.parts and "::" not in member.filename
        parents = [part for part in path.parent.parts if part not in ("/", "..", ".")]
        for depth, name in enumerate(parents):
            self._folders["/".join(parents[:depth])].add(name)
        uri, stamp = f"zip://{member.filename}::{outer}", f"crc:{member.CRC:08x}"
        folder = "/".join(parents)
        self._files[folder].append(Entry(folder, path.name, uri, member.file_size, stamp, safe))

    def list_folder(self, folder: str) -> tuple[list[Entry], list[str]]:
        """The files and subfolders of a folder of the archive, sorted."""
        return self._files.get(folder, []), sorted(self._folders.get(folder, ()))


def _member_name(member: zipfile.ZipInfo) -> str:
    """The name of a member. macOS writes UTF-8 without setting its flag, so that `zipfile` decodes it as code page 437."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


class _RemoteListing:
    concurrency = 32

    def __init__(self, uri: str) -> None:
        self._uri = uri
        try:
            # Without the cache of listings, which would end up holding the whole source.
            self._filesystem, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except Exception as error:
            # The client libraries share no exception type.
            raise InputError("capture.not_found", f"{uri}: {type(error).__name__}: {error}") from error
        self._root = str(root).rstrip("/")
        if not any(self.list_folder("")):
            raise InputError("capture.not_found", f"there is nothing in {uri}")

    def list_folder(self, folder: str) -> tuple[list[Entry], list[str]]:
        """The files and subfolders of a folder of the bucket, sorted.

        Raises:
            InputError: `capture.unreadable`, or `capture.not_found` for the root.
        """
        path = f"{self._root}/{folder}".rstrip("/")
        try:
            infos: list[dict[str, Any]] = self._filesystem.ls(path, detail=True)
        except Exception as error:
            code = "capture.unreadable" if folder else "capture.not_found"
            raise InputError(code, f"{self._uri}/{folder}: {type(error).__name__}: {error}") from error
        files, subfolders = [], []
        for info in sorted(infos, key=lambda info: str(info["name"])):
            full = str(info["name"]).rstrip("/")
            name = PurePosixPath(full).name
            if full.strip("/") == path.strip("/"):
                continue  # some stores keep a marker object for the folder itself
            if info.get("type") == "directory":
                subfolders.append(name)
            else:
                uri = self._filesystem.unstrip_protocol(full)
                files.append(Entry(folder, name, uri, int(info.get("size") or 0), _stamp(info), name != ".."))
        return files, subfolders


def _stamp(info: dict[str, Any]) -> str:
    """A file's version as its store gives it: an ETag, a hash or a time; ``none`` where it gives nothing."""
    for field in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "updated", "created"):
        if info.get(field):
            return f"{field}:{info[field]}".replace('"', "")
    return "none"
