"""A package made elsewhere -> catalogue rows."""

from __future__ import annotations

from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts, product_row, utc_now, view_row
from gapray.catalog.storage import Folder
from gapray.config import canonical_hash
from gapray.gap.images import encode_jpeg, encode_png
from gapray.gap.package import UNNAMED, GapPackage

REFERENCE_QUALITY = 95


def import_package(folder: Folder, package: GapPackage, *, uri: str) -> None:
    """Commit one package.

    Args:
        folder: The catalogue; made when missing.
        package: From `gapray.gap.folder.read`. Without a key, one is made of its pixels.
        uri: Where it came from.
    """
    now = utc_now()
    models = {role: package.models.get(role, UNNAMED) for role in ("mask", "depth", "canny", "identity")}
    content = [[view.azimuth_deg, view.reference.tobytes().hex(), view.mask.tobytes().hex()] for view in package.views]
    key = package.key or canonical_hash(content)
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
        **shared,  # type: ignore[arg-type]
    )
    after = Catalog(folder).newest("products", "rejects")
    commit(folder, {"views": views, "products": [product]}, after=after)
