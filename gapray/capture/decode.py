"""Safe decoding of untrusted bytes to upright 8-bit sRGB pixels; every limit is checked before a pixel is decoded.

Unchecked bytes reach only Pillow's own decoders, libheif and, once Pillow has read a JPEG's size, simplejpeg's libjpeg-turbo. They
never reach OpenCV, which allocates before it validates (588 MB for a 24 kB PNG).
"""

from __future__ import annotations

import io
import re
import warnings
from itertools import islice

import numpy as np
import pillow_heif
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gapray.capture.code_points import code_points_of, encoding_of
from gapray.capture.colours import is_hdr
from gapray.capture.heif import MAX_EXIF_BYTES
from gapray.capture.orientation import pending_transpose
from gapray.capture.settings import DecodeSettings
from gapray.capture.srgb import (
    DECODER_ERRORS,
    SIXTEEN_BITS,
    WHITE,
    damaged,
    from_hdr,
    in_eight_bits,
    in_srgb,
    is_white_zero,
    profile_of,
    shrunk,
)
from gapray.capture.structure import MAX_PAGES, check_structure
from gapray.errors import InputError

Image.init()  # loads all plug-ins, so that every name in FORMATS is known (MPO is read through JPEG)
pillow_heif.register_heif_opener()
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF")
"""Allowed formats, so that Pillow's other plug-ins (Ghostscript for EPS among them) are never reached."""
STILLS_IN_SEVERAL_FRAMES = frozenset({"MPO", "HEIF", "AVIF"})
"""Formats in which phones add a preview or a depth map to the photo; the first frame is the photo."""
MAX_LINE_ART_COLOURS = 8
"""Pictures with at most this many colours are line art. Masks of sample photos are wrong at 1 to 3 bits and right from 4 bits on."""
BLANK_LEVELS, BLANK_TAILS = 12, 0.001
"""A picture is blank when each channel's levels, without this fraction at either end, span at most this many of 255: noise only."""
MAX_STRAY_BYTES = 2
"""Some cameras leave a byte or two, or padding of equal bytes, before the end of a JPEG; more than that means damaged data."""
_MAX_ENDS = 2**16
"""End markers of JPEG data at which padding is looked for; an MPO has one for each of its pictures and previews."""
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_BITS, _PLANAR, _SAMPLE_FORMAT = 258, 284, 339  # TIFF 6.0, section 8 and 19
_SUBFILE, _REDUCED, _ICC = 254, 1, 34675  # TIFF 6.0, section 8: NewSubfileType, bit 0 = reduced version of another page


def decode_photo(
    data: bytes, settings: DecodeSettings = DecodeSettings(), *, of_product: bool = False
) -> NDArray[np.uint8]:
    """Decode one photo.

    The file's orientation is applied once (`gapray.capture.orientation`). Embedded profiles, code points of other primaries, a
    PNG's gamma and chromaticities and Exif's mark for Adobe RGB are converted to sRGB. CMYK, grey, palette and 16-bit images
    become 8-bit RGB, and transparency is composited over white. HDR (PQ or HLG) in HEIC becomes standard range; a gain map is
    ignored.

    Args:
        data: The file's bytes, in any format of `FORMATS`, whatever its name says.
        settings: Limits, and the maximum longer side of the result.
        of_product: Refuse pictures that cannot be photos of a product: transparent, blank or line art.

    Returns:
        uint8 [H, W, 3], max(H, W) <= `settings.reference_side`.

    Raises:
        InputError: An `image.*` code.
        MemoryError: Decoding takes more memory than there is.
    """
    _check_file(data, settings)
    with warnings.catch_warnings():
        # Damaged EXIF and unusual TIFF tags only warn: damaged metadata do not make the photo unusable.
        warnings.simplefilter("ignore")
        image = _open(data)
        _check_header(image, settings)
        if image.format == "PNG":
            _check_sums(data)
        if image.format == "TIFF":
            _check_samples(image)
        if image.format in ("JPEG", "MPO"):
            _check_entropy(data, "CMYK" if image.mode == "CMYK" else "GRAY")
        profile = profile_of(image, settings)
        points = code_points_of(image, data)
        encoding = encoding_of(image) if profile is None and points is None else None
        colours: int | None = None
        if points is not None and is_hdr(points.transfer):
            turn = pending_transpose(image, data)
            image = from_hdr(image, data, points, settings)
        else:
            image.draft(None, (settings.reference_side, settings.reference_side))
            _load(image)
            if of_product:
                _refuse_transparent(image)
                colours = _line_art_colours(image)
            turn = pending_transpose(image, data)
            image = shrunk(image, settings.reference_side)
            image = in_srgb(image, profile, points, encoding)
    if of_product:
        _refuse_blank(image)
        if colours is not None:
            raise InputError("image.few_colours", f"the picture has {colours} colours, like line art or a 1-bit scan")
    if turn is not None:
        image = image.transpose(turn)
    return np.asarray(image)


def check_photo(data: bytes, settings: DecodeSettings = DecodeSettings()) -> tuple[str, tuple[int, int]]:
    """Check a photo by its header only, so that a client gets a quick answer.

    Args:
        data: The file's bytes.
        settings: Limits.

    Returns:
        The format, one of `FORMATS` or ``MPO``, and width and height as stored [pixels].

    Raises:
        InputError: An `image.*` code. A photo that passes may still fail in `decode_photo`.
    """
    _check_file(data, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _open(data) as image:
            _check_header(image, settings)
            return str(image.format), image.size


def _check_file(data: bytes, settings: DecodeSettings) -> None:
    """Check what can be checked before the file is opened."""
    if not data:
        raise InputError("image.empty", "the file holds no bytes")
    if len(data) > settings.max_bytes:
        raise InputError("image.too_many_bytes", f"{len(data)} bytes; the limit is {settings.max_bytes}")
    check_structure(data, settings.max_pixels)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError("image.too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise InputError("image.unsupported", "the file is not a photo in a format that gapray reads") from error
    except (EOFError, *DECODER_ERRORS) as error:
        raise damaged("the header cannot be read", error) from error


def _check_header(image: Image.Image, settings: DecodeSettings) -> None:
    if image.format == "TIFF":
        _select_photo(image)
    width, height = image.size
    if width * height > settings.max_pixels:
        raise InputError("image.too_many_pixels", f"{width} x {height} pixels; the limit is {settings.max_pixels}")
    if min(width, height) < settings.min_side:
        raise InputError("image.too_small", f"{width} x {height} pixels; the shorter side must be {settings.min_side}")
    if len(image.info.get("exif") or b"") > MAX_EXIF_BYTES:
        raise InputError("image.unsupported", f"the file has more than {MAX_EXIF_BYTES} bytes of Exif data")
    frames = _frames(image)
    if frames > 1 and image.format not in ("TIFF", *STILLS_IN_SEVERAL_FRAMES):
        raise InputError("image.too_many_frames", f"the file holds {frames} frames")


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except (EOFError, *DECODER_ERRORS) as error:
        raise damaged("the frames cannot be counted", error) from error


def _select_photo(image: Image.Image) -> None:
    """Go to the page of a TIFF that is the photo: the only one, or the only one that is no reduced version of another (a thumbnail).

    Raises:
        InputError: `image.too_many_frames` when more than one page, or none, can be the photo; `image.truncated`.
    """
    frames = _frames(image)
    if frames == 1:
        return
    photos = []
    try:
        for page in range(frames if frames <= MAX_PAGES else 0):
            image.seek(page)
            if not int(image.tag_v2.get(_SUBFILE, 0)) & _REDUCED:  # type: ignore[attr-defined]
                photos.append(page)
        if len(photos) != 1:
            raise InputError(
                "image.too_many_frames", f"the file holds {frames} pages, and no mark says which is the photo"
            )
        image.seek(photos[0])
    except (EOFError, *DECODER_ERRORS) as error:
        raise damaged("the pages cannot be read", error) from error
    if _ICC not in image.tag_v2:  # type: ignore[attr-defined]
        image.info.pop("icc_profile", None)  # Pillow keeps that of the page before


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise InputError("image.too_many_pixels", str(error)) from error
    except (EOFError, *DECODER_ERRORS) as error:
        raise damaged("the pixels cannot be decoded", error) from error


def _check_sums(data: bytes) -> None:
    """Refuse a PNG with damaged chunks, which its decoder would ignore and return wrong pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()
    except (EOFError, *DECODER_ERRORS) as error:
        raise damaged("a chunk is damaged", error) from error


def _check_samples(image: Image.Image) -> None:
    """Refuse a TIFF whose samples Pillow misreads: 16-bit planes as 8 bits, signed or 32-bit grey as unsigned 16 bits."""
    tags = dict(getattr(image, "tag_v2", {}))
    bits, kind = (max(np.atleast_1d(tags.get(tag, 1))) for tag in (_BITS, _SAMPLE_FORMAT))
    if bits > 8 and tags.get(_PLANAR, 1) != 1:
        raise InputError("image.unsupported", f"colours of {bits} bits in separate planes")
    if kind == 2 or (kind == 1 and bits > 16):
        raise InputError("image.unsupported", f"{'signed' if kind == 2 else 'unsigned'} integers of {bits} bits")


def _check_entropy(data: bytes, colours: str) -> None:
    """Refuse a JPEG with damaged entropy-coded data, which Pillow silently decodes to wrong pixels.

    libjpeg-turbo warns where it loses synchronisation. Damage after which it resynchronises by chance is not detected.
    """
    try:
        simplejpeg.decode_jpeg(data, colorspace=colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if _means_damage(str(error), data):
            raise InputError("image.truncated", f"its data are damaged: {error}") from error


def _means_damage(warning: str, data: bytes) -> bool:
    """Whether a warning of libjpeg-turbo means damaged data, and not just stray bytes at the end."""
    if not warning.startswith("Corrupt JPEG data"):
        return False  # Pillow detects all other errors
    if "extraneous" not in warning:
        return True
    stray = _STRAY.search(warning)
    if stray is None or int(stray[1]) <= MAX_STRAY_BYTES:
        return False
    padding, previous = int(stray[1]), 0
    for marker in islice(re.finditer(rb"\xff\xd9", data), _MAX_ENDS):
        end = marker.start()
        # Padding contains no marker, so that no byte is counted twice.
        if end - previous >= padding and data.count(data[end - 1], end - padding, end) == padding:
            return False
        previous = marker.end()
    return True


def _refuse_transparent(image: Image.Image) -> None:
    if not image.has_transparency_data:
        return
    _, max_alpha = image.convert("RGBA").getchannel("A").getextrema()
    if not isinstance(max_alpha, tuple) and max_alpha == 0:
        raise InputError("image.transparent", "every pixel is transparent: there is nothing to be seen")


def _line_art_colours(image: Image.Image) -> int | None:
    """Number of colours in line art; None for pictures with more than `MAX_LINE_ART_COLOURS`.

    The picture must not have been resized, which mixes colours.
    """
    image = in_eight_bits(image) if image.mode in SIXTEEN_BITS else image
    colours = None if image.mode == "F" else image.getcolors(MAX_LINE_ART_COLOURS)
    return None if colours is None else len(colours)


def _refuse_blank(rgb: Image.Image) -> None:
    counts = np.asarray(rgb.histogram(), np.int64).reshape(3, 256).cumsum(1)
    tail = BLANK_TAILS * counts[0, -1]
    ranges = [int(np.searchsorted(of, of[-1] - tail) - np.searchsorted(of, tail, side="right")) for of in counts]
    if max(ranges) <= BLANK_LEVELS:
        raise InputError("image.blank", f"the picture is one plain colour: its levels differ by {max(ranges)} of 255")


def decode_grey(data: bytes, settings: DecodeSettings = DecodeSettings()) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode an untrusted mask or depth map under the same limits, upright, at its own size and bit depth.

    Args:
        data: The file's bytes. The first channel of a colour image is used.
        settings: Limits; `reference_side` is not applied.

    Returns:
        uint8 or uint16 [H, W].

    Raises:
        InputError: An `image.*` code.
    """
    image = _loaded(data, settings)
    if image.mode.startswith("I"):
        wide: NDArray[np.uint16] = np.clip(np.asarray(image), 0, WHITE).astype(np.uint16)
        return WHITE - wide if is_white_zero(image) else wide
    if image.mode in ("P", "1"):
        image = image.convert("L")
    if image.mode == "F" or image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise InputError("image.unsupported", f"pixels of mode {image.mode} are not a grey map")
    return np.ascontiguousarray(np.atleast_3d(np.asarray(image))[..., 0])


def decode_alpha(data: bytes, settings: DecodeSettings = DecodeSettings()) -> NDArray[np.uint8]:
    """Decode the alpha channel of a cut-out under the same limits as `decode_grey`.

    Args:
        data: The file's bytes.
        settings: Limits; `reference_side` is not applied.

    Returns:
        uint8 [H, W], 0 = transparent … 255 = opaque.

    Raises:
        InputError: An `image.*` code; `image.unsupported` for an image without transparency.
    """
    image = _loaded(data, settings)
    if "A" not in image.getbands() and "transparency" not in image.info:
        raise InputError("image.unsupported", "the image has no transparency")
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _loaded(data: bytes, settings: DecodeSettings) -> Image.Image:
    _check_file(data, settings)
    image = _open(data)
    _check_header(image, settings)
    if image.format == "TIFF":
        _check_samples(image)
    _load(image)
    turn = pending_transpose(image, data)
    return image if turn is None else image.transpose(turn)
