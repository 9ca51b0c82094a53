"""What a capture set is: the photos of one product with their azimuths."""

from __future__ import annotations

from dataclasses import dataclass

from gapray.capture.azimuths import AzimuthsBy
from gapray.config import canonical_hash
from gapray.errors import GaprayError


@dataclass(frozen=True)
class Photo:
    """One photo where it lies; no byte of it has been read."""

    name: str
    """File name, relative to the product's folder."""
    uri: str
    """Local path or fsspec URI (``zip://member::path`` for a file in an archive)."""
    azimuth_deg: float
    """Degrees in [0, 360), 0 = front, growing as the camera walks counter-clockwise seen from above."""
    size: int
    """Bytes."""
    stamp: str
    """What changes when the file does: ETag, CRC or mtime in nanoseconds."""


@dataclass(frozen=True)
class CaptureSet:
    """The photos of one product, ordered by azimuth."""

    product_id: str
    uri: str
    photos: tuple[Photo, ...]
    azimuths_by: AzimuthsBy | None = None
    """How the azimuths were known; None where nobody said, as in manifests of earlier releases."""
    ignored: tuple[str, ...] = ()
    """What lies in the product's folder and is not used; folders end with '/'."""

    @property
    def source(self) -> str:
        """Hash of the sorted (name, size, stamp) of the photos and their azimuths: known without reading a photo."""
        return canonical_hash(sorted([photo.name, photo.size, photo.stamp, photo.azimuth_deg] for photo in self.photos))


@dataclass(frozen=True)
class Reject:
    """A product that could not be used, and why."""

    product_id: str
    uri: str
    code: str
    message: str
    ignored: tuple[str, ...] = ()
    """As in `CaptureSet`."""

    @classmethod
    def of(cls, product_id: str, uri: str, error: GaprayError, ignored: tuple[str, ...] = ()) -> Reject:
        """The reject that `error` makes of a product."""
        return cls(product_id, uri, error.code, error.message, ignored)
