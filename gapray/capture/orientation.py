"""Which way is up: the orientation that a file asks for and that its decoder has not applied."""

from __future__ import annotations

from PIL import ExifTags, Image

from gapray.capture.heif import primary_of

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of the tag (Exif 2.32, 4.6.4 A)."""


def left_to_turn(image: Image.Image, data: bytes) -> Image.Transpose | None:
    """What has to be done to the pixels that were decoded; None where they stand upright.

    =========== ============ =========================================================================================
    format      says it in   who turns
    =========== ============ =========================================================================================
    JPEG, PNG,  EXIF or XMP  nobody (a PNG's eXIf may come after the pixels, so it is read when they are)
    WebP
    TIFF        tag 274      Pillow, while it loads, and it takes the tag away
    HEIC        irot, imir   libheif, while it decodes; pillow-heif sets the EXIF tag to 1, whatever it was
    AVIF        irot, imir   nobody; Pillow writes them into the EXIF tag, over what was there
    HEIC, AVIF  EXIF alone   nobody. The standard calls it informative, yet it is what converters from JPEG write, and macOS
                             shows it turned
    =========== ============ =========================================================================================

    Args:
        image: Loaded, not merely opened.
        data: The file it was loaded from.
    """
    value = _of_exif(image)
    if image.format in ("HEIF", "AVIF") and value == 1:
        value = _of_boxes(data)
    return _TRANSPOSE.get(value)


def _of_exif(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # EXIF is written by countless devices; a block that cannot be parsed says nothing about the way up.
        return 1


def _of_boxes(data: bytes) -> int:
    """The EXIF tag of a file whose boxes say nothing about the way up, else 1."""
    primary = primary_of(data)
    if any(kind in (b"irot", b"imir") for kind, _ in primary.properties):
        return 1
    exif = Image.Exif()
    try:
        exif.load(b"Exif\0\0" + primary.exif)
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # for the reason that `_of_exif` gives
