"""Packages from rows of `products` and `views`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gapray.errors import CatalogError
from gapray.gap.images import decode_grey8, decode_grey16, decode_rgb
from gapray.gap.package import GapPackage, GapView, PackageWarning, Quality

PACKAGE_COLUMNS = ["product_id", "key", "views", "depth_scale", "depth_shift", "warnings"] + [
    f"{role}_model" for role in ("mask", "depth", "canny", "identity")
]
"""Columns of `products` that `package_of_rows` needs."""


def package_of_rows(product: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> GapPackage:
    """Build a package from its rows of `products` and `views`.

    Args:
        product: Row of `products` with `PACKAGE_COLUMNS`.
        rows: All its rows of `views`, in any order.

    Raises:
        CatalogError: `catalog.incompatible` if a view is missing.
    """
    views = tuple(sorted((_view(row) for row in rows), key=lambda view: view.azimuth_deg))
    if len(views) != product["views"]:
        raise CatalogError(
            "catalog.incompatible", f"{product['product_id']} has {len(views)} of {product['views']} views"
        )
    models = {role: product[f"{role}_model"] for role in ("mask", "depth", "canny", "identity")}
    return GapPackage(
        product["product_id"],
        product["key"],
        views,
        product["depth_scale"],
        product["depth_shift"],
        models,
        product.get("azimuths_by"),
        warnings=None
        if product.get("warnings") is None
        else tuple(PackageWarning(**warning) for warning in product["warnings"]),
    )


def _view(row: Mapping[str, Any]) -> GapView:
    return GapView(
        name=row["name"],
        azimuth_deg=row["azimuth_deg"],
        uri=row["uri"],
        sha256=row["sha256"],
        reference=decode_rgb(row["reference"]),
        mask=decode_grey8(row["mask"]),
        depth=decode_grey16(row["depth"]),
        canny=decode_grey8(row["canny"]),
        identity=np.asarray(row["identity"], np.float32),
        quality=Quality(row["sharpness"], row["clipped_dark"], row["clipped_bright"]),
    )
