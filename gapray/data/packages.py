"""Photos -> GAP packages: `package_processor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import pyarrow as pa

from gapray.batch.package import package_pipeline
from gapray.batch.pipeline import Stage
from gapray.batch.rows import FINISHED, PLANNED, Row
from gapray.batch.runs import new_run_id
from gapray.capture.azimuths import refuse_gaps
from gapray.capture.capture_set import CaptureSet, Photo, Reject
from gapray.capture.manifest import manifest_row
from gapray.catalog.package_rows import PACKAGE_COLUMNS
from gapray.catalog.rows import RunFacts
from gapray.data.processor import Processor, processor
from gapray.errors import GaprayError
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.profile import Profile, load_profile

PHOTOS = pa.schema(
    [
        ("product_id", pa.string()),
        ("photos", pa.list_(pa.struct([("uri", pa.string()), ("azimuth_deg", pa.float64())]))),
    ]
)
"""Input of `package_processor`. `uri`: a local path or fsspec URI; `azimuth_deg`: 0 = front, increasing as the camera moves
counter-clockwise seen from above."""
PACKAGES = FINISHED
"""Output of `package_processor`: `product` and `views` are rows of the catalogue's `products` and `views`, images included."""


PACKAGE_FIELD = pa.field("package", pa.struct([field for field in FINISHED if field.name != "product_id"]))
"""What a row carries of its package while further stages work on it."""


def package_processor(profile: str | Profile = "classic") -> Processor:
    """Return a processor that makes GAP packages of photos.

    Args:
        profile: A profile's name, or one made by `gapray.profile.load_profile`.

    Returns:
        A processor from `PHOTOS` to `PACKAGES`.

    Raises:
        ModelError: A model's weights are not found.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    hashes = revisions(chosen.packaging)
    settings = chosen.packaging.digest(hashes)
    facts = RunFacts(new_run_id(), settings, chosen.name, model_names(chosen.packaging, hashes))

    def make_stages(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        pipeline = package_pipeline(cluster, profile=chosen, facts=facts, catalog="")
        return (Stage("package.take", _planned_rows, PHOTOS, PLANNED), *pipeline.stages)

    return processor(chosen.run, make_stages, chosen.run.products_per_block)


def _planned_rows(table: pa.Table) -> pa.Table:
    """Convert rows of `PHOTOS` to rows of `PLANNED`; unusable photos become an error in their row."""
    rows = []
    for row in table.to_pylist():
        identifier = str(row["product_id"])
        try:
            planned = manifest_row(_capture_set(identifier, row["photos"] or []))
        except GaprayError as error:
            planned = manifest_row(Reject.of(identifier, "", error))
        rows.append({name: planned.get(name) for name in PLANNED.names})
    return pa.Table.from_pylist(rows, schema=PLANNED)


def _capture_set(identifier: str, photos: Sequence[Row]) -> CaptureSet:
    """Return the capture set of a row's photos, sorted by azimuth.

    Raises:
        InputError: `capture.missing_views` or `capture.duplicate_azimuth`.
    """
    unsorted = [
        Photo(PurePosixPath(photo["uri"]).name, photo["uri"], float(photo["azimuth_deg"]) % 360.0, 0, photo["uri"])
        for photo in photos
    ]
    refuse_gaps({photo.uri: photo.azimuth_deg for photo in unsorted})
    ordered = tuple(sorted(unsorted, key=lambda photo: photo.azimuth_deg))
    return CaptureSet(identifier, str(PurePosixPath(ordered[0].uri).parent), ordered, "table")


def package_columns(row: Row) -> Row:
    """Return what a stage reads of a row of `PACKAGES`; a reject becomes the row's error."""
    product, reject = row["product"], row["reject"]
    return {
        "product_id": row["product_id"],
        "product_key": product["key"] if product else "",
        "product": product and {name: product[name] for name in PACKAGE_COLUMNS},
        "views": row["views"],
        "error_code": reject and reject["code"],
        "error_message": reject and reject["message"],
    }


def package_of(row: Row) -> Row:
    """Return a row of `PACKAGES` as the value of `PACKAGE_FIELD`."""
    return {field.name: row[field.name] for field in PACKAGE_FIELD.type}
