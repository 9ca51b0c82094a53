"""Capture sets: the photos of one product with their azimuths."""

from __future__ import annotations

from dataclasses import dataclass

from gapray.capture.azimuths import AzimuthsBy
from gapray.errors import GaprayError
from gapray.settings import canonical_hash


@dataclass(frozen=True)
class Photo:
    """A photo that is listed but has not been read."""

    name: str
    """File name, relative to the product's folder."""
    uri: str
    """Local path or fsspec URI (``zip://member::path`` for a file in an archive)."""
    azimuth_deg: float
    """Azimuth in [0, 360) degrees, 0 = front, counter-clockwise seen from above."""
    size: int
    """Size [bytes]."""
    stamp: str
    """Changes when the file does: ETag, CRC or modification time in nanoseconds."""


@dataclass(frozen=True)
class CaptureSet:
    """The photos of one product, ordered by azimuth."""

    product_id: str
    uri: str
    photos: tuple[Photo, ...]
    azimuths_by: AzimuthsBy | None = None
    """Where the azimuths come from; None when unknown, as in manifests of earlier releases."""
    ignored: tuple[str, ...] = ()
    """Files and folders in the product's folder that are not used; folders end with '/'."""

    @property
    def source(self) -> str:
        """Hash of the photos' names, sizes, stamps and azimuths, computed without reading a photo."""
        return canonical_hash(sorted([photo.name, photo.size, photo.stamp, photo.azimuth_deg] for photo in self.photos))


@dataclass(frozen=True)
class Reject:
    """A product that cannot be used, and why."""

    product_id: str
    uri: str
    code: str
    message: str
    ignored: tuple[str, ...] = ()
    """Files and folders in the product's folder that are not used; folders end with '/'."""

    @classmethod
    def of(cls, product_id: str, uri: str, error: GaprayError, ignored: tuple[str, ...] = ()) -> Reject:
        """A reject with the code and message of `error`."""
        return cls(product_id, uri, error.code, error.message, ignored)
