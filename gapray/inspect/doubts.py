"""Warnings about the photos of a package, found when it is made: duplicates, rotated photos and photos of other products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gapray.gap.package import GapPackage, PackageWarning
from gapray.inspect.bursts import burst_size
from gapray.inspect.duplicates import duplicates, fingerprints
from gapray.inspect.findings import Finding
from gapray.inspect.odd import find_outliers


def photo_warnings(
    names: Sequence[str], photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]
) -> tuple[PackageWarning, ...]:
    """Warn of photos that are duplicates, are rotated against the others or show another product.

    Args:
        names: Name of each photo, in the order of their azimuths.
        photos: uint8 [H, W, 3], sRGB; sizes may differ.
        masks: uint8 [H, W] each, none empty, 128 and above = product.

    Returns:
        Warnings `azimuth.burst`, or else `azimuth.duplicate`, `photo.turned` and `photo.other_product`, each with an instruction.
    """
    prints = fingerprints(photos, masks)
    if size := burst_size(prints):
        message = f"{size} photos each show the same view, {len(names) // size} views in all"
        burst = Finding("azimuth.burst", tuple(names[:size]), message)
        return (PackageWarning(burst.code, burst.sentence),)
    first_of: dict[int, int] = {}
    for first, second in duplicates(prints):
        first_of.setdefault(second, first)
    copies = [
        Finding("azimuth.duplicate", (names[first], names[second]), "both files show one picture")
        for second, first in first_of.items()
    ]
    findings = (*copies, *find_outliers(names, photos, masks))
    return tuple(PackageWarning(finding.code, finding.sentence) for finding in findings)


def with_warnings(package: GapPackage, *, again: bool = False) -> GapPackage:
    """The package with its `warnings` filled in; unchanged if it has been inspected before or a mask is empty.

    Args:
        package: The package to inspect.
        again: Inspect the package even if it has warnings: its pictures may have changed since it was exported.
    """
    existing = package.warnings or ()
    inspected = package.warnings is not None and not again
    if inspected or not all((view.mask >= 128).any() for view in package.views):
        return package
    names = [view.name for view in package.views]
    photos, masks = [view.reference for view in package.views], [view.mask for view in package.views]
    return replace(package, warnings=tuple(dict.fromkeys((*existing, *photo_warnings(names, photos, masks)))))
