"""Orientation that a file asks for and that its decoder has not applied."""

from __future__ import annotations

from PIL import ExifTags, Image

from gapray.capture.heif import read_primary_image

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Value of the orientation tag (Exif 2.32, 4.6.4 A) -> transposition that brings the pixels upright."""


def pending_transpose(image: Image.Image, data: bytes) -> Image.Transpose | None:
    """The transposition that decoded pixels still need; None if they are upright.

    =========== ============ =========================================================================================
    format      stored in    applied by
    =========== ============ =========================================================================================
    JPEG, PNG,  EXIF or XMP  nobody (a PNG's eXIf may follow the pixels, so it is known only once they are read)
    WebP
    TIFF        tag 274      Pillow, while loading; it also removes the tag
    HEIC        irot, imir   libheif, while decoding; pillow-heif then sets the EXIF tag to 1
    AVIF        irot, imir   nobody; Pillow writes them into the EXIF tag, replacing its value
    HEIC, AVIF  EXIF only    nobody. The standard calls it informative, but converters from JPEG write it and macOS
                             applies it
    =========== ============ =========================================================================================

    Args:
        image: The image, loaded and not merely opened.
        data: The bytes of its file.
    """
    value = _of_exif(image)
    if image.format in ("HEIF", "AVIF") and value == 1:
        value = _of_boxes(data)
    return _TRANSPOSE.get(value)


def _of_exif(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise  # says nothing of the file
    except Exception:
        # Countless devices write EXIF; a block that cannot be parsed is taken as upright.
        return 1


def _of_boxes(data: bytes) -> int:
    """The EXIF orientation of a file whose boxes do not state one, else 1."""
    primary = read_primary_image(data)
    if any(kind in (b"irot", b"imir") for kind, _ in primary.properties):
        return 1
    exif = Image.Exif()
    try:
        exif.load(b"Exif\0\0" + primary.exif)
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        return 1  # see `_of_exif`
