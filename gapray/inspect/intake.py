"""Whatever lies in a source -> capture sets: videos and Polycam exports become folders of views first, photos stay where they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

from gapray.capture.capture_set import CaptureSet, Reject
from gapray.capture.discover import DiscoverOptions, scan
from gapray.capture.kinds import SIDE_FOLDERS, is_photo_file, is_visible
from gapray.capture.manifest import write_manifest
from gapray.capture.storage import is_local
from gapray.capture.video import is_video_name
from gapray.errors import ConfigError, FileError, GaprayError, InputError, writing
from gapray.inspect.film import pick_frames, read_film, write_stills
from gapray.inspect.pick import pick_views, write_views
from gapray.inspect.polycam import is_export, read_export
from gapray.outputs import atomic_write, write_file

VIEWS = 8
_STAMP = ".source.json"


def take_in(
    src: str,
    catalog: str,
    options: DiscoverOptions = DiscoverOptions(),
    *,
    on_raw: Callable[[str], None] = lambda name: None,
) -> str:
    """Make a source readable for `gapray package`.

    Raw captures are: a video or a Polycam export (zip or folder) as the source itself or directly in it, and a subfolder whose
    only picture is one video. Each becomes ``<catalog>/captures/<name>`` once, and again only when it changes.

    Args:
        src: Folder, file or URI.
        catalog: The catalogue, a local folder where there are raw captures.
        options: For photos and how their names are read.
        on_raw: Called with the name of each raw capture before it is read.

    Returns:
        `src` itself where nothing is raw; else the path of a manifest of all products. A raw capture that cannot be used is
        a reject in it, and so is a product of which there are several raw captures, or photos too.

    Raises:
        ConfigError: `config.invalid` for raw captures with a catalogue in a bucket.
        FileError: `file.write_failed`, and `InputError` `capture.write_failed`: the views cannot be written.
        InputError: As `gapray.capture.discover.scan`.
    """
    if not is_local(src) or src.endswith(".parquet") or not Path(src).exists():
        return src
    root = Path(src).absolute()
    try:
        raw = _raw(root)
    except OSError as error:
        raise InputError("capture.unreadable", f"{src}: {error}") from error
    if not raw:
        return src
    if not is_local(catalog):
        raise ConfigError("config.invalid", "videos and exports need a local catalogue; or first `gapray capture` them")
    folder = Path(catalog).absolute() / "captures"
    with writing(FileError, "file.write_failed", folder):
        folder.mkdir(parents=True, exist_ok=True)  # before a film is read for minutes
    beside: list[str] = []
    everything = [path for paths in raw.values() for path in paths]
    apart = replace(options, apart=(*options.apart, *map(str, everything)))
    photos = [] if root in everything else _photographed(src, apart, beside)
    beside += [name for item in photos if _is_empty(item) and item.product_id in raw for name in item.ignored]
    photos = [item for item in photos if not (_is_empty(item) and item.product_id in raw)]
    several = {item.product_id for item in photos} & set(raw) | {name for name, paths in raw.items() if len(paths) > 1}
    rejects = [Reject.of(name, str(root), _same_id(name, raw[name], photos)) for name in sorted(several)]
    photos = [item for item in photos if item.product_id not in several]
    alone = {name: paths[0] for name, paths in raw.items() if name not in several}
    rejects += [
        reject for name, path in alone.items() if (reject := _converted(name, path, folder, on_raw)) is not None
    ]
    usable = set(alone) - {reject.product_id for reject in rejects}
    made = scan(str(folder), DiscoverOptions(layout="products")) if usable else iter(())
    # Named by what it was made of: the folder below the catalogue is the same whichever capture has this name.
    wanted = (replace(item, uri=str(alone[item.product_id]), ignored=()) for item in made if item.product_id in usable)
    manifest = folder / "manifest.parquet"
    with atomic_write(manifest) as partial:
        write_manifest(sorted(chain(photos, wanted, rejects), key=lambda item: item.product_id), str(partial), beside)
    return str(manifest)


def _raw(src: Path) -> dict[str, list[Path]]:
    """Product -> raw captures, in order."""
    if is_video_name(src.name) or is_export(str(src)):
        return {src.stem if src.is_file() else src.name: [src]}
    if src.is_file():
        return {}
    entries = sorted(entry for entry in src.iterdir() if is_visible(entry.name))
    if any(map(is_photo_file, entries)):
        return {}  # a product's own folder: a video beside its photos is no other product
    raw: dict[str, list[Path]] = {}
    for entry in entries:
        if (found := _raw_in(entry)) is not None:
            raw.setdefault(found[0], []).append(found[1])
    return raw


def _raw_in(entry: Path) -> tuple[str, Path] | None:
    if is_video_name(entry.name) or (entry.name not in SIDE_FOLDERS and is_export(str(entry))):
        return (entry.stem if entry.is_file() else entry.name), entry
    if entry.is_file() or entry.name in SIDE_FOLDERS:
        return None
    try:
        files = [file for file in entry.iterdir() if file.is_file() and is_visible(file.name)]
    except OSError:
        return None  # `scan` makes a reject of a folder that cannot be listed
    videos = [file for file in files if is_video_name(file.name)]
    return (entry.name, videos[0]) if len(videos) == 1 and not any(map(is_photo_file, files)) else None


def _converted(name: str, raw: Path, folder: Path, on_raw: Callable[[str], None]) -> Reject | None:
    target = folder / name
    try:
        stat = raw.stat()
    except OSError as error:
        return Reject.of(name, str(raw), InputError("capture.unreadable", f"{name}: {error}"))
    stamp = json.dumps([str(raw), stat.st_size, stat.st_mtime_ns])
    if (target / _STAMP).exists() and (target / _STAMP).read_text(encoding="utf-8") == stamp:
        return None
    try:
        on_raw(name)
        shutil.rmtree(target, ignore_errors=True)  # ours, of an older state of the same source
        if is_video_name(raw.name):
            film = read_film(raw)
            write_stills(film, pick_frames(film, VIEWS), target)
        else:
            export = read_export(str(raw))
            write_views(export, pick_views(export, VIEWS), target)
        write_file(target / _STAMP, stamp)
    except GaprayError as error:
        if error.code.endswith(".write_failed"):
            raise  # the others could not be written either
        return Reject.of(name, str(raw), error)
    return None


def _photographed(src: str, options: DiscoverOptions, beside: list[str]) -> list[CaptureSet | Reject]:
    try:
        return list(scan(src, options, beside=beside))
    except InputError as error:
        if error.code != "capture.no_photos":
            raise
        return []


def _is_empty(item: CaptureSet | Reject) -> bool:
    """Whether a folder holds no photos of a product."""
    return isinstance(item, Reject) and item.code == "capture.no_photos"


def _same_id(name: str, raw: list[Path], photos: list[CaptureSet | Reject]) -> InputError:
    folders = [f"the photos in {item.uri}" for item in photos if item.product_id == name]
    return InputError("capture.same_id", f"{name} is the name of {', '.join([*folders, *map(str, raw)])}")
