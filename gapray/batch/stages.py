"""The stages of `gapray package`: functions and callable classes from Arrow tables to Arrow tables, one product a row.

They apply the functions of `gapray.packaging` to rows. Classes hold models and run in actors.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gapray.batch.resources import GpuShare, configure_worker
from gapray.batch.rows import (
    FINISHED,
    IN_FLIGHT,
    RECEIPT,
    Row,
    fail,
    is_live,
    nearness_of,
    pixels_of,
    process_live_rows,
    work_of,
)
from gapray.capture.azimuths import refuse_gaps
from gapray.capture.manifest import capture_set
from gapray.catalog.parts import PART_BYTES, commit
from gapray.catalog.rows import RunFacts, product_row, reject_row, utc_now, view_row
from gapray.catalog.schemas import PRODUCTS, REJECTS, VIEWS
from gapray.catalog.storage import Folder
from gapray.errors import REMEDIES
from gapray.gap.images import decode_grey8, encode_png
from gapray.gap.package import GapView, PackageWarning
from gapray.gap.settings import PackagingSettings
from gapray.inspect.doubts import photo_warnings
from gapray.models.depth import MaskedSet
from gapray.models.load import load_canny, load_depth, load_identity, load_mask, require
from gapray.packaging.silhouette import silhouette
from gapray.packaging.steps import (
    content_key,
    decode_view,
    depth_range,
    depth_to_16bit,
    finish_view,
    refuse_repeats,
    work_image,
)


def decode(table: pa.Table, *, settings: PackagingSettings, settings_hash: str) -> pa.Table:
    """Read and decode the photos of rows of `PLANNED` and compute their keys; returns rows of `IN_FLIGHT`. Needs no model."""
    rows = table.to_pylist()
    for row in rows:
        row.update(key=None, views=[])
        if row["error_code"] is None:
            try:
                _decode_row(row, settings, settings_hash)
            except Exception as error:
                fail(row, error)
    return pa.Table.from_pylist(rows, schema=IN_FLIGHT)


def _decode_row(row: Row, settings: PackagingSettings, settings_hash: str) -> None:
    capture = capture_set(row)
    refuse_gaps({str(index): photo.azimuth_deg for index, photo in enumerate(capture.photos)}, allow_missing=True)
    decoded = [decode_view(photo, settings.decode) for photo in capture.photos]
    refuse_repeats(capture, [view.sha256 for view in decoded])
    content = [(view.photo.azimuth_deg, view.sha256) for view in decoded]
    row["key"] = content_key(content, settings_hash)
    if row["former_uri"] is not None:
        # A former package of the same photos, made by another run or imported from an export, is the same product.
        same_keys = {row["key"], content_key(content, row["former_settings"])}
        row["former_uri"] = None if row["former_key"] in same_keys else row["former_uri"]
    if not is_live(row):
        return
    row["views"] = [
        {
            "name": view.photo.name,
            "uri": view.photo.uri,
            "azimuth_deg": view.photo.azimuth_deg,
            "sha256": view.sha256,
            "reference": view.reference,
            "pixels": view.pixels.tobytes(),
            "height": view.pixels.shape[0],
            "width": view.pixels.shape[1],
        }
        for view in decoded
    ]


class Mask:
    """Adds masks and work images; each actor loads one mask network."""

    def __init__(self, *, settings: PackagingSettings, facts: RunFacts, threads: int, gpu: GpuShare | None) -> None:
        self._settings = settings
        require(facts.models["mask"])
        self._model = load_mask(settings, threads=threads, device="cuda" if gpu else "cpu")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add masks and work images to rows of `IN_FLIGHT`, and drop the pixels."""
        rows = table.to_pylist()
        process_live_rows(rows, self._add_masks)
        return pa.Table.from_pylist(rows, schema=IN_FLIGHT)

    def _add_masks(self, rows: list[Row]) -> None:
        views = [view for row in rows for view in row["views"]]
        photos = [pixels_of(view) for view in views]
        updates: list[dict[str, Any]] = []
        for photo, soft in zip(photos, self._model.predict(photos), strict=True):
            mask = silhouette(photo, soft, self._settings.mask)
            work = work_image(photo, mask, self._settings.depth.work_side)
            updates.append(
                {
                    "mask": encode_png(mask),
                    "work": work.tobytes(),
                    "work_height": work.shape[0],
                    "work_width": work.shape[1],
                    "pixels": None,
                }
            )
        for view, update in zip(views, updates, strict=True):
            view.update(update)


class Describe:
    """Adds depth and identity features; both networks are in one actor, on a share of a GPU if there is one."""

    def __init__(self, *, settings: PackagingSettings, facts: RunFacts, batch: int, gpu: GpuShare | None) -> None:
        device = configure_worker(gpu)
        require(facts.models["depth"], facts.models["identity"])
        self._depth = load_depth(settings, device=device, batch=batch)
        self._identity = load_identity(settings, device=device, batch=batch)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add depth and identity features to rows of `IN_FLIGHT`, and drop the work images."""
        rows = table.to_pylist()
        process_live_rows(rows, self._add_depth_and_features)
        return pa.Table.from_pylist(rows, schema=IN_FLIGHT)

    def _add_depth_and_features(self, rows: list[Row]) -> None:
        sets = [
            MaskedSet([work_of(view) for view in row["views"]], [view["azimuth_deg"] for view in row["views"]])
            for row in rows
        ]
        depths = self._depth.predict(sets)
        features = iter(self._identity.predict([image for masked_set in sets for image in masked_set.rgba]))
        for row, masked_set, nearness in zip(rows, sets, depths, strict=True):
            masks = [image[..., 3] for image in masked_set.rgba]
            row["depth_scale"], row["depth_shift"] = depth_range(nearness, masks)
            for view, near in zip(row["views"], nearness, strict=True):
                view.update(nearness=near.astype(np.float16).tobytes(), features=next(features), work=None)


class Encode:
    """Converts products to catalogue rows: computes edges, 16-bit depth and identities, and encodes images as PNG."""

    def __init__(self, *, settings: PackagingSettings, facts: RunFacts) -> None:
        self._canny = load_canny(settings)
        self._facts = facts

    def __call__(self, table: pa.Table) -> pa.Table:
        """Convert rows of `IN_FLIGHT` to rows of `FINISHED`; a row with an error becomes a reject."""
        finished = []
        for row in table.to_pylist():
            try:
                finished.append(self._finished(row))
            except Exception as error:
                fail(row, error)
                finished.append(self._finished(row))
        return pa.Table.from_pylist(finished, schema=FINISHED)

    def _finished(self, row: Row) -> Row:
        now = utc_now()
        shared = {"product_id": row["product_id"], "facts": self._facts, "now": now}
        if row["error_code"] is not None:
            reject = reject_row(
                source=row["source"], uri=row["uri"], code=row["error_code"], message=row["error_message"], **shared
            )
            return {"product_id": row["product_id"], "product": None, "views": [], "reject": reject}
        views: list[Row] = []
        known = row["known_warnings"]
        warnings = None if known is None else [PackageWarning(**warning) for warning in known]
        if is_live(row):
            finished = [self._view(view, row) for view in row["views"]]
            seen = photo_warnings(*zip(*((view.name, view.reference, view.mask) for view in finished), strict=True))
            warnings = [*_source_changed(row), *seen]
            views = [
                view_row(view, encoded["reference"], encoded["mask"], key=row["key"], **shared)
                for view, encoded in zip(finished, row["views"], strict=True)
            ]
        product = product_row(
            key=row["key"],
            source=row["source"],
            uri=row["uri"],
            azimuths_deg=[photo["azimuth_deg"] for photo in row["photos"]],
            depth_scale=row["depth_scale"],
            depth_shift=row["depth_shift"],
            azimuths_by=row["azimuths_by"],
            warnings=warnings,
            **shared,
        )
        return {"product_id": row["product_id"], "product": product, "views": views, "reject": None}

    def _view(self, view: Row, row: Row) -> GapView:
        mask = decode_grey8(view["mask"])
        return finish_view(
            name=view["name"],
            azimuth_deg=view["azimuth_deg"],
            uri=view["uri"],
            sha256=view["sha256"],
            reference=view["reference"],
            mask=mask,
            depth=depth_to_16bit(nearness_of(view), mask, row["depth_scale"], row["depth_shift"]),
            features=np.asarray(view["features"], np.float32),
            canny=self._canny,
        )


def _source_changed(row: Row) -> tuple[PackageWarning, ...]:
    """Return a warning if the package replaces one of different photos from another location."""
    if row["former_uri"] is None:
        return ()
    code = "product.source_changed"
    message = f"{row['uri']} takes the place of {row['former_uri']}, whose photos are others, under the same id"
    return (PackageWarning(code, f"{message}. {REMEDIES[code]}"),)


def write(table: pa.Table, *, catalog: str, after: datetime | None, part_bytes: int = PART_BYTES) -> pa.Table:
    """Commit one part of finished products; returns rows of `RECEIPT`. Works on Arrow data only, because images are large."""
    finished = table.combine_chunks()
    commit(
        Folder.at(catalog),
        {
            "views": _rows(pc.list_flatten(finished["views"]), VIEWS),
            "products": _rows(finished["product"].drop_null(), PRODUCTS),
            "rejects": _rows(finished["reject"].drop_null(), REJECTS),
        },
        after=after,
        part_bytes=part_bytes,
    )
    views = pc.list_value_length(finished["views"]).cast(pa.int32())
    rejected = pc.is_valid(finished["reject"])
    outcome = pc.if_else(rejected, "rejected", pc.if_else(pc.greater(views, 0), "packaged", "unchanged"))
    columns = {"product_id": finished["product_id"], "outcome": outcome, "views": views}
    columns |= {name: pc.struct_field(finished["reject"], name) for name in ("code", "message")}
    columns["warnings"] = pc.struct_field(finished["product"], "warnings")
    return pa.table(columns, schema=RECEIPT)


def _rows(structs: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_struct_array(structs).cast(schema)
