"""What looks wrong with the photos of a package, seen once when it is made: copies, turned photos, photos of other products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gapray.gap.package import GapPackage, PackageWarning
from gapray.inspect.duplicates import duplicates
from gapray.inspect.findings import Finding
from gapray.inspect.odd import odd


def doubts(
    names: Sequence[str], photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]
) -> tuple[PackageWarning, ...]:
    """Photos that show the same picture, stand differently from the others or show another product.

    Args:
        names: One a photo.
        photos: uint8 [H, W, 3], sRGB; sizes may differ.
        masks: uint8 [H, W] each, none empty, 128 and above = product.

    Returns:
        `azimuth.duplicate`, `photo.turned` and `photo.other_product`, each with what to do.
    """
    first_of: dict[int, int] = {}
    for first, second in duplicates(photos, masks):
        first_of.setdefault(second, first)
    copies = [
        Finding("azimuth.duplicate", (names[first], names[second]), "both files show one picture")
        for second, first in first_of.items()
    ]
    return tuple(PackageWarning(found.code, found.sentence) for found in (*copies, *odd(names, photos, masks)))


def looked_over(package: GapPackage, *, again: bool = False) -> GapPackage:
    """The package with its `warnings`; as it is where somebody has looked, or where a mask is empty, which nothing is made of.

    Args:
        package: What to look at.
        again: Look even where somebody has looked: a package that was out of gapray's hands may hold other pictures since.
    """
    held = package.warnings or ()
    looked = package.warnings is not None and not again
    if looked or not all((view.mask >= 128).any() for view in package.views):
        return package
    names = [view.name for view in package.views]
    photos, masks = [view.reference for view in package.views], [view.mask for view in package.views]
    return replace(package, warnings=tuple(dict.fromkeys((*held, *doubts(names, photos, masks)))))
