"""Truth photos: those that no generator saw, which scores are measured against."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gapray.capture.azimuths import turned
from gapray.capture.capture_set import Reject
from gapray.capture.discover import DiscoverOptions, scan
from gapray.capture.kinds import counted, described
from gapray.errors import InputError
from gapray.orbit.weights import KEY_TOLERANCE_DEG

NAMES_SHOWN = 10
"""Products that a line names."""


@dataclass(frozen=True)
class Truth:
    """Photos that no generator saw, from a source laid out as that of `gapray.package`."""

    photos: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Product -> its photos: `uri`, `azimuth_deg`, `stamp`."""
    rejects: dict[str, Reject] = field(default_factory=dict)
    """Product -> why its photos cannot be used."""
    ignored: dict[str, int] = field(default_factory=dict)
    """What lies beside the photos, by kind: `gapray.capture.kinds.counted`."""

    def of(self, product_id: str) -> list[dict[str, Any]]:
        """The photos of one product, which must be there.

        Raises:
            InputError: `capture.no_photos`, or the code for which they cannot be used.
        """
        if reject := self.rejects.get(product_id):
            raise InputError(reject.code, reject.message)
        if product_id not in self.photos:
            raise InputError(
                "capture.no_photos", f"no truth photos of {product_id}; there are those of: {_named(self.photos)}"
            )
        return self.photos[product_id]

    def unused(self, products: Collection[str]) -> list[str]:
        """Lines that say which of these photos no score is made with, and why.

        Args:
            products: Those that have videos.
        """
        lines = [
            f"truth of {name} not used: [{reject.code}]: {reject.message}" for name, reject in self.rejects.items()
        ]
        if strange := self.photos.keys() - set(products):
            lines.append(f"truth of products without a video: {_named(strange)}")
        return [*lines, *([f"truth, {described(self.ignored)}"] if self.ignored else [])]

    def unmatched(
        self, given: Mapping[str, Sequence[float]], frames: Mapping[str, Sequence[float]], tolerance_deg: float
    ) -> list[str]:
        """Lines that say how many of these photos are compared with no frame, and why.

        Args:
            given: Product -> azimuths of its package's own photos [degrees].
            frames: Product -> azimuths of the frames of all its videos [degrees].
            tolerance_deg: A photo is compared with a frame at most so far from its angle.
        """
        known: dict[str, int] = {}
        far: dict[str, int] = {}
        for name, photos in self.photos.items():
            for photo in photos if name in given and name in frames else ():
                if _nearest(photo["azimuth_deg"], given[name]) <= KEY_TOLERANCE_DEG:
                    known[name] = known.get(name, 0) + 1
                elif _nearest(photo["azimuth_deg"], frames[name]) > tolerance_deg:
                    far[name] = far.get(name, 0) + 1
        reasons = (
            (known, "at angles that the packages show"),
            (far, f"farther than {tolerance_deg:g} degrees from every frame"),
        )
        return [
            f"truth photos not compared: {sum(found.values())} {why} ({_named(found)})"
            for found, why in reasons
            if found
        ]


def _nearest(azimuth_deg: float, others_deg: Sequence[float]) -> float:
    return min((abs(turned(azimuth_deg, other)) for other in others_deg), default=math.inf)


def read_truth(source: str | None, options: DiscoverOptions) -> Truth:
    """What `--truth` names; angles and products may be missing in it.

    Raises:
        InputError: As `gapray.capture.discover.scan`: the source itself cannot be listed.
    """
    if source is None:
        return Truth()
    beside: list[str] = []
    found = list(scan(source, options, beside=beside))
    photos = {
        item.product_id: [
            {"uri": photo.uri, "azimuth_deg": photo.azimuth_deg, "stamp": photo.stamp} for photo in item.photos
        ]
        for item in found
        if not isinstance(item, Reject)
    }
    rejects = {item.product_id: item for item in found if isinstance(item, Reject)}
    return Truth(photos, rejects, counted([*beside, *(name for item in found for name in item.ignored)]))


def _named(products: Collection[str]) -> str:
    more = "" if len(products) <= NAMES_SHOWN else f" and {len(products) - NAMES_SHOWN} more"
    return f"{', '.join(sorted(products)[:NAMES_SHOWN])}{more}" if products else "no product"
