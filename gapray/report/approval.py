"""Publishing: the approved videos' files, copied to where shops read them, and taken away when they are turned down."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from gapray.capture.tables import rows_of, texts
from gapray.catalog.media import media_name
from gapray.catalog.reader import Catalog
from gapray.catalog.storage import Folder
from gapray.config import canonical_hash
from gapray.errors import CatalogError, InputError, writing
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance

RECORD = "published.json"
"""Beside a product's published files: which they are, and of which frames."""
DECISIONS = ("approved", "rejected", "undecided")
"""Words of the column `decision`."""
COLUMNS: dict[str, tuple[str, ...]] = {"product_id": (), "video_key": (), "decision": ()}


def read_decisions(path: Path) -> dict[str, tuple[str, str]]:
    """Product -> (video key, decision), from the CSV that a report downloads, in whatever form a spreadsheet saved it.

    Raises:
        InputError: `report.no_approval`.
    """
    try:
        rows = rows_of(next(texts(path.read_bytes())), COLUMNS)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError("report.no_approval", f"{path}: {error}") from error
    decisions: dict[str, tuple[str, str]] = {}
    for row in rows:
        said = row["video_key"], row["decision"].strip().lower()
        if said[1] not in DECISIONS:
            words = f"{row['decision'][:40]!r} is no decision; write one of {', '.join(DECISIONS)}"
            raise InputError("report.no_approval", f"{path}: {row['product_id']}: {words}")
        if decisions.setdefault(row["product_id"], said) != said:
            raise InputError("report.no_approval", f"{path}: rows about {row['product_id']} contradict one another")
    return decisions


class Published(NamedTuple):
    """What became of each product; lists of product ids, or of sentences that begin with a product id."""

    copied: list[str]
    skipped: list[str]
    """Why a product was not copied, and what of an earlier publication lies there all the same."""
    withdrawn: list[str]
    """Products that were turned down since they were published: their files were removed."""


def publish(catalog: Catalog, to: str, approved: Path | None, preset: str | None = None) -> Published:
    """Copy one video of each product, as ``<product_id>/<file>``, and take away what is not to be shown any more.

    Beside a product's files lies `RECORD`, by which a later publication knows what this one put there. Files of a product that
    is rejected, or whose best video fails the gate, are removed; so are those of earlier frames of a product that is copied. Other
    presets of the same frames stay. Of a product about which nothing is known, as of one that nobody decided about, nothing is
    removed: where something of it lies there, its line in `skipped` says so.

    Args:
        catalog: Where they lie.
        to: Folder or fsspec URI.
        approved: Only what this CSV approves, that very video; default: the best of each product, where it passed the gate.
        preset: Only files of this preset: the best video in it, or the export of the approved video's frames. Default: the
            preset of the best or approved video.

    Raises:
        InputError: `report.no_approval`.
        ConfigError: `video.unknown_preset`.
        CatalogError: `catalog.write_failed`.
    """
    if preset is not None:
        preset_named(preset)
    decisions = read_decisions(approved) if approved else None
    shop = _Shop.at(to)
    done = Published([], [], [])
    best = {row["product_id"]: row for row in catalog.best_videos().to_pylist()}
    wanted = _of_preset(catalog.best_exports(), preset) if preset else best
    current = catalog.videos().to_pylist() if decisions is not None else []
    for name, (_, decision) in (decisions or {}).items():
        if name not in best and decision == "approved":
            done.skipped.append(f"{name}: approved, but the catalogue has no current video of this product")
        elif name not in best and decision == "rejected" and name in shop.published:
            _skip(shop, done, name, decision, refused=True)
    packaged = catalog.table("products", columns=["product_id"])["product_id"].to_pylist()
    for name in sorted(shop.published & set(packaged) - set(best) - set(decisions or ())):
        _skip(shop, done, name, "the catalogue has no current video of this product", refused=False)
    for identifier in best:
        if decisions is None:
            video, reason = wanted.get(identifier), f"no video of preset {preset}"
            if video is not None:
                reason = "" if video["gate"] == "pass" else f"gate: {video['gate'] or 'not scored'}"
            refused = video is not None and video["gate"] == "fail"
        else:
            key, decision = decisions.get(identifier, ("", "undecided"))
            video, reason, refused = None, decision, decision == "rejected"
            if decision == "approved":
                video, reason = _approved(
                    catalog, [row for row in current if row["product_id"] == identifier], key, preset
                )
        if video is None or reason:
            _skip(shop, done, identifier, reason, refused=refused, preset=preset if decisions is None else None)
            continue
        _copy(catalog, shop, video)
        done.copied.append(identifier)
    return done


def _skip(
    shop: _Shop, done: Published, identifier: str, reason: str, *, refused: bool, preset: str | None = None
) -> None:
    """Say why a product is not copied, and see to what was published of it before: of one preset, or all."""
    place = f"{shop.folder.path}/{identifier}"
    there = shop.exports(identifier)
    mine = [export for export in there if preset in (None, export["preset"])]
    if refused and mine:
        shop.keep(identifier, there, [export for export in there if export not in mine])
        done.withdrawn.append(identifier)
        reason += f"; what was published of it was removed from {place}"
    elif mine:
        reason += f"; what was published of it before still lies in {place}"
    elif identifier in shop.published and not there:
        reason += f"; {place} is there, with files of which nothing says who put them there: they stay"
    done.skipped.append(f"{identifier}: {reason}")


def _of_preset(videos: pa.Table, preset: str) -> dict[str, dict[str, Any]]:
    return {row["product_id"]: row for row in videos.to_pylist() if row["preset"] == preset}


def _approved(
    catalog: Catalog, videos: Sequence[dict[str, Any]], key: str, preset: str | None
) -> tuple[dict[str, Any] | None, str]:
    """The approved video among a product's current ones, or its frames in another preset; else why there is none."""
    found = next((row for row in videos if row["key"] == key), None)
    if found is None:
        return None, "the approved video is not current any more"
    if preset in (None, found["preset"]):
        return found, ""
    frames = _frames_of(catalog, found)
    others = (row for row in videos if row["preset"] == preset)
    same = next((row for row in others if _frames_of(catalog, row) == frames), None)
    return same, "" if same else f"the approved video has no export of preset {preset}"


def _frames_of(catalog: Catalog, video: Mapping[str, Any]) -> list[Any]:
    """What decides the frames of a video, whatever files they are written to."""
    [name] = [name for name in video["files"] if name.endswith("provenance.json")]
    settings = Provenance.from_sidecar(catalog.folder.read(name).decode()).facts["settings"]
    return [video["product_key"], video["backend"], video["seed"], video["models"], settings]


def _copy(catalog: Catalog, shop: _Shop, video: Mapping[str, Any]) -> None:
    """Copy a video's files; other presets of the same frames stay beside them, everything else of the product goes."""
    identifier = video["product_id"]
    files = {media_name(name): name for name in video["files"]}
    mine = {"preset": video["preset"], "frames": canonical_hash(_frames_of(catalog, video)), "files": sorted(files)}
    before = shop.exports(identifier)
    beside = [export for export in before if export["frames"] == mine["frames"] and export["preset"] != mine["preset"]]
    # Written down before it is done: what a publication that is broken off leaves is known to the next one.
    shop.record(identifier, [*before, mine])
    for name, path in files.items():
        shop.put(identifier, name, catalog.folder.read(path))
    shop.keep(identifier, [*before, mine], [*beside, mine])


@dataclass(frozen=True)
class _Shop:
    """Where files are published: ``<product_id>/<file>``, and in `RECORD` which export each belongs to."""

    folder: Folder
    published: frozenset[str]
    """Names of the folders that lay there when it was opened."""

    @classmethod
    def at(cls, uri: str) -> _Shop:
        folder = Folder.at(uri)
        folder.filesystem.invalidate_cache(folder.path)
        try:
            there = folder.filesystem.ls(folder.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            there = []
        except OSError as error:
            raise CatalogError("catalog.unreadable", f"{folder.path}: {error}") from error
        names = (str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in there if entry["type"] == "directory")
        return cls(folder, frozenset(names))

    def exports(self, identifier: str) -> list[dict[str, Any]]:
        """What was published of a product: preset, hash of the frames and names of the files of each export."""
        if identifier not in self.published:
            return []
        try:
            found = json.loads(self.folder.read(f"{identifier}/{RECORD}"))
            return [
                {
                    "preset": str(export["preset"]),
                    "frames": str(export["frames"]),
                    "files": list(map(_inner, export["files"])),
                }
                for export in found["exports"]
            ]
        except CatalogError as error:
            if error.code != "catalog.file_missing":
                raise
            return []  # published by an earlier release, or not by gapray
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            path = f"{self.folder.path}/{identifier}/{RECORD}"
            raise CatalogError("catalog.unreadable", f"{path}: {type(error).__name__}: {error}") from error

    def record(self, identifier: str, exports: Sequence[Mapping[str, Any]]) -> None:
        """Write down what lies there."""
        self.put(identifier, RECORD, json.dumps({"exports": list(exports)}, indent=1).encode())

    def put(self, identifier: str, name: str, data: bytes) -> None:
        """Write one file."""
        inner, _, last = f"{identifier}/{name}".rpartition("/")
        with writing(CatalogError, "catalog.write_failed", f"{self.folder.path}/{inner}/{last}"):
            self.folder.put(inner, last, pa.py_buffer(data))

    def keep(self, identifier: str, there: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> None:
        """Remove the files of all exports but those that are kept; of none, the product's folder too."""
        place = f"{self.folder.path}/{identifier}"
        stay = {name for export in kept for name in export["files"]}
        with writing(CatalogError, "catalog.write_failed", place):
            for name in sorted({name for export in there for name in export["files"]} - stay):
                self.folder.remove(f"{place}/{name}")
            if not kept:
                self.folder.remove(f"{place}/{RECORD}")
        if kept:
            self.record(identifier, kept)
        self.folder.prune(identifier)
        if not kept and self.folder.is_local:
            with suppress(OSError):  # files of somebody else's
                os.rmdir(place)


def _inner(name: Any) -> str:
    """A file's name in a record, which lies where others can write: nothing outside the product's folder is ever removed.

    Raises:
        ValueError: It leads elsewhere.
    """
    text = str(name)
    if not text or text.startswith("/") or "\\" in text or {"..", ".", ""} & set(text.split("/")):
        raise ValueError(f"{text[:80]!r} is no file of this folder")
    return text
