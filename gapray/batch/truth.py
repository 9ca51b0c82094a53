"""Truth photos: held-out photos, which no generator has seen and which videos are scored against."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gapray.capture.angles import angle_difference
from gapray.capture.capture_set import Reject
from gapray.capture.discover import DiscoverOptions, scan
from gapray.capture.kinds import counted, described
from gapray.errors import InputError
from gapray.orbit.weights import KEY_TOLERANCE_DEG

NAMES_SHOWN = 10
"""Maximum number of products that a message names."""


@dataclass(frozen=True)
class TruthPhotos:
    """Held-out photos, from a source with the layout of `gapray.package`."""

    photos: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Product -> its photos: `uri`, `azimuth_deg`, `stamp`."""
    rejects: dict[str, Reject] = field(default_factory=dict)
    """Product -> why its photos cannot be used."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Kind of file -> number of other files in the source (`gapray.capture.kinds.counted`)."""

    def of(self, product_id: str) -> list[dict[str, Any]]:
        """Return the photos of one product.

        Raises:
            InputError: `capture.no_photos`, or the code of the product's reject.
        """
        if reject := self.rejects.get(product_id):
            raise InputError(reject.code, reject.message)
        if product_id not in self.photos:
            raise InputError(
                "capture.no_photos", f"no truth photos of {product_id}; there are those of: {_names(self.photos)}"
            )
        return self.photos[product_id]

    def unused(self, products: Collection[str]) -> list[str]:
        """Return lines about photos of products without a video, unusable photos and other files.

        Args:
            products: Products that have videos.
        """
        lines = [
            f"truth of {name} not used: [{reject.code}]: {reject.message}" for name, reject in self.rejects.items()
        ]
        if without_video := self.photos.keys() - set(products):
            lines.append(f"truth of products without a video: {_names(without_video)}")
        return [*lines, *([f"truth, {described(self.ignored)}"] if self.ignored else [])]

    def unmatched(
        self, captured: Mapping[str, Sequence[float]], frames: Mapping[str, Sequence[float]], tolerance_deg: float
    ) -> list[str]:
        """Return lines that say how many photos are not compared with any frame, and why.

        Args:
            captured: Product -> azimuths of its package's own photos [degrees].
            frames: Product -> azimuths of the frames of all its videos [degrees].
            tolerance_deg: Maximum distance in angle between a photo and the frame that it is compared with [degrees].
        """
        already_captured: dict[str, int] = {}
        too_far: dict[str, int] = {}
        for name, photos in self.photos.items():
            for photo in photos if name in captured and name in frames else ():
                if _distance_deg(photo["azimuth_deg"], captured[name]) <= KEY_TOLERANCE_DEG:
                    already_captured[name] = already_captured.get(name, 0) + 1
                elif _distance_deg(photo["azimuth_deg"], frames[name]) > tolerance_deg:
                    too_far[name] = too_far.get(name, 0) + 1
        reasons = (
            (already_captured, "at angles that the packages show"),
            (too_far, f"farther than {tolerance_deg:g} degrees from every frame"),
        )
        return [
            f"truth photos not compared: {sum(counts.values())} {reason} ({_names(counts)})"
            for counts, reason in reasons
            if counts
        ]


def _distance_deg(azimuth_deg: float, others_deg: Sequence[float]) -> float:
    """Return the distance to the nearest of some azimuths [degrees]; infinity if there are none."""
    return min((abs(angle_difference(azimuth_deg, other)) for other in others_deg), default=math.inf)


def read_truth(source: str | None, options: DiscoverOptions) -> TruthPhotos:
    """List the photos of a source of truth photos, without reading them.

    Args:
        source: Folder, zip file or URI, which need not have all products or angles; None = no truth photos.
        options: How file names are converted to azimuths.

    Raises:
        InputError: The source cannot be listed, see `gapray.capture.discover.scan`.
    """
    if source is None:
        return TruthPhotos()
    beside: list[str] = []
    captures = list(scan(source, options, beside=beside))
    photos = {
        item.product_id: [
            {"uri": photo.uri, "azimuth_deg": photo.azimuth_deg, "stamp": photo.stamp} for photo in item.photos
        ]
        for item in captures
        if not isinstance(item, Reject)
    }
    rejects = {item.product_id: item for item in captures if isinstance(item, Reject)}
    return TruthPhotos(photos, rejects, counted([*beside, *(name for item in captures for name in item.ignored)]))


def _names(products: Collection[str]) -> str:
    more = "" if len(products) <= NAMES_SHOWN else f" and {len(products) - NAMES_SHOWN} more"
    return f"{', '.join(sorted(products)[:NAMES_SHOWN])}{more}" if products else "no product"
