"""Publishing: the approved videos' files, copied to where shops read them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gapray.capture.tables import rows_of, texts
from gapray.catalog.media import media_name
from gapray.catalog.reader import Catalog
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, InputError, writing
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance

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
        said = row["video_key"], row["decision"].lower()
        if decisions.setdefault(row["product_id"], said) != said:
            raise InputError("report.no_approval", f"{path}: rows about {row['product_id']} contradict one another")
    return decisions


def publish(catalog: Catalog, to: str, approved: Path | None, preset: str | None = None) -> tuple[list[str], list[str]]:
    """Copy one video of each product, as ``<product_id>/<file>``.

    Args:
        catalog: Where they lie.
        to: Folder or fsspec URI.
        approved: Only what this CSV approves, that very video; default: the best of each product, where it passed the gate.
        preset: Only files of this preset: the best video in it, or the export of the approved video's frames. Default: the
            preset of the best or approved video.

    Returns:
        Products copied, and sentences about those that were not.

    Raises:
        InputError: `report.no_approval`.
        ConfigError: `video.unknown_preset`.
        CatalogError: `catalog.write_failed`.
    """
    if preset is not None:
        preset_named(preset)
    decisions = read_decisions(approved) if approved else None
    target = Folder.at(to)
    copied: list[str] = []
    skipped: list[str] = []
    best = {row["product_id"]: row for row in catalog.best_videos().to_pylist()}
    wanted = _of_preset(catalog.best_exports(), preset) if preset else best
    current = catalog.videos().to_pylist() if decisions is not None else []
    gone = [name for name, (_, decision) in (decisions or {}).items() if decision == "approved" and name not in best]
    skipped += [f"{name}: approved, but the catalogue has no current video of this product" for name in gone]
    for identifier in best:
        if decisions is None:
            video, reason = wanted.get(identifier), f"no video of preset {preset}"
            if video is not None:
                reason = "" if video["gate"] == "pass" else f"gate: {video['gate'] or 'not scored'}"
        else:
            key, decision = decisions.get(identifier, ("", "undecided"))
            video, reason = None, decision
            if decision == "approved":
                video, reason = _approved(
                    catalog, [row for row in current if row["product_id"] == identifier], key, preset
                )
        if video is None or reason:
            skipped.append(f"{identifier}: {reason}")
            continue
        _copy(catalog, target, identifier, video["files"])
        copied.append(identifier)
    return copied, skipped


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


def _copy(catalog: Catalog, target: Folder, identifier: str, files: Sequence[str]) -> None:
    for name in files:
        inner, _, last = f"{identifier}/{media_name(name)}".rpartition("/")
        data = pa.py_buffer(catalog.folder.read(name))
        with writing(CatalogError, "catalog.write_failed", f"{target.path}/{inner}/{last}"):
            target.put(inner, last, data)
