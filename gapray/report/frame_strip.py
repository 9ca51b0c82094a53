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
        cells = []
        for index in picked(count):
            cell = Image.fromarray(letterboxed(frames[index], SIDE, SIDE + LABEL, (255,) * 3))
            kind = "photo" if index in row["key_frames"] else "in between"
            ImageDraw.Draw(cell).text((6, SIDE), f"{row['azimuths_deg'][index]:g} deg, {kind}", fill=(90, 90, 90))
            cells.append(np.asarray(cell))
        cells += [np.full_like(cells[0], 255)] * (SHOWN - len(cells))
        rows.append(np.concatenate(cells, axis=1))
    return Image.fromarray(np.concatenate(rows))


def picked(count: int) -> list[int]:
    """Which of a turn's frames are shown: each at most once, `SHOWN` of them or all where there are fewer.

    Even steps round the turn. Where the steps are long enough every second one is moved on by a frame, because captured angles
    alone would say nothing of those in between.

    Args:
        count: Frames of the turn.
    """
    shown = min(SHOWN, count)
    moved = int(count >= 2 * SHOWN)
    return [index * count // shown + moved * (index % 2) for index in range(shown)]
