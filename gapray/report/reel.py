"""The demo reel: photo, gapray's video and a baseline side by side, turning together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapray.capture.angles import angle_difference, nearest_angle
from gapray.catalog.reader import Catalog
from gapray.errors import CatalogError
from gapray.fidelity.baselines import BASELINES
from gapray.fidelity.score import OURS
from gapray.fidelity.shown import Cut, NormalizedView, normalize_view, orbit_layout, scale_placement
from gapray.gap.package import GapPackage
from gapray.geometry.frame import Layout
from gapray.orbit.settings import OrbitSettings
from gapray.outputs import write_file
from gapray.report.pictures import frames_of
from gapray.report.table import as_csv, as_markdown, fidelity_table
from gapray.resample import resized
from gapray.video.encode import encode_mp4

TILE, GAP, HEAD, FOOT = 416, 8, 56, 88
FPS = 12
TURNS = 2


def write_reel(
    catalog: Catalog,
    out: Path,
    *,
    products: Sequence[str] | None = None,
    limit: int = 6,
    baseline: str = "cross-fade",
    photos: Mapping[str, Sequence[Cut]] | None = None,
) -> list[Path]:
    """Write the reel, and the fidelity table beside it as Markdown and CSV.

    Args:
        catalog: A catalogue with videos.
        out: The mp4 to write.
        products: Ids of the products to show; default: all.
        limit: Maximum number of products in the reel.
        baseline: A name in `gapray.fidelity.baselines.BASELINES`.
        photos: Product -> its held-out photos, cut out. The nearest held-out or captured photo is shown as the reference, with
            its angle.

    Returns:
        Paths of the written files.

    Raises:
        CatalogError: `catalog.product_not_found` if there are no videos of the products.
        FileError: `file.write_failed`.
    """
    rows = catalog.best_videos().to_pylist()
    chosen = [row for row in rows if products is None or row["product_id"] in products][:limit]
    if not chosen:
        raise CatalogError("catalog.product_not_found", "no video of these products in this catalogue")
    scores = catalog.scores().to_pylist()
    frames: list[NDArray[np.uint8]] = []
    for row in chosen:
        identifier = row["product_id"]
        lpips = {
            (score["label"], round(score["azimuth_deg"], 1)): score["lpips"]
            for score in scores
            if score["video_key"] == row["key"] and score["kind"] == "in-between" and not score["foreign_video"]
        }
        package = catalog.package(identifier)
        layout = orbit_layout([view.mask for view in package.views], OrbitSettings())
        captured = _captured_photos(package, layout)
        held_out = [
            normalize_view(
                cut,
                TILE,
                framing="camera",
                placement=scale_placement(layout.placements[0], package.views[0].mask.shape, cut.mask.shape),
            )
            for cut in (photos or {}).get(identifier, ())
        ]
        turn = [
            _frame(identifier, azimuth, frame, captured, held_out, baseline, lpips)
            for azimuth, frame in zip(row["azimuths_deg"], frames_of(catalog, row), strict=True)
        ]
        frames += turn * TURNS
    write_file(out, encode_mp4(frames, fps=FPS))
    table = fidelity_table(catalog)
    beside = {out.with_suffix(".md"): as_markdown(table), out.with_suffix(".csv"): as_csv(table)}
    for path, text in beside.items():
        write_file(path, text)
    return [out, *beside]


def _captured_photos(package: GapPackage, layout: Layout) -> list[NormalizedView]:
    return [
        normalize_view(Cut(view.azimuth_deg, view.reference, view.mask), TILE, framing="camera", placement=at)
        for view, at in zip(package.views, layout.placements, strict=True)
    ]


def _frame(
    identifier: str,
    azimuth: float,
    frame: NDArray[np.uint8],
    captured: Sequence[NormalizedView],
    held_out: Sequence[NormalizedView],
    baseline: str,
    lpips: Mapping[tuple[str, float], float],
) -> NDArray[np.uint8]:
    photos = [*captured, *held_out]
    photo = photos[nearest_angle([photo.azimuth_deg for photo in photos], azimuth)]
    off = abs(angle_difference(photo.azimuth_deg, azimuth))
    kind = "hidden photo" if any(photo is other for other in held_out) else "captured photo"
    columns = [
        ("photo", photo.image, f"{kind}, {photo.azimuth_deg:g}°" + (f" ({off:g}° off)" if off >= 0.5 else "")),
        (
            OURS,
            resized(frame, (TILE, TILE)),
            _lpips_label(lpips, OURS, azimuth),
        ),
        (baseline, BASELINES[baseline](captured, azimuth).image, _lpips_label(lpips, baseline, azimuth)),
    ]
    canvas = Image.new("RGB", (3 * TILE + 4 * GAP, HEAD + TILE + FOOT), "#ffffff")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 14), f"{identifier}   {azimuth:g}°", fill="#1b1b1b", font=ImageFont.load_default(28))
    for index, (title, image, note) in enumerate(columns):
        x = GAP + index * (TILE + GAP)
        canvas.paste(Image.fromarray(image), (x, HEAD))
        draw.text((x + TILE / 2, HEAD + TILE + 10), title, fill="#1b1b1b", font=ImageFont.load_default(24), anchor="ma")
        draw.text((x + TILE / 2, HEAD + TILE + 46), note, fill="#5d5d5d", font=ImageFont.load_default(20), anchor="ma")
    return np.asarray(canvas)


def _lpips_label(lpips: Mapping[tuple[str, float], float], label: str, azimuth: float) -> str:
    value = lpips.get((label, round(azimuth, 1)))
    return "" if value is None else f"LPIPS {value:.3f}"
