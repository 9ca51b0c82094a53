"""Ingestion of any source: videos and Polycam exports are converted to folders of views, photos stay where they are."""

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
from gapray.inspect.film import pick_frames, read_turntable, write_frames
from gapray.inspect.pick import pick_views, write_views
from gapray.inspect.polycam import is_export, read_export
from gapray.outputs import atomic_write, write_file

VIEWS = 8
_STAMP = ".source.json"


def ingest(
    src: str,
    catalog: str,
    options: DiscoverOptions = DiscoverOptions(),
    *,
    on_raw: Callable[[str], None] = lambda name: None,
) -> str:
    """Convert the raw captures in a source, so that `gapray package` can read it.

    Raw captures are videos and Polycam exports (zip or folder), either the source itself or directly in it, and subfolders whose
    only picture is one video. Each is converted to ``<catalog>/captures/<name>``, and again only when it changes.

    Args:
        src: Folder, file or URI.
        catalog: The catalogue; must be a local folder if there are raw captures.
        options: How to find photos and read their names.
        on_raw: Called with the name of each raw capture before it is read.

    Returns:
        `src` itself if it has no raw captures; else the path of a manifest of all products. A raw capture that cannot be used
        is a reject in it, and so is a product with more than one raw capture, or with photos as well.

    Raises:
        ConfigError: `config.invalid` for raw captures with a catalogue in a bucket.
        FileError: `file.write_failed` when the folder for the views cannot be made.
        InputError: `capture.write_failed` when the views cannot be written, or what `gapray.capture.discover.scan` raises.
    """
    if not is_local(src) or src.endswith(".parquet") or not Path(src).exists():
        return src
    root = Path(src).absolute()
    try:
        raw = _raw_captures(root)
    except OSError as error:
        raise InputError("capture.unreadable", f"{src}: {error}") from error
    if not raw:
        return src
    if not is_local(catalog):
        raise ConfigError("config.invalid", "videos and exports need a local catalogue; or first `gapray capture` them")
    folder = Path(catalog).absolute() / "captures"
    with writing(FileError, "file.write_failed", folder):
        folder.mkdir(parents=True, exist_ok=True)  # to fail before minutes are spent on reading a video
    beside: list[str] = []
    raw_paths = [path for paths in raw.values() for path in paths]
    without_raw = replace(options, apart=(*options.apart, *map(str, raw_paths)))
    photos = [] if root in raw_paths else _photographed(src, without_raw, beside)
    beside += [name for item in photos if _is_empty(item) and item.product_id in raw for name in item.ignored]
    photos = [item for item in photos if not (_is_empty(item) and item.product_id in raw)]
    repeated = {item.product_id for item in photos} & set(raw) | {name for name, paths in raw.items() if len(paths) > 1}
    rejects = [Reject.of(name, str(root), _same_id(name, raw[name], photos)) for name in sorted(repeated)]
    photos = [item for item in photos if item.product_id not in repeated]
    unique = {name: paths[0] for name, paths in raw.items() if name not in repeated}
    rejects += [reject for name, path in unique.items() if (reject := _convert(name, path, folder, on_raw)) is not None]
    usable = set(unique) - {reject.product_id for reject in rejects}
    converted = scan(str(folder), DiscoverOptions(layout="products")) if usable else iter(())
    # The URI is that of the raw capture: the converted folder has the same path whichever capture has this name.
    views = (
        replace(item, uri=str(unique[item.product_id]), ignored=()) for item in converted if item.product_id in usable
    )
    manifest = folder / "manifest.parquet"
    with atomic_write(manifest) as partial:
        write_manifest(sorted(chain(photos, views, rejects), key=lambda item: item.product_id), str(partial), beside)
    return str(manifest)


def _raw_captures(src: Path) -> dict[str, list[Path]]:
    """Product id -> paths of its raw captures, sorted."""
    if is_video_name(src.name) or is_export(str(src)):
        return {src.stem if src.is_file() else src.name: [src]}
    if src.is_file():
        return {}
    entries = sorted(entry for entry in src.iterdir() if is_visible(entry.name))
    if any(map(is_photo_file, entries)):
        return {}  # the folder of one product: a video next to its photos is not another product
    raw: dict[str, list[Path]] = {}
    for entry in entries:
        if (capture := _raw_capture(entry)) is not None:
            raw.setdefault(capture[0], []).append(capture[1])
    return raw


def _raw_capture(entry: Path) -> tuple[str, Path] | None:
    """Product id and path of the raw capture that an entry of the source is or holds; None if there is none."""
    if is_video_name(entry.name) or (entry.name not in SIDE_FOLDERS and is_export(str(entry))):
        return (entry.stem if entry.is_file() else entry.name), entry
    if entry.is_file() or entry.name in SIDE_FOLDERS:
        return None
    try:
        files = [file for file in entry.iterdir() if file.is_file() and is_visible(file.name)]
    except OSError:
        return None  # `scan` rejects a folder that cannot be listed
    videos = [file for file in files if is_video_name(file.name)]
    return (entry.name, videos[0]) if len(videos) == 1 and not any(map(is_photo_file, files)) else None


def _convert(name: str, raw: Path, folder: Path, on_raw: Callable[[str], None]) -> Reject | None:
    """Convert a raw capture to a product's folder, unless that is up to date.

    Returns:
        A reject if the capture cannot be used, else None.
    """
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
        shutil.rmtree(target, ignore_errors=True)  # written by gapray from an older version of the same capture
        if is_video_name(raw.name):
            video = read_turntable(raw)
            write_frames(video, pick_frames(video, VIEWS), target)
        else:
            export = read_export(str(raw))
            write_views(export, pick_views(export, VIEWS), target)
        write_file(target / _STAMP, stamp)
    except GaprayError as error:
        if error.code.endswith(".write_failed"):
            raise  # no other capture could be written either
        return Reject.of(name, str(raw), error)
    return None


def _photographed(src: str, options: DiscoverOptions, beside: list[str]) -> list[CaptureSet | Reject]:
    try:
        return list(scan(src, options, beside=beside))
    except InputError as error:
        if error.code not in ("capture.no_photos", "capture.unfinished"):
            raise  # a photo beside raw captures belongs to none of them, whether its transfer has finished or not
        return []


def _is_empty(item: CaptureSet | Reject) -> bool:
    """Whether an item is the reject of a folder without photos."""
    return isinstance(item, Reject) and item.code == "capture.no_photos"


def _same_id(name: str, raw: list[Path], photos: list[CaptureSet | Reject]) -> InputError:
    folders = [f"the photos in {item.uri}" for item in photos if item.product_id == name]
    return InputError("capture.same_id", f"{name} is the name of {', '.join([*folders, *map(str, raw)])}")
