"""Import of packages that were made elsewhere into a catalogue."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import refuse_gaps
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts, product_row, utc_now, view_row
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError
from gapray.gap.images import decode_rgb, encode_jpeg, encode_png
from gapray.gap.package import UNNAMED, GapPackage
from gapray.inspect.doubts import with_warnings
from gapray.settings import canonical_hash

REFERENCE_QUALITY = 95
"""JPEG quality of imported references."""

Outcome = Literal["new", "same", "replaced"]
"""Outcome of an import: the catalogue had no such product, had an identical package, or had a different package of the product."""


def import_package(folder: Folder, package: GapPackage, *, uri: str, allow_missing: bool = False) -> Outcome:
    """Commit one package, unless the product's current one has the same views and all of its warnings.

    Args:
        folder: The catalogue; created if missing.
        package: From `gapray.gap.folder.read`. If it has no key, or has the key of the current package but different content, a
            key is computed from its pixels.
        uri: Where the package came from.
        allow_missing: Accept a package in which a view seems to be missing.

    Returns:
        What has happened to the catalogue.

    Raises:
        InputError: `capture.missing_views`, by the same rule as for photos.
        CatalogError: `catalog.write_failed`.
    """
    if not allow_missing:
        refuse_gaps({view.name: view.azimuth_deg for view in package.views})
    current = _current_package(Catalog(folder), package.product_id)
    same_views = current is not None and _same_views(current, package)
    if current is not None and same_views and set(package.warnings or ()) <= set(current.warnings or ()):
        return "same"
    now = utc_now()
    models = {role: package.models.get(role, UNNAMED) for role in ("mask", "depth", "canny", "identity")}
    content = [[view.azimuth_deg, view.reference.tobytes().hex(), view.mask.tobytes().hex()] for view in package.views]
    changed = current is not None and current.key == package.key
    key = canonical_hash(content) if changed or not package.key else package.key
    if current is not None and same_views:  # only its warnings are new
        key = current.key
    facts = RunFacts(f"import-{now:%Y%m%dT%H%M%S}", UNNAMED, UNNAMED, models)
    shared = {"product_id": package.product_id, "key": key, "facts": facts, "now": now}
    views = [
        view_row(view, encode_jpeg(view.reference, REFERENCE_QUALITY), encode_png(view.mask), **shared)  # type: ignore[arg-type]
        for view in package.views
    ]
    product = product_row(
        source=canonical_hash([uri, key]),
        uri=uri,
        azimuths_deg=[view.azimuth_deg for view in package.views],
        depth_scale=package.depth_scale,
        depth_shift=package.depth_shift,
        azimuths_by=package.azimuths_by,
        warnings=with_warnings(package, again=True).warnings,
        **shared,  # type: ignore[arg-type]
    )
    after = Catalog(folder).newest("products", "rejects")
    commit(folder, {"views": views, "products": [product]}, after=after)
    return "new" if current is None else "replaced"


def _current_package(catalog: Catalog, product_id: str) -> GapPackage | None:
    try:
        return catalog.package(product_id)
    except CatalogError as error:
        if error.code != "catalog.product_not_found":
            raise
        return None


def _same_views(current: GapPackage, package: GapPackage) -> bool:
    """Return whether two packages have the same views, pixel by pixel."""
    return len(current.views) == len(package.views) and all(
        abs(view.azimuth_deg - other.azimuth_deg) < 1e-6
        and all(
            np.array_equal(getattr(view, name), getattr(other, name)) for name in ("mask", "depth", "canny", "identity")
        )
        and _same_reference(view.reference, other.reference)
        for view, other in zip(current.views, package.views, strict=True)
    )


def _same_reference(current: NDArray[np.uint8], reference: NDArray[np.uint8]) -> bool:
    """Return whether a catalogue's reference equals this one, either as it is or as an import would store it."""
    if current.shape != reference.shape:
        return False
    return np.array_equal(current, reference) or np.array_equal(
        current, decode_rgb(encode_jpeg(reference, REFERENCE_QUALITY))
    )
