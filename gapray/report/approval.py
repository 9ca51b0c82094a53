"""Publishing: the approved videos' files, copied to where shops read them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from gapray.capture.tables import rows_of, texts
from gapray.catalog.reader import Catalog
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, InputError

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
    return {row["product_id"]: (row["video_key"], row["decision"].lower()) for row in rows}


def publish(catalog: Catalog, to: str, approved: Path | None) -> tuple[list[str], list[str]]:
    """Copy the best video of each product, as ``<product_id>/<file>``.

    Args:
        catalog: Where they lie.
        to: Folder or fsspec URI.
        approved: Only what this CSV approves; default: all that passed the gate.

    Returns:
        Products copied, and sentences about those that were not.

    Raises:
        InputError: `report.no_approval`.
        CatalogError: `catalog.write_failed`.
    """
    decisions = read_decisions(approved) if approved else None
    target = Folder.at(to)
    copied: list[str] = []
    skipped: list[str] = []
    for video in catalog.best_videos().to_pylist():
        identifier = video["product_id"]
        if decisions is not None:
            key, decision = decisions.get(identifier, ("", "undecided"))
            reason = None if decision == "approved" else decision
            if reason is None and key != video["key"]:
                reason = "another video than the approved one is the best now"
        else:
            reason = None if video["gate"] == "pass" else f"gate: {video['gate'] or 'not scored'}"
        if reason:
            skipped.append(f"{identifier}: {reason}")
            continue
        _copy(catalog, target, identifier, video["files"])
        copied.append(identifier)
    return copied, skipped


def _copy(catalog: Catalog, target: Folder, identifier: str, files: Sequence[str]) -> None:
    for name in files:
        inner, _, last = f"{identifier}/{name.split('/', 3)[3]}".rpartition("/")
        try:
            target.put(inner, last, pa.py_buffer(catalog.folder.read(name)))
        except OSError as error:
            raise CatalogError("catalog.write_failed", f"{identifier}/{last}: {error}") from error
