"""The store of weights on this machine: finding, fetching, verifying and recording them.

Files that are installed with gapray are used in place. Other files are searched in the mirror (`GAPRAY_MODELS`), then in the store
(`GAPRAY_CACHE`, default ``~/.cache/gapray``), and finally fetched from their sources. Hub files stay in the hub's own cache
(`HF_HOME`) and are linked from the store. A node fetches and hashes a card only once: other processes wait at a file lock, and then
trust the hash as long as the file's size and modification time are unchanged.

`models.lock` pins this machine to what its first pull saw: ``card/file`` -> sha256, ``hub:owner/name`` -> commit. Copied to
another machine before the first pull there, it pins that machine to the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gapray.errors import ModelError, as_gapray_error, writing
from gapray.models.cards import HubSource, ModelCard, ModelFile, card_named
from gapray.models.fetch import Progress, fetch_file, fetch_from_hub

PACKAGE = Path(__file__).parents[1]
"""Folder of the installed package `gapray`."""
_LOCK, _STAMPS = "models.lock", "models.stamps"


@dataclass(frozen=True)
class LocatedCard:
    """A card whose files are all on this machine and have been verified."""

    card: ModelCard
    files: dict[str, Path]
    """File name -> path."""
    sha256: dict[str, str]
    """File name -> sha256."""

    @property
    def revision(self) -> str:
        """Hash of all files, which is part of catalogue keys."""
        text = "".join(f"{name}:{digest}\n" for name, digest in sorted(self.sha256.items()))
        return hashlib.sha256(text.encode()).hexdigest()


class _MismatchError(Exception):
    pass


def share_kernels() -> None:
    """Share torch's compiled kernels between gapray's processes on this node."""
    with suppress(ModelError):  # then torch uses a folder of its own
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))


def numba_cache(package: str) -> dict[str, str]:
    """Environment variables needed to import a package whose functions are compiled and cached by numba.

    numba caches them next to the package, else below the user's home, and the import fails if it can write to neither.

    Args:
        package: Name of an installed package.

    Returns:
        An empty mapping if the package's own folder is writable; else NUMBA_CACHE_DIR, a folder in the store of weights or, if
        that is not writable, a temporary one of this process.
    """
    spec = find_spec(package)
    folders = [Path(location) for location in (spec.submodule_search_locations or ())] if spec else []
    if not folders or all(_writable(next(filter(Path.exists, (folder / "__pycache__", folder)))) for folder in folders):
        return {}
    try:
        cache = cache_root() / "numba"
        cache.mkdir(parents=True, exist_ok=True)
        if _writable(cache):
            return {"NUMBA_CACHE_DIR": str(cache)}
    except (ModelError, OSError):
        pass  # a cache that is part of a container image is read-only
    return {"NUMBA_CACHE_DIR": tempfile.mkdtemp(prefix="gapray-numba-")}


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def cache_root() -> Path:
    """Folder of the store of weights on this machine.

    Raises:
        ModelError: `model.write_failed` when GAPRAY_CACHE is not set and the user has no home, as in containers with an arbitrary
            user id.
    """
    cache = os.environ.get("GAPRAY_CACHE")
    if cache:
        return Path(cache)
    try:
        return Path.home() / ".cache" / "gapray"
    except RuntimeError as error:
        raise ModelError("model.write_failed", "this user has no home folder, and GAPRAY_CACHE is not set") from error


def mirror_root() -> Path | None:
    """Folder of the local mirror; None unless GAPRAY_MODELS is set."""
    mirror = os.environ.get("GAPRAY_MODELS")
    return Path(mirror) if mirror else None


def locate(
    card: ModelCard, *, fetch: bool = True, rehash: bool = False, progress: Progress | None = None
) -> LocatedCard:
    """Find all files of a card on this machine, fetching missing ones.

    Args:
        card: The card to find.
        fetch: If False, only the mirror and the store are searched.
        rehash: Hash every file again, even if it has not changed since it was last hashed.
        progress: Called for every chunk that is received.

    Raises:
        ModelError: `model.unavailable` with the sources tried, `model.hash_mismatch`, or `model.write_failed`.
    """
    if card.is_shipped:
        return _shipped(card)
    if not rehash and (known := _known(card)):
        return known
    with _node_lock(card.name):
        if not rehash and (known := _known(card)):  # another process has located it in the meantime
            return known
        recorded, stamps = read_lock(), {} if rehash else _read(_STAMPS)
        lock = dict(recorded)
        located = {file.name: _locate_file(card, file, lock, stamps, fetch, progress or _silent) for file in card.files}
        digests = {name: file.sha256 for name, file in located.items()}
        seen = {f"{card.name}/{name}": digest for name, digest in digests.items()}
        seen |= {f"hub:{file.repo}": file.commit for file in located.values() if file.repo and file.commit}
        _merge(_LOCK, {name: value for name, value in seen.items() if recorded.get(name) != value})
        _merge(_STAMPS, {_stamp_name(card, name, file.path): file.stamp for name, file in located.items()})
    return LocatedCard(card, {name: file.path for name, file in located.items()}, digests)


def card_revisions(names: Iterable[str]) -> dict[str, str]:
    """Model name -> hash of its weights; downloads what is not on this machine.

    Raises:
        ModelError: `model.unknown`, `model.unavailable` or `model.hash_mismatch`.
    """
    return {name: locate(card_named(name)).revision for name in names}


def _shipped(card: ModelCard) -> LocatedCard:
    """Locate a card that is installed with gapray. Its files are small, so they are hashed each time and not recorded."""
    files = {file.name: PACKAGE / str(file.shipped) for file in card.files}
    try:
        return LocatedCard(
            card, files, {file.name: _verified(files[file.name], file, file.sha256) for file in card.files}
        )
    except _MismatchError as error:
        raise ModelError("model.hash_mismatch", f"{card.name}, which is installed with gapray: {error}") from error
    except OSError as error:
        raise ModelError("model.unavailable", f"{card.name}, which is installed with gapray: {error}") from error


def _known(card: ModelCard) -> LocatedCard | None:
    """Locate a card without reading files or waiting for a lock; None unless all files were hashed before and are unchanged."""
    lock, stamps = read_lock(), _read(_STAMPS)
    files: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for file in card.files:
        pinned = lock.get(f"{card.name}/{file.name}")
        for path in _candidates(card, file, file.sha256 or pinned):
            if path.is_file():
                digest = _recorded_digest(card, file, path, stamps)
                if digest is None or digest != (file.sha256 or digest) or digest != pinned:
                    return None
                files[file.name], digests[file.name] = path, digest
                break
        else:
            return None
    return LocatedCard(card, files, digests)


def _recorded_digest(card: ModelCard, file: ModelFile, path: Path, stamps: Mapping[str, str]) -> str | None:
    """The recorded sha256 of a file; None unless it is unchanged since it was verified."""
    size_time, _, digest = stamps.get(_stamp_name(card, file.name, path), "").rpartition(":")
    if size_time != _size_time(path) or (file.bytes is not None and path.stat().st_size != file.bytes):
        return None
    return digest


def _stamp_name(card: ModelCard, file: str, path: Path) -> str:
    # Several cards, each with its own hash or size, may use the same file of a mirror.
    return f"{card.name}/{file}@{path}"


def _size_time(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def read_lock() -> dict[str, str]:
    """`models.lock` of this machine: card/file -> sha256 and hub:owner/name -> commit, as seen by the first pull."""
    return _read(_LOCK)


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _LocatedFile:
    path: Path
    sha256: str
    stamp: str
    """Size, modification time and hash, separated by ':'."""
    repo: str | None = None
    commit: str | None = None


def _locate_file(
    card: ModelCard, file: ModelFile, lock: dict[str, str], stamps: Mapping[str, str], fetch: bool, progress: Progress
) -> _LocatedFile:
    """Find or fetch one file of a card; commits of hub repositories are added to `lock`.

    Raises:
        ModelError: `model.unavailable`, `model.hash_mismatch` or `model.write_failed`.
    """
    expected = file.sha256 or lock.get(f"{card.name}/{file.name}")
    *_, target = candidates = _candidates(card, file, expected)
    tried: list[str] = []
    mismatched = False
    for path in candidates:
        if path.is_file():
            try:
                before = _size_time(path)
                digest = _recorded_digest(card, file, path, stamps)
                if digest is None or digest != (expected or digest):
                    digest = _verified(path, file, expected)
                return _LocatedFile(path, digest, f"{before}:{digest}")
            except _MismatchError as error:
                tried.append(f"{path}: {error}")
                mismatched = True
    for source in file.sources if fetch else ():
        with _storing():
            target.parent.mkdir(parents=True, exist_ok=True)
        repo = commit = None
        try:
            if isinstance(source, HubSource):
                repo = source.repo
                fetched, commit = fetch_from_hub(source, target, source.revision or lock.get(f"hub:{repo}"))
                if commit:
                    lock[f"hub:{repo}"] = commit  # so that all files of a repository are from the same commit
            else:
                fetched = fetch_file(source, target, progress)
            before = _size_time(fetched)
            digest = _verified(fetched, file, expected)
        except _MismatchError as error:
            tried.append(f"{source}: {error}")
            mismatched = True
            fetched.unlink(missing_ok=True)
            continue
        except Exception as error:
            if as_gapray_error(error).code == "file.write_failed":
                raise ModelError("model.write_failed", f"{target}: {error}") from error
            # Every source uses a different client library; whatever it raises, the next source is tried.
            tried.append(f"{source}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        with _storing():
            os.replace(fetched, target)
        return _LocatedFile(target, digest, f"{before}:{digest}", repo, commit)
    code = "model.hash_mismatch" if mismatched else "model.unavailable"
    reasons = "; ".join(tried) or "nothing to try"
    raise ModelError(
        code, f"{card.name}/{file.name} is not available ({reasons}). Elsewhere: `gapray models pull {card.name}`"
    )


def _candidates(card: ModelCard, file: ModelFile, expected: str | None) -> list[Path]:
    """Paths at which a file may be on this machine: several in the mirror, and finally the one in the store."""
    return [*_mirrored(card, file, expected), cache_root() / "models" / card.name / file.name]


def _mirrored(card: ModelCard, file: ModelFile, expected: str | None) -> list[Path]:
    root = mirror_root()
    if root is None:
        return []
    names = [f"{card.name}/{file.name}", file.name, card.name + Path(file.name).suffix]
    return [root / name for name in ([expected] if expected else []) + names]


def _verified(path: Path, file: ModelFile, expected: str | None) -> str:
    """The sha256 of a file that matches its card.

    Raises:
        _MismatchError: Its size or one of its hashes differs.
    """
    if file.bytes is not None and path.stat().st_size != file.bytes:
        raise _MismatchError(f"{path.stat().st_size} bytes, expected {file.bytes}")
    digest = file_sha256(path)
    if expected is not None and digest != expected:
        raise _MismatchError(f"sha256 {digest[:12]}…, expected {expected[:12]}…")
    if expected is None and file.md5 is not None:
        with path.open("rb") as opened:
            md5 = hashlib.file_digest(opened, "md5").hexdigest()
        if md5 != file.md5:
            raise _MismatchError(f"md5 {md5[:12]}…, expected {file.md5[:12]}…")
    return digest


@contextmanager
def _node_lock(name: str) -> Iterator[None]:
    """Hold a file lock that all processes on this node share."""
    folder = cache_root() / "locks"
    with _storing():
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{name}.lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _storing() -> AbstractContextManager[None]:
    return writing(ModelError, "model.write_failed", f"the store of weights, {cache_root()}")


def _read(name: str) -> dict[str, str]:
    path = cache_root() / name
    with _storing():
        if not path.exists():
            return {}
        data: dict[str, str] = json.loads(path.read_text())
        return data


def _merge(name: str, seen: Mapping[str, str]) -> None:
    if not seen:
        return
    path = cache_root() / name
    with _node_lock(name):
        merged = dict(sorted((_read(name) | dict(seen)).items()))
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with _storing():
            temporary.write_text(json.dumps(merged, indent=2) + "\n")
            os.replace(temporary, path)


def _silent(what: str, done: int, total: int | None) -> None:
    del what, done, total
