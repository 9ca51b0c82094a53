"""Publishing: copies the files of approved videos to a destination, and removes those of videos that are rejected later."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from gapray.capture.tables import rows_of, texts
from gapray.catalog.media import media_name
from gapray.catalog.reader import Catalog
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, InputError, writing
from gapray.settings import canonical_hash
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance

RECORD = "published.json"
"""File beside a product's published files that lists them, with a hash of the frames that they show."""
DECISIONS = ("approved", "rejected", "undecided")
"""Values of the column `decision`."""
COLUMNS: dict[str, tuple[str, ...]] = {"product_id": (), "video_key": (), "decision": ()}
"""Columns of the decisions' CSV, which have no aliases."""
_SCIENTIFIC = re.compile(r"\d([.,]\d+)?E[+-]?\d+", re.IGNORECASE)
"""An id of digits as a spreadsheet shows a large number: 4006381333931 as 4.00638E+12."""


def read_decisions(path: Path) -> dict[str, tuple[str, str]]:
    """Read the decisions' CSV that a report's page downloads, in any dialect that a spreadsheet may have saved it in.

    Returns:
        Product -> (video key, decision).

    Raises:
        InputError: `report.no_approval`.
    """
    try:
        rows = rows_of(next(texts(path.read_bytes())), COLUMNS)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError("report.no_approval", f"{path}: {error}") from error
    decisions: dict[str, tuple[str, str]] = {}
    for row in rows:
        decision = row["video_key"], row["decision"].strip().lower()
        if decision[1] not in DECISIONS:
            problem = f"{row['decision'][:40]!r} is no decision; write one of {', '.join(DECISIONS)}"
            raise InputError("report.no_approval", f"{path}: {row['product_id']}: {problem}")
        if decisions.setdefault(row["product_id"], decision) != decision:
            raise InputError("report.no_approval", f"{path}: rows about {row['product_id']} contradict one another")
    return decisions


class PublicationResult(NamedTuple):
    """Outcome of a publication."""

    copied: list[str]
    """Ids of products whose files were copied."""
    skipped: list[str]
    """Messages, each starting with a product id: why it was not copied, and what remains of an earlier publication."""
    withdrawn: list[str]
    """Ids of products whose published files were removed because they have been rejected."""


def publish(catalog: Catalog, to: str, approved: Path | None, preset: str | None = None) -> PublicationResult:
    """Copy one video of each product to ``<product_id>/<file>``, and remove published files that must no longer be shown.

    `RECORD` in each product's folder lists its published files for later publications. Files are removed if the product is
    rejected or its best video fails the gate, or if a copied product has different frames now; other presets of the same frames
    are kept. Files of undecided or unknown products are never removed, but mentioned in `skipped`.

    Args:
        catalog: The catalogue of the videos.
        to: Destination: folder or fsspec URI.
        approved: The decisions' CSV; only the very videos that it approves are copied. Default: the best video of each product if
            it has passed the gate.
        preset: Copy only files of this preset: the best video with this preset, or the approved video's frames in this preset.
            Default: the preset of the best or approved video.

    Raises:
        InputError: `report.no_approval`, also if a decision is about a product that neither catalogue nor destination knows;
            nothing is published then.
        ConfigError: `video.unknown_preset`.
        CatalogError: `catalog.write_failed`.
    """
    if preset is not None:
        preset_named(preset)
    decisions = read_decisions(approved) if approved else None
    destination = _Destination.at(to)
    packaged = catalog.table("products", columns=["product_id"])["product_id"].to_pylist()
    result = PublicationResult([], [], [])
    best = {row["product_id"]: row for row in catalog.best_videos().to_pylist()}
    wanted = _of_preset(catalog.best_exports(), preset) if preset else best
    current = catalog.videos().to_pylist() if decisions is not None else []
    refused = catalog.rejects()["product_id"].to_pylist() if decisions is not None else []
    _refuse_unknown(decisions or {}, {*best, *packaged, *refused}, destination.published, current)
    for name, (_, decision) in (decisions or {}).items():
        if name not in best and decision == "approved":
            result.skipped.append(f"{name}: approved, but the catalogue has no current video of this product")
        elif name not in best and decision == "rejected" and name in destination.published:
            _skip(destination, result, name, decision, rejected=True)
    for name in sorted(destination.published & set(packaged) - set(best) - set(decisions or ())):
        _skip(destination, result, name, "the catalogue has no current video of this product", rejected=False)
    for identifier in best:
        if decisions is None:
            video, reason = wanted.get(identifier), f"no video of preset {preset}"
            if video is not None:
                reason = "" if video["gate"] == "pass" else f"gate: {video['gate'] or 'not scored'}"
            rejected = video is not None and video["gate"] == "fail"
        else:
            key, decision = decisions.get(identifier, ("", "undecided"))
            video, reason, rejected = None, decision, decision == "rejected"
            if decision == "approved":
                video, reason = _approved(
                    catalog, [row for row in current if row["product_id"] == identifier], key, preset
                )
        if video is None or reason:
            _skip(
                destination, result, identifier, reason, rejected=rejected, preset=preset if decisions is None else None
            )
            continue
        _copy(catalog, destination, video)
        result.copied.append(identifier)
    return result


def _refuse_unknown(
    decisions: Mapping[str, tuple[str, str]],
    products: Collection[str],
    published: Collection[str],
    videos: Sequence[Mapping[str, Any]],
) -> None:
    """Refuse decisions about products of which nothing is known: an id that a spreadsheet has changed would lose a rejection.

    Args:
        decisions: From `read_decisions`.
        products: Ids in the catalogue.
        published: Ids at the destination.
        videos: The catalogue's current videos.

    Raises:
        InputError: `report.no_approval`, which names them, and the products that they may mean.
    """
    unknown = {
        name: key
        for name, (key, decision) in decisions.items()
        if decision != "undecided" and name not in products and name not in published
    }
    if not unknown:
        return
    of_key = {row["key"]: row["product_id"] for row in videos}
    alike = {_folded(product): product for product in products}
    meant = {name: of_key.get(key) or alike.get(_folded(name)) for name, key in unknown.items()}
    listed = [f"{name!r} ({meant[name]}?)" if meant[name] else repr(name) for name in list(unknown)[:6]]
    message = f"no product of the catalogue has the id {', '.join(listed)}"
    if len(unknown) > len(listed):
        message += f" and {len(unknown) - len(listed)} more"
    if any(_SCIENTIFIC.fullmatch(name) or (meant[name] or "").lstrip("0") == name for name in unknown):
        message += ". Spreadsheets turn ids of digits into numbers: import the CSV with the column product_id as text"
    raise InputError("report.no_approval", f"{message}. Nothing was published")


def _folded(product_id: str) -> str:
    return product_id.casefold().lstrip("0")


def _skip(
    destination: _Destination,
    result: PublicationResult,
    identifier: str,
    reason: str,
    *,
    rejected: bool,
    preset: str | None = None,
) -> None:
    """Record why a product is not copied, and remove its published files if it is rejected: of one preset, or of all."""
    path = f"{destination.folder.path}/{identifier}"
    published = destination.exports(identifier)
    affected = [export for export in published if preset in (None, export["preset"])]
    if rejected and affected:
        destination.keep(identifier, published, [export for export in published if export not in affected])
        result.withdrawn.append(identifier)
        reason += f"; what was published of it was removed from {path}"
    elif affected:
        reason += f"; what was published of it before still lies in {path}"
    elif identifier in destination.published and not published:
        reason += f"; {path} is there, with files of which nothing says who put them there: they stay"
    result.skipped.append(f"{identifier}: {reason}")


def _of_preset(videos: pa.Table, preset: str) -> dict[str, dict[str, Any]]:
    return {row["product_id"]: row for row in videos.to_pylist() if row["preset"] == preset}


def _approved(
    catalog: Catalog, videos: Sequence[dict[str, Any]], key: str, preset: str | None
) -> tuple[dict[str, Any] | None, str]:
    """Return the approved video among a product's current ones, or its frames in another preset; else None and the reason."""
    approved = next((row for row in videos if row["key"] == key), None)
    if approved is None:
        return None, "the approved video is not current any more"
    if preset in (None, approved["preset"]):
        return approved, ""
    frames = _frames_identity(catalog, approved)
    others = (row for row in videos if row["preset"] == preset)
    same = next((row for row in others if _frames_identity(catalog, row) == frames), None)
    return same, "" if same else f"the approved video has no export of preset {preset}"


def _frames_identity(catalog: Catalog, video: Mapping[str, Any]) -> list[Any]:
    """Return everything that determines a video's frames, independent of its preset."""
    [name] = [name for name in video["files"] if name.endswith("provenance.json")]
    settings = Provenance.from_sidecar(catalog.folder.read(name).decode()).facts["settings"]
    return [video["product_key"], video["backend"], video["seed"], video["models"], settings]


def _copy(catalog: Catalog, destination: _Destination, video: Mapping[str, Any]) -> None:
    """Copy a video's files; other presets of the same frames are kept, all other published files of the product are removed."""
    identifier = video["product_id"]
    files = {media_name(name): name for name in video["files"]}
    new = {
        "preset": video["preset"],
        "frames": canonical_hash(_frames_identity(catalog, video)),
        "files": sorted(files),
    }
    before = destination.exports(identifier)
    kept = [export for export in before if export["frames"] == new["frames"] and export["preset"] != new["preset"]]
    # Recorded before the files are copied, so that the next publication knows what an interrupted one has left.
    destination.record(identifier, [*before, new])
    for name, path in files.items():
        destination.put(identifier, name, catalog.folder.read(path))
    destination.keep(identifier, [*before, new], [*kept, new])


@dataclass(frozen=True)
class _Destination:
    """Destination of published files, ``<product_id>/<file>``, with a `RECORD` of each product's exports."""

    folder: Folder
    published: frozenset[str]
    """Names of the product folders that existed when the destination was opened."""

    @classmethod
    def at(cls, uri: str) -> _Destination:
        """Open the destination at a local path or URI, which need not exist."""
        folder = Folder.at(uri)
        folder.filesystem.invalidate_cache(folder.path)
        try:
            entries = folder.filesystem.ls(folder.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        except OSError as error:
            raise CatalogError("catalog.unreadable", f"{folder.path}: {error}") from error
        names = (str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")
        return cls(folder, frozenset(names))

    def exports(self, identifier: str) -> list[dict[str, Any]]:
        """Return the published exports of a product: preset, hash of the frames and file names of each."""
        if identifier not in self.published:
            return []
        try:
            record = json.loads(self.folder.read(f"{identifier}/{RECORD}"))
            return [
                {
                    "preset": str(export["preset"]),
                    "frames": str(export["frames"]),
                    "files": list(map(_checked_name, export["files"])),
                }
                for export in record["exports"]
            ]
        except CatalogError as error:
            if error.code != "catalog.file_missing":
                raise
            return []  # published by an earlier release, or not by gapray
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            path = f"{self.folder.path}/{identifier}/{RECORD}"
            raise CatalogError("catalog.unreadable", f"{path}: {type(error).__name__}: {error}") from error

    def record(self, identifier: str, exports: Sequence[Mapping[str, Any]]) -> None:
        """Write a product's `RECORD`."""
        self.put(identifier, RECORD, json.dumps({"exports": list(exports)}, indent=1).encode())

    def put(self, identifier: str, name: str, data: bytes) -> None:
        """Write one file of a product."""
        parent, _, base = f"{identifier}/{name}".rpartition("/")
        with writing(CatalogError, "catalog.write_failed", f"{self.folder.path}/{parent}/{base}"):
            self.folder.put(parent, base, pa.py_buffer(data))

    def keep(self, identifier: str, exports: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> None:
        """Remove the files of a product's exports, except those of the kept exports; without any, also its folder."""
        path = f"{self.folder.path}/{identifier}"
        kept_files = {name for export in kept for name in export["files"]}
        with writing(CatalogError, "catalog.write_failed", path):
            for name in sorted({name for export in exports for name in export["files"]} - kept_files):
                self.folder.remove(f"{path}/{name}")
            if not kept:
                self.folder.remove(f"{path}/{RECORD}")
        if kept:
            self.record(identifier, kept)
        self.folder.prune(identifier)
        if not kept and self.folder.is_local:
            with suppress(OSError):  # it has other files
                os.rmdir(path)


def _checked_name(name: Any) -> str:
    """Validate a file name from a record, which others may have written, so that no file outside the product's folder is removed.

    Raises:
        ValueError: The name leads outside the folder.
    """
    text = str(name)
    if not text or text.startswith("/") or "\\" in text or {"..", ".", ""} & set(text.split("/")):
        raise ValueError(f"{text[:80]!r} is no file of this folder")
    return text
