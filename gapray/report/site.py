"""The report: a static site that opens from disk, an overview and a page a product."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gapray.capture.azimuths import AzimuthsBy
from gapray.capture.decode import decode_photo
from gapray.catalog.reader import Catalog, package_of_rows
from gapray.catalog.runs import Gone, gone
from gapray.config import DecodeSettings
from gapray.errors import CatalogError, GaprayError
from gapray.fidelity.score import OURS
from gapray.gap.package import GapPackage
from gapray.report.pictures import frames_of, jpeg, photos_of, sprite
from gapray.report.polar import PolarPoint, polar_svg
from gapray.report.table import HEADER, fidelity_table

TURN_SIDE, PHOTO_SIDE, THUMB_SIDE = 360, 360, 112
COLUMNS = 6
STILL_SIDE = 480
STILL_COLUMNS = (
    "score",
    "same_percentile",
    "other_percentile",
    "cosine",
    "lpips",
    "iou",
    "colour",
    "hue",
    "detail",
    "mirror",
)
"""Columns of `stills` that the product's page shows."""
ASSETS = ("style.css", "report.js")
AZIMUTHS: dict[AzimuthsBy | None, str] = {
    "degrees": "degrees in the photos' names",
    "frames": "frame numbers in the photos' names, as even steps",
    "table": "a table",
    "order": "nothing but the order of the photos, as even steps: check them",
    None: "not recorded",
}
"""How azimuths were known, as the product's page says it."""


def write_report(
    catalog: Catalog,
    folder: Path,
    *,
    title: str = "Turntables",
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the site.

    Args:
        catalog: With videos, scored or not.
        folder: Made when missing; files of an earlier report are replaced.
        title: Of the overview.
        on_progress: Told of products done and products in all.

    Returns:
        The overview's path.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    templates = _templates()
    rows = catalog.products().to_pylist()
    known = {
        table: _by_product(getattr(catalog, table)().to_pylist())
        for table in ("verdicts", "rejects", "scores", "best_stills")
    }
    best = {row["product_id"]: row for row in catalog.best_videos().to_pylist()}
    lost = gone(catalog.folder)
    source_of = {name: source for source in reversed(lost) for name in source.products}
    missing = {
        row["product_id"]: f"No longer in {source_of[row['product_id']].source}; this is what was packaged before."
        for row in rows
        if row["product_id"] in source_of and row["created_at"] < source_of[row["product_id"]].since
    }
    try:
        (folder / "products").mkdir(parents=True, exist_ok=True)
        for name in ASSETS:
            (folder / name).write_text(_asset(name))

        def written(row: Mapping[str, Any], package: GapPackage) -> dict[str, Any]:
            identifier = row["product_id"]
            facts = ProductFacts(
                identifier,
                best.get(identifier),
                known["verdicts"].get(identifier, []),
                known["scores"].get(identifier, []),
                known["rejects"].get(identifier, []),
                known["best_stills"].get(identifier, []),
                missing.get(identifier, ""),
            )
            return _write_product(catalog, package, facts, folder, templates)

        listed: list[dict[str, Any]] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for some in _packages(catalog, rows):
                for summary in pool.map(lambda told: written(told[0], told[1]()), some):
                    listed.append(summary)
                    if on_progress:
                        on_progress(len(listed), len(rows))
        listed.sort(key=lambda summary: str(summary["id"]))
        packaged = {row["product_id"] for row in rows}
        listed += [
            _rejected(one) for name, ones in known["rejects"].items() if name not in packaged for one in ones[:1]
        ]
        (folder / "data.js").write_text(f"window.GAPRAY_PRODUCTS = {_script_json(listed)};\n")
        page = templates.get_template("index.html").render(
            title=title,
            counts=_counts(listed),
            gone=_gone_lines(lost, missing),
            table_header=HEADER,
            table=[row.cells() for row in fidelity_table(catalog)],
        )
        (folder / "index.html").write_text(page)
    except OSError as error:
        raise CatalogError("catalog.write_failed", f"{folder}: {error}") from error
    return folder / "index.html"


@dataclass(frozen=True)
class ProductFacts:
    """What the catalogue says of one product."""

    product_id: str
    video: Mapping[str, Any] | None
    verdicts: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    stills: list[dict[str, Any]]
    """The best of each scene."""
    gone: str
    """That its photos are where they were no more; empty where they are there."""

    @property
    def shown_verdicts(self) -> list[dict[str, Any]]:
        """Verdicts of the video that is shown, and of foreign videos; ours first."""
        key = self.video["key"] if self.video else None
        mine = [row for row in self.verdicts if row["video_key"] == key or row["foreign_video"]]
        return sorted(mine, key=lambda row: (row["label"] != OURS, row["foreign_video"], row["lpips"] or 9.0))

    @property
    def own(self) -> dict[str, Any] | None:
        """Our verdict."""
        return next((row for row in self.shown_verdicts if row["label"] == OURS and not row["foreign_video"]), None)

    @property
    def status(self) -> str:
        """For the overview's filter."""
        if self.video is None:
            return "rejected" if self.rejects else "not scored"
        return self.own["gate"] if self.own else "not scored"


def _packages(
    catalog: Catalog, rows: list[dict[str, Any]]
) -> Iterator[list[tuple[dict[str, Any], Callable[[], GapPackage]]]]:
    """Each product's row and what decodes its package, a part of the catalogue at a time."""
    waiting = {(row["product_id"], row["key"]): row for row in rows}

    def decoded(row: dict[str, Any], views: pa.Table) -> GapPackage:
        mine = views.filter(pc.equal(views["product_id"], row["product_id"]))
        return package_of_rows(row, mine.to_pylist())

    for views in catalog.views_by_part():
        found = views.select(["product_id", "key"]).group_by(["product_id", "key"]).aggregate([]).to_pylist()
        here = [waiting.pop((package["product_id"], package["key"]), None) for package in found]
        yield [(row, partial(decoded, row, views)) for row in here if row]
    # Packaged anew since the rows were read, or without views, which is an error.
    yield [(row, partial(catalog.package, row["product_id"])) for row in waiting.values()]


def _write_product(
    catalog: Catalog, package: GapPackage, facts: ProductFacts, folder: Path, templates: jinja2.Environment
) -> dict[str, Any]:
    """One page with its two sprites and thumbnail; returns the overview's row."""
    identifier = facts.product_id
    place = folder / "products"
    photos = sprite(photos_of(package, PHOTO_SIDE), PHOTO_SIDE, 4)
    (place / f"{identifier}.photos.jpg").write_bytes(jpeg(photos))
    angles = [view.azimuth_deg for view in package.views]
    turn, problems = None, list(facts.rejects)
    thumb = sprite(photos_of(package, THUMB_SIDE)[:1], THUMB_SIDE, 1)
    if facts.video:
        try:
            frames = frames_of(catalog, facts.video)
            (place / f"{identifier}.turn.jpg").write_bytes(jpeg(sprite(list(frames), TURN_SIDE, COLUMNS)))
            thumb = sprite([frames[0]], THUMB_SIDE, 1)
            turn = _sprite_facts(f"{identifier}.turn.jpg", facts.video["azimuths_deg"], COLUMNS)
        except GaprayError as error:
            problems.append({"stage": "report", "message": error.message, "code": error.code})
    (place / f"{identifier}.thumb.jpg").write_bytes(jpeg(np.ascontiguousarray(thumb), 80))
    stills = []
    for row in facts.stills:
        try:
            stills.append(_still(catalog, row, place))
        except GaprayError as error:
            problems.append({"stage": "report", "message": error.message, "code": error.code})
    own = facts.own
    # A video repeats what was known of its package when it was drawn.
    seen = [warning.message for warning in package.warnings or ()]
    warnings = list(dict.fromkeys([*(facts.video["warnings"] if facts.video else ()), *seen]))
    reasons = (own["reasons"] if own else [problem["message"] for problem in problems[:1]]) or warnings[:1]
    data = {"photos": _sprite_facts(f"{identifier}.photos.jpg", angles, 4), "turn": turn}
    page = templates.get_template("product.html").render(
        id=identifier,
        status=facts.status,
        video_key=facts.video["key"] if facts.video else "",
        reasons=own["reasons"] if own else [],
        gone=facts.gone,
        warnings=warnings,
        azimuths=AZIMUTHS[package.azimuths_by],
        guessed=package.azimuths_by == "order",
        turn={"frames": facts.video["azimuths_deg"]} if turn and facts.video else None,
        polar=_polar(facts),
        verdicts=[{"label": row["label"], "cells": _cells(row)} for row in facts.shown_verdicts],
        notes=[f"{row['label']}: {note}" for row in facts.shown_verdicts for note in row["notes"]],
        rejects=problems,
        stills=stills,
        still_columns=STILL_COLUMNS,
        provenance=_provenance(catalog, facts),
        protocol=json.dumps(json.loads(own["protocol"]), indent=2) if own else "",
        facts=_script_json(data),
    )
    (place / f"{identifier}.html").write_text(page)
    return {
        "id": identifier,
        "video": facts.video["key"] if facts.video else "",
        "status": facts.status,
        "lpips": own["lpips"] if own else None,
        "worst": own["worst_lpips"] if own else None,
        "iou": own["iou"] if own else None,
        "reason": "; ".join([*reasons, *([facts.gone] if facts.gone else [])]),
        "thumb": f"products/{identifier}.thumb.jpg",
        "page": f"products/{identifier}.html",
        "azimuths_by": package.azimuths_by,
    }


def _still(catalog: Catalog, row: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """One still, small, beside the page; and its numbers."""
    limits = DecodeSettings(reference_side=STILL_SIDE)
    picture = decode_photo(catalog.folder.read(row["file"]), limits)
    name = f"{row['product_id']}.still-{row['scene']}.jpg"
    (place / name).write_bytes(jpeg(picture))
    cells = [f"{row[column]:.3f}" for column in STILL_COLUMNS]
    told = {"src": name, "scene": row["scene"], "gate": row["gate"], "pasted": row["pasted"], "cells": cells}
    return told | {"prompt": row["prompt"], "reasons": row["reasons"]}


def _sprite_facts(name: str, angles: list[float], columns: int) -> dict[str, Any]:
    return {"src": name, "angles": list(angles), "columns": columns, "rows": -(-len(angles) // columns)}


def _polar(facts: ProductFacts) -> str:
    shown = facts.shown_verdicts
    series = {
        row["label"]: [
            PolarPoint(one["azimuth_deg"], one["lpips"], one["kind"] == "key")
            for one in facts.scores
            if one["label"] == row["label"] and one["key"] == row["key"]
        ]
        for row in shown
    }
    return polar_svg(series, title=f"LPIPS of {facts.product_id} by angle") if series else ""


def _cells(row: Mapping[str, Any]) -> list[str]:
    digits = {"lpips": 3, "worst_lpips": 3, "psnr": 1, "ssim": 3, "iou": 3, "identity": 3}
    return ["" if row[name] is None else f"{row[name]:.{count}f}" for name, count in digits.items()]


def _provenance(catalog: Catalog, facts: ProductFacts) -> str:
    if facts.video is None:
        return ""
    [name] = [name for name in facts.video["files"] if name.endswith("provenance.json")]
    try:
        return json.dumps(json.loads(catalog.folder.read(name)), indent=2)
    except GaprayError:
        return ""  # the page says of the video what is wrong


def _rejected(one: Mapping[str, Any]) -> dict[str, Any]:
    nothing = dict.fromkeys(("lpips", "worst", "iou"))
    return nothing | {
        "id": one["product_id"],
        "video": "",
        "status": "rejected",
        "reason": f"{one['message']} [{one['code']}]",
        "thumb": "",
        "page": "",
        "azimuths_by": None,
    }


def _counts(listed: list[dict[str, Any]]) -> str:
    names = ("pass", "fail", "not scored", "rejected")
    counted = {name: sum(row["status"] == name for row in listed) for name in names}
    return f"{len(listed)} products: " + ", ".join(f"{count} {name}" for name, count in counted.items())


def _gone_lines(lost: Sequence[Gone], missing: Mapping[str, str]) -> list[str]:
    """How many products of each source are still gone from it."""
    counts = {group.source: group.count - sum(name not in missing for name in group.products) for group in lost}
    return [f"No longer in {source}: {count} of the products here." for source, count in counts.items() if count]


def _by_product(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["product_id"], []).append(row)
    return found


def _templates() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined)


def _asset(name: str) -> str:
    return (resources.files("gapray.report") / "templates" / name).read_text()


def _script_json(data: object) -> str:
    """JSON for a script element, which "</" would end."""
    return json.dumps(data).replace("</", "<\\/").replace("<!--", "<\\!--")
