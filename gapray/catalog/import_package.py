"""A package made elsewhere -> catalogue rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import refuse_gaps
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts, product_row, utc_now, view_row
from gapray.catalog.storage import Folder
from gapray.config import canonical_hash
from gapray.errors import CatalogError
from gapray.gap.images import decode_rgb, encode_jpeg, encode_png
from gapray.gap.package import UNNAMED, GapPackage
from gapray.inspect.doubts import with_warnings

REFERENCE_QUALITY = 95


Outcome = Literal["new", "same", "replaced"]
"""What became of an import: the catalogue had no such product, had this very package, or had another one of the same product."""


def import_package(folder: Folder, package: GapPackage, *, uri: str, allow_missing: bool = False) -> Outcome:
    """Commit one package, unless it is the product's current one.

    Args:
        folder: The catalogue; made when missing.
        package: From `gapray.gap.folder.read`. Without a key, or with that of a package that it is not any more, one is made
            of its pixels.
        uri: Where it came from.
        allow_missing: Take a package in which a view seems to be missing.

    Raises:
        InputError: `capture.missing_views`, by the rule that photos are packaged by.
    """
    if not allow_missing:
        refuse_gaps({view.name: view.azimuth_deg for view in package.views})
    held = _current(Catalog(folder), package.product_id)
    if held is not None and _alike(held, package):
        return "same"
    now = utc_now()
    models = {role: package.models.get(role, UNNAMED) for role in ("mask", "depth", "canny", "identity")}
    content = [[view.azimuth_deg, view.reference.tobytes().hex(), view.mask.tobytes().hex()] for view in package.views]
    changed = held is not None and held.key == package.key
    key = canonical_hash(content) if changed or not package.key else package.key
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
    return "new" if held is None else "replaced"


def _current(catalog: Catalog, product_id: str) -> GapPackage | None:
    try:
        return catalog.package(product_id)
    except CatalogError as error:
        if error.code != "catalog.product_not_found":
            raise
        return None


def _alike(held: GapPackage, package: GapPackage) -> bool:
    """Whether two packages hold the same views, pixel by pixel."""
    return len(held.views) == len(package.views) and all(
        abs(one.azimuth_deg - other.azimuth_deg) < 1e-6
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("mask", "depth", "identity"))
        and _as_kept(one.reference, other.reference)
        for one, other in zip(held.views, package.views, strict=True)
    )


def _as_kept(held: NDArray[np.uint8], reference: NDArray[np.uint8]) -> bool:
    """Whether a catalogue's reference is this one, as it came in or as an import saved it."""
    return np.array_equal(held, reference) or (
        held.shape == reference.shape and np.array_equal(held, decode_rgb(encode_jpeg(reference, REFERENCE_QUALITY)))
    )
