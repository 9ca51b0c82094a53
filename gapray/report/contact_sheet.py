"""Contact sheets: the images of all views of a package in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapray.errors import CatalogError
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView
from gapray.resample import at_most

_MARGIN, _TITLE, _CAPTION = 12, 44, 26
_INK, _PAPER, _FAINT = "#1c1c1c", "#ffffff", "#777777"
_ROWS = ("reference", "mask", "depth", "canny")


def contact_sheet(packages: Sequence[GapPackage], tile: int = 180) -> Image.Image:
    """Draw reference, mask, depth and canny of every view of some packages.

    Args:
        packages: Packages to draw.
        tile: Side of one image [pixels].

    Returns:
        An RGB image with a block per package, a column per view, and a row per kind of image.

    Raises:
        CatalogError: `catalog.product_not_found` if `packages` is empty.
    """
    if not packages:
        raise CatalogError("catalog.product_not_found", "there is no package to draw")
    columns = max(len(package.views) for package in packages)
    label = 84
    width = label + columns * (tile + _MARGIN) + _MARGIN
    block = _TITLE + len(_ROWS) * (tile + _MARGIN) + _CAPTION + _MARGIN
    sheet = Image.new("RGB", (width, block * len(packages) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, package in enumerate(packages):
        top = _MARGIN + index * block
        draw.text((_MARGIN, top + 6), package.product_id, fill=_INK, font=ImageFont.load_default(24))
        models = "  ".join(f"{role}: {name}" for role, name in package.models.items())
        draw.text((width - _MARGIN, top + 14), models, fill=_FAINT, font=ImageFont.load_default(13), anchor="ra")
        for row, kind in enumerate(_ROWS):
            y = top + _TITLE + row * (tile + _MARGIN)
            draw.text((_MARGIN, y + tile // 2), kind, fill=_FAINT, font=ImageFont.load_default(14), anchor="lm")
            for column, view in enumerate(package.views):
                sheet.paste(_tile(_picture(view, kind), tile), (label + column * (tile + _MARGIN), y))
        for column, view in enumerate(package.views):
            x = label + column * (tile + _MARGIN) + tile // 2
            caption = f"{view.azimuth_deg:g}°"
            y = top + _TITLE + len(_ROWS) * (tile + _MARGIN)
            draw.text((x, y), caption, fill=_INK, font=ImageFont.load_default(15), anchor="mt")
    return sheet


def _picture(view: GapView, kind: str) -> NDArray[np.uint8]:
    if kind == "reference":
        return view.reference
    if kind == "depth":
        level = (view.depth.astype(np.float32) * (255 / DEPTH_MAX)).astype(np.uint8)
        colour = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
        return np.where(view.depth[..., None] > 0, colour, 0).astype(np.uint8)
    return np.repeat((view.mask if kind == "mask" else view.canny)[..., None], 3, -1)


def _tile(picture: NDArray[np.uint8], side: int) -> Image.Image:
    image = Image.fromarray(at_most(picture, side))
    square = Image.new("RGB", (side, side), "#e9e9e9")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
