"""Frame strips: eight frames of a product's video side by side."""

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
"""Maximum number of products that are drawn if none are named."""
LABEL = 16


def frame_strip(catalog: Catalog, products: Sequence[str] | None = None) -> Image.Image:
    """Draw one row of frames per video, each labelled with its azimuth and whether it is a captured angle.

    Args:
        catalog: A catalogue with videos of any preset.
        products: Ids of the products to draw; default: the first `PRODUCTS` that have a video.

    Raises:
        CatalogError: `catalog.product_not_found` if there are no videos, or a named product has none.
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
        cells = []
        for index in frame_indices(count):
            cell = Image.fromarray(letterboxed(frames[index], SIDE, SIDE + LABEL, (255,) * 3))
            kind = "photo" if index in row["key_frames"] else "in between"
            ImageDraw.Draw(cell).text((6, SIDE), f"{row['azimuths_deg'][index]:g} deg, {kind}", fill=(90, 90, 90))
            cells.append(np.asarray(cell))
        cells += [np.full_like(cells[0], 255)] * (SHOWN - len(cells))
        rows.append(np.concatenate(cells, axis=1))
    return Image.fromarray(np.concatenate(rows))


def frame_indices(count: int) -> list[int]:
    """Return the indices of the frames to show: `SHOWN` frames in even steps, or all if there are fewer.

    If the steps are long enough, every second index is shifted by one frame, so that in-between angles are shown as well as
    captured ones.

    Args:
        count: Number of frames of the turn.
    """
    shown = min(SHOWN, count)
    shift = int(count >= 2 * SHOWN)
    return [index * count // shown + shift * (index % 2) for index in range(shown)]
