"""Decoded photos brought to 8 bits of sRGB."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms

from gapray.capture.code_points import CodePoints
from gapray.capture.colours import (
    FULL,
    PQ,
    Encoding,
    decoded_to_srgb,
    exceeds_sdr_white,
    is_unknown,
    needs_conversion,
    to_srgb,
)
from gapray.capture.settings import DecodeSettings
from gapray.errors import InputError, is_out_of_memory
from gapray.resample import at_most

MAX_UNSCALED = 4095
"""A 16-bit photo with no value above this holds unscaled 12-bit data: even a dark photo has a pixel brighter than a sixteenth."""
_PHOTOMETRIC = 262  # TIFF 6.0, section 8: PhotometricInterpretation
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
WHITE = 65535
"""Largest value of 16 bits."""
_SRGB = ImageCms.createProfile("sRGB")
DECODER_ERRORS = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error, zlib.error)
"""What Pillow's plug-ins raise on damaged files, according to their source; `EOFError` and decompression bombs come on top."""


def damaged(what: str, error: Exception) -> Exception:
    """An error for what a decoder reported; some decoders report a lack of memory as they report damage."""
    if is_out_of_memory(error):
        return MemoryError(str(error))
    return InputError("image.truncated", f"{what}: {error}")


def profile_of(image: Image.Image, settings: DecodeSettings) -> ImageCms.ImageCmsProfile | None:
    """Return the colour profile that a file embeds; None if there is none.

    Raises:
        InputError: `image.bad_profile`.
    """
    data = image.info.get("icc_profile")
    if not data:
        return None
    if len(data) > settings.max_icc_bytes:
        raise InputError("image.bad_profile", f"the colour profile has {len(data)} bytes")
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (OSError, ValueError, TypeError) as error:
        raise InputError("image.bad_profile", f"the colour profile cannot be read: {error}") from error


def shrunk(image: Image.Image, longer_side: int) -> Image.Image:
    """Shrink an image to a longer side of at most `longer_side` pixels, by Lanczos' filter."""
    scale = longer_side / max(image.size)
    if scale >= 1:
        return image
    if image.mode in ("P", "1"):
        image = image.convert("RGBA" if image.mode == "P" else "L")
    if image.mode in SIXTEEN_BITS:
        image = in_eight_bits(image)  # Pillow picks pixels instead of averaging them at 16 bits
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def in_eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey image in 8 bits, with alpha if the file declares a level transparent.

    Raises:
        InputError: `image.unsupported` for values that were not scaled to 16 bits, which would come out black.
    """
    values = np.asarray(image)
    if (brightest := int(values.max(initial=0))) and brightest <= MAX_UNSCALED:
        raise InputError(
            "image.unsupported", f"the largest of its 16-bit values is {brightest}, as in data of 12 bits or less"
        )
    levels = WHITE - values.astype(np.float32) if is_white_zero(image) else values.astype(np.float32)
    grey = Image.fromarray(np.clip(levels / 257.0 + 0.5, 0, 255).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def is_white_zero(image: Image.Image) -> bool:
    """Whether zero means white in a TIFF; Pillow respects that only at 8 bits."""
    return dict(getattr(image, "tag_v2", {})).get(_PHOTOMETRIC) == 0


def from_hdr(image: Image.Image, data: bytes, points: CodePoints, settings: DecodeSettings) -> Image.Image:
    """An HDR picture in standard range, its longer side at most `settings.reference_side`, not yet rotated by its EXIF."""
    name = "PQ" if points.transfer == PQ else "HLG"
    if image.format != "HEIF":
        raise InputError("image.hdr", f"HDR ({name}) in {image.format}, which can only be read at 8 bits")
    try:
        file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
        wide = np.asarray(file[file.primary_index])
        depth = int(file.info["bit_depth"])
    except (EOFError, RuntimeError, *DECODER_ERRORS) as error:
        raise damaged("the pixels cannot be decoded", error) from error
    wide = np.atleast_3d(at_most(wide, settings.reference_side))
    opaque = wide.shape[2] in (1, 3)
    if wide.shape[2] < 3:  # grey
        wide = wide[..., [0, 0, 0, -1]]
    # libheif left-aligns 10 and 12 bits in 16.
    brightest = 255 if wide.dtype == np.uint8 else 65536 - 2 ** (16 - depth)
    levels = np.rint(wide * np.float32(FULL / brightest)).clip(0, FULL).astype(np.uint16)
    signal = np.ascontiguousarray(levels[..., :3])
    by_camera = bool(image.getexif().get(ExifTags.Base.Make))
    converted = not by_camera and not exceeds_sdr_white(signal, points.transfer)
    rgb = Image.fromarray(to_srgb(signal, points.primaries, points.transfer, converted=converted))
    return rgb if opaque else over_white(rgb, Image.fromarray((levels[..., 3] >> 8).astype(np.uint8)))


def in_srgb(
    image: Image.Image,
    profile: ImageCms.ImageCmsProfile | None,
    points: CodePoints | None,
    encoding: Encoding | None,
) -> Image.Image:
    """Convert an image of any mode to RGB in sRGB, on white where it is transparent.

    Args:
        image: The decoded image.
        profile: Its colour profile.
        points: Its code points (ITU-T H.273), which count if there is no profile.
        encoding: What a file without either says of its primaries and transfer function.

    Raises:
        InputError: `image.unsupported` or `image.bad_profile`.
    """
    if image.mode in SIXTEEN_BITS:
        image = in_eight_bits(image)
    if image.mode == "F":
        raise InputError("image.unsupported", "floating-point pixels have no agreed range")
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA", "La", "RGBa") else None
    if image.mode in ("1", "LA", "La"):
        image = image.convert("LA").convert("L") if image.mode == "La" else image.convert("L")
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    if profile is not None:
        image = _convert_profile(image, profile)
    rgb = image.convert("RGB")
    if profile is None and points is not None:
        rgb = _convert_code_points(rgb, points)
    if encoding is not None:
        rgb = Image.fromarray(decoded_to_srgb(np.asarray(rgb), encoding))
    return rgb if alpha is None else over_white(rgb, alpha)


def _convert_code_points(image: Image.Image, points: CodePoints) -> Image.Image:
    if is_unknown(points.primaries, points.transfer):
        tags = f"primaries {points.primaries} and transfer {points.transfer}"
        raise InputError("image.unsupported", f"pixels with {tags} (ITU-T H.273) are linear or logarithmic")
    if not needs_conversion(points.primaries, points.transfer):
        return image
    signal = np.asarray(image).astype(np.uint16) * np.uint16(FULL // 255)
    return Image.fromarray(to_srgb(signal, points.primaries, points.transfer))


def over_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Composite a transparent image on white."""
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _convert_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    if image.mode == "LAB":
        return image  # Lab is independent of the profile
    space = profile.profile.xcolor_space.strip()
    as_rgb = image.mode in ("RGBA", "YCbCr") or (image.mode == "L" and space == "RGB")
    source = image.convert("RGB") if as_rgb else image
    if {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}.get(source.mode) != space:
        raise InputError("image.bad_profile", f"the colour profile is of {space} colours, the pixels are {source.mode}")
    try:
        converted = ImageCms.profileToProfile(source, profile, _SRGB, outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise InputError("image.bad_profile", f"the colour profile cannot be applied: {error}") from error
    return image if converted is None else converted
