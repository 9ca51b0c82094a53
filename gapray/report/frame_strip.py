"""Eight frames of a product's video side by side, for people who would rather look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from gapray.catalog.reader import Catalog
from gapray.errors import CatalogError
from gapray.report.pictures import frames_of
from gapray.video.external import letterboxed

SIDE = 200
SHOWN = 8
PRODUCTS = 4
"""Products that are drawn where none are named."""
LABEL = 16


def frame_strip(catalog: Catalog, products: Sequence[str] | None = None) -> Image.Image:
    """One row of frames a video, each with its azimuth; captured angles are marked.

    Args:
        catalog: With videos, of any preset.
        products: Default: the first `PRODUCTS` that have a video.

    Raises:
        CatalogError: `catalog.product_not_found` when no video is there, or none of a product that is named.
        InputError: `video.unreadable`.
    """
    videos = catalog.best_videos().to_pylist()
    if products is None:
        chosen = videos[:PRODUCTS]
    else:
        chosen = [row for row in videos if row["product_id"] in products]
        if missing := sorted(set(products) - {row["product_id"] for row in chosen}):
            raise CatalogError("catalog.product_not_found", f"no video of {', '.join(missing)} in this catalogue")
    if not chosen:
        raise CatalogError("catalog.product_not_found", "no video in this catalogue")
    rows = []
    for row in chosen:
        frames = frames_of(catalog, row)
        count = row["frames"]
        # Even steps round the turn, every second one moved on by a frame: captured angles and angles in between.
        picked = [(index * count // SHOWN + index % 2) % count for index in range(SHOWN)]
        cells = []
        for index in picked:
            cell = Image.fromarray(letterboxed(frames[index], SIDE, SIDE + LABEL, (255,) * 3))
            kind = "photo" if index in row["key_frames"] else "in between"
            ImageDraw.Draw(cell).text((6, SIDE), f"{row['azimuths_deg'][index]:g} deg, {kind}", fill=(90, 90, 90))
            cells.append(np.asarray(cell))
        rows.append(np.concatenate(cells, axis=1))
    return Image.fromarray(np.concatenate(rows))
