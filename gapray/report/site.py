"""The report: a static site that opens from disk, with an overview and a page per product."""

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
from gapray.capture.settings import DecodeSettings
from gapray.catalog.package_rows import package_of_rows
from gapray.catalog.reader import Catalog
from gapray.catalog.runs import GoneProducts, products_gone
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
"""Columns of `stills` that a product's page shows."""
ASSETS = ("style.css", "report.js")
AZIMUTHS: dict[AzimuthsBy | None, str] = {
    "degrees": "degrees in the photos' names",
    "frames": "frame numbers in the photos' names, as even steps",
    "table": "a table",
    "order": "nothing but the order of the photos, as even steps: check them",
    None: "not recorded",
}
"""How azimuths were determined, as described on a product's page."""


def write_report(
    catalog: Catalog,
    folder: Path,
    *,
    title: str = "Turntables",
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the site.

    Args:
        catalog: A catalogue with videos, scored or not.
        folder: Folder of the site; created if missing. Files of an earlier report are replaced.
        title: Title of the overview.
        on_progress: Called with the number of products written and the total.

    Returns:
        Path of the overview.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    templates = _templates()
    rows = catalog.products().to_pylist()
    by_product = {
        table: _by_product(getattr(catalog, table)().to_pylist())
        for table in ("verdicts", "rejects", "scores", "best_stills")
    }
    best = {row["product_id"]: row for row in catalog.best_videos().to_pylist()}
    gone = products_gone(catalog.folder)
    source_of = {name: group for group in reversed(gone) for name in group.products}
    missing = {
        row["product_id"]: f"No longer in {source_of[row['product_id']].source}; this is what was packaged before."
        for row in rows
        if row["product_id"] in source_of and row["created_at"] < source_of[row["product_id"]].since
    }
    try:
        (folder / "products").mkdir(parents=True, exist_ok=True)
        for name in ASSETS:
            (folder / name).write_text(_asset(name))

        def write_product(product: tuple[Mapping[str, Any], Callable[[], GapPackage]]) -> dict[str, Any]:
            row, load_package = product
            identifier = row["product_id"]
            facts = ProductFacts(
                identifier,
                best.get(identifier),
                by_product["verdicts"].get(identifier, []),
                by_product["scores"].get(identifier, []),
                by_product["rejects"].get(identifier, []),
                by_product["best_stills"].get(identifier, []),
                missing.get(identifier, ""),
            )
            return _write_product(catalog, load_package(), facts, folder, templates)

        listed: list[dict[str, Any]] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for products in _packages(catalog, rows):
                for summary in pool.map(write_product, products):
                    listed.append(summary)
                    if on_progress:
                        on_progress(len(listed), len(rows))
        listed.sort(key=lambda summary: str(summary["id"]))
        packaged = {row["product_id"] for row in rows}
        listed += [
            _reject_row(reject)
            for name, rejects in by_product["rejects"].items()
            if name not in packaged
            for reject in rejects[:1]
        ]
        (folder / "data.js").write_text(f"window.GAPRAY_PRODUCTS = {_script_json(listed)};\n")
        page = templates.get_template("index.html").render(
            title=title,
            counts=_counts(listed),
            gone=_gone_lines(gone, missing),
            table_header=HEADER,
            table=[row.cells() for row in fidelity_table(catalog)],
        )
        (folder / "index.html").write_text(page)
    except OSError as error:
        raise CatalogError("catalog.write_failed", f"{folder}: {error}") from error
    return folder / "index.html"


@dataclass(frozen=True)
class ProductFacts:
    """Current rows of one product in the catalogue."""

    product_id: str
    video: Mapping[str, Any] | None
    verdicts: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    stills: list[dict[str, Any]]
    """The best still of each scene."""
    gone: str
    """Message if the product's photos are gone from their source, else empty."""

    @property
    def shown_verdicts(self) -> list[dict[str, Any]]:
        """Verdicts on the video that is shown and on foreign videos, gapray's first."""
        key = self.video["key"] if self.video else None
        shown = [row for row in self.verdicts if row["video_key"] == key or row["foreign_video"]]
        return sorted(shown, key=lambda row: (row["label"] != OURS, row["foreign_video"], row["lpips"] or 9.0))

    @property
    def own(self) -> dict[str, Any] | None:
        """The verdict on gapray's own video, if it was scored."""
        return next((row for row in self.shown_verdicts if row["label"] == OURS and not row["foreign_video"]), None)

    @property
    def status(self) -> str:
        """Status in the overview: pass, fail, not scored or rejected."""
        if self.video is None:
            return "rejected" if self.rejects else "not scored"
        return self.own["gate"] if self.own else "not scored"


def _packages(
    catalog: Catalog, rows: list[dict[str, Any]]
) -> Iterator[list[tuple[dict[str, Any], Callable[[], GapPackage]]]]:
    """Yield the products of one part of the catalogue at a time: each one's row and a function that decodes its package."""
    waiting = {(row["product_id"], row["key"]): row for row in rows}

    def decode(row: dict[str, Any], views: pa.Table) -> GapPackage:
        own_views = views.filter(pc.equal(views["product_id"], row["product_id"]))
        return package_of_rows(row, own_views.to_pylist())

    for views in catalog.views_by_part():
        packages = views.select(["product_id", "key"]).group_by(["product_id", "key"]).aggregate([]).to_pylist()
        in_part = [waiting.pop((package["product_id"], package["key"]), None) for package in packages]
        yield [(row, partial(decode, row, views)) for row in in_part if row]
    # Products that were packaged again since the rows were read, or that have no views, which is an error.
    yield [(row, partial(catalog.package, row["product_id"])) for row in waiting.values()]


def _write_product(
    catalog: Catalog, package: GapPackage, facts: ProductFacts, folder: Path, templates: jinja2.Environment
) -> dict[str, Any]:
    """Write a product's page with its sprites and thumbnail; returns its row of the overview."""
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
            stills.append(_write_still(catalog, row, place))
        except GaprayError as error:
            problems.append({"stage": "report", "message": error.message, "code": error.code})
    own = facts.own
    # A video's warnings include those of its package at the time when it was drawn.
    package_warnings = [warning.message for warning in package.warnings or ()]
    warnings = list(dict.fromkeys([*(facts.video["warnings"] if facts.video else ()), *package_warnings]))
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


def _write_still(catalog: Catalog, row: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Write a small copy of a still beside the page; returns its data for the page's template."""
    limits = DecodeSettings(reference_side=STILL_SIDE)
    picture = decode_photo(catalog.folder.read(row["file"]), limits)
    name = f"{row['product_id']}.still-{row['scene']}.jpg"
    (place / name).write_bytes(jpeg(picture))
    cells = [f"{row[column]:.3f}" for column in STILL_COLUMNS]
    columns = {column: row[column] for column in ("scene", "gate", "pasted", "prompt", "reasons")}
    return {"src": name, "cells": cells, **columns}


def _sprite_facts(name: str, angles: list[float], columns: int) -> dict[str, Any]:
    return {"src": name, "angles": list(angles), "columns": columns, "rows": -(-len(angles) // columns)}


def _polar(facts: ProductFacts) -> str:
    shown = facts.shown_verdicts
    series = {
        row["label"]: [
            PolarPoint(score["azimuth_deg"], score["lpips"], score["kind"] == "key")
            for score in facts.scores
            if score["label"] == row["label"] and score["key"] == row["key"]
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
        return ""  # the page already shows the video's error


def _reject_row(reject: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overview's row of a product that was never packaged."""
    scores = dict.fromkeys(("lpips", "worst", "iou"))
    return scores | {
        "id": reject["product_id"],
        "video": "",
        "status": "rejected",
        "reason": f"{reject['message']} [{reject['code']}]",
        "thumb": "",
        "page": "",
        "azimuths_by": None,
    }


def _counts(listed: list[dict[str, Any]]) -> str:
    names = ("pass", "fail", "not scored", "rejected")
    counted = {name: sum(row["status"] == name for row in listed) for name in names}
    return f"{len(listed)} products: " + ", ".join(f"{count} {name}" for name, count in counted.items())


def _gone_lines(gone: Sequence[GoneProducts], missing: Mapping[str, str]) -> list[str]:
    """Return a line with the number of products that are still gone from each source."""
    counts = {group.source: group.count - sum(name not in missing for name in group.products) for group in gone}
    return [f"No longer in {source}: {count} of the products here." for source, count in counts.items() if count]


def _by_product(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["product_id"], []).append(row)
    return groups


def _templates() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined)


def _asset(name: str) -> str:
    return (resources.files("gapray.report") / "templates" / name).read_text()


def _script_json(data: object) -> str:
    """Serialise data to JSON for a script element, escaping "</", which would end it."""
    return json.dumps(data).replace("</", "<\\/").replace("<!--", "<\\!--")
