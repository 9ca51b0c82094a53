"""Images for reports: frames of videos, photos of packages, sprites, and saving of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapray.catalog.media import media_name
from gapray.catalog.reader import Catalog
from gapray.errors import ConfigError
from gapray.gap.package import GapPackage
from gapray.outputs import atomic_write
from gapray.resample import resized
from gapray.video.decode import one_turn
from gapray.video.external import letterboxed
from gapray.video.presets import preset_named

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File suffix -> format of a picture that a command writes."""


def frames_of(catalog: Catalog, video: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode the frames of a row of `videos`, uint8 [F, S, S, 3].

    Raises:
        InputError: `score.no_video` or `video.unreadable`.
    """
    files = {media_name(name): catalog.folder.read(name) for name in video["files"]}
    return one_turn(files, preset_named(video["preset"]), video["frames"])


def photos_of(package: GapPackage, side: int) -> list[NDArray[np.uint8]]:
    """Fit each view's photo into a white square, uint8 [side, side, 3]."""
    return [letterboxed(view.reference, side, side, (255, 255, 255)) for view in package.views]


def sprite(images: Sequence[NDArray[np.uint8]], side: int, columns: int) -> NDArray[np.uint8]:
    """Arrange images in a grid, uint8 [rows * side, columns * side, 3]; the last row is padded with white."""
    cells = [resized(image, (side, side)) for image in images]
    cells += [np.full((side, side, 3), 255, np.uint8)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    return np.concatenate(rows)


def save_picture(picture: Image.Image, to: Path) -> None:
    """Write a picture in the format of the file's suffix.

    Raises:
        ConfigError: `config.invalid` for a suffix that is not in `PICTURES`.
        FileError: `file.write_failed`.
    """
    kind = PICTURES.get(to.suffix.lower())
    if kind is None:
        raise ConfigError("config.invalid", f"a picture ends with {', '.join(PICTURES)}, not {to.name}")
    with atomic_write(to) as partial:
        picture.save(partial, kind, quality=88)


def jpeg(image: NDArray[np.uint8], quality: int = 85) -> bytes:
    """Encode an image, uint8 [H, W, 3], as JPEG."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)
