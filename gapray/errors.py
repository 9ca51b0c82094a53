"""Every error gapray raises on purpose: one hierarchy, a stable code each, one cause and one remedy.

The same code appears on the command line, in a row of the `rejects` table and, later, in an HTTP body. `docs/errors.md`
lists them; a test keeps the two equal.
"""

from __future__ import annotations

from typing import ClassVar

REMEDIES: dict[str, str] = {
    "capture.not_found": "Check the path or URI, and the credentials of the bucket.",
    "capture.no_photos": "Put the photos of one product in this folder: JPEG, PNG, WebP, HEIC, TIFF or BMP.",
    "capture.ambiguous_layout": "Pass --layout product (this folder is one product) or --layout products.",
    "capture.ambiguous_azimuths": "Rename the photos by degrees (_000 … _315), or add a capture.csv with file and azimuth.",
    "capture.duplicate_azimuth": "Keep one photo an angle; put each product in a folder of its own.",
    "capture.missing_views": "Take the missing photos, or pass --allow-missing to use the others as they are.",
    "capture.invalid_table": "Write capture.csv (or .json) with the columns file and azimuth, in degrees.",
    "capture.invalid_product_id": "Rename the folder: letters, digits, '.', '_' and '-', at most 128, a letter or digit first.",
    "capture.unsafe_path": "Keep the photos inside the product's folder, with no links out of it and no '..' in names.",
    "capture.invalid_archive": "Make the zip file again; it must be a plain, unencrypted zip.",
    "capture.invalid_manifest": "Write the manifest by `gapray manifest`, or see docs/architecture.md for its columns.",
    "image.unreadable": "Check that the file can be read from here, then run again.",
    "image.empty": "The upload or the copy was cut off: take the file from the camera again.",
    "image.truncated": "The upload or the copy was cut off: take the file from the camera again.",
    "image.unsupported": "Save the photo as JPEG, PNG, WebP, HEIC, TIFF or BMP with 8 or 16 bits a channel.",
    "image.too_many_bytes": "Save a smaller file, or raise --set decode.max_bytes.",
    "image.too_many_pixels": "Save a smaller photo, or raise --set decode.max_pixels.",
    "image.too_small": "Use a photo of at least decode.min_side pixels on its shorter side.",
    "image.too_many_frames": "Save one still a view; animations and multi-page files are not photos.",
    "image.bad_profile": "Save the photo again with the sRGB profile.",
    "mask.too_small": "Move closer, use a plainer backdrop, or choose another model by --set mask.model.",
    "mask.too_large": "Step back so that the backdrop is seen all round, or choose another mask model.",
    "orbit.too_few_views": "Take at least three photos round the product, better eight.",
    "video.unsupported": "Change the number of frames, the size or the preset; see `gapray presets`.",
    "video.unreadable": "Check that the file is a whole mp4, webm, gif or webp with a video stream.",
    "video.unknown_preset": "See `gapray presets` for the names.",
    "video.write_failed": "Free space on the disk or in the bucket, check its permissions, then run again.",
    "score.no_video": "Render with a preset that has an mp4, webp, gif or frames, such as --preset web.",
    "score.no_truth": "Pass --truth with photos at angles that the package lacks, or package at least four views.",
    "score.not_this_product": "Check that the video shows this product; nothing is scored against another one's photos.",
    "score.too_short": "Use a video of at least two different frames that turns round the product.",
    "report.no_approval": "Pass --approved with the CSV that the report's page downloads: columns product_id, video_key, decision.",
    "config.invalid": "See `gapray package --help` and docs/architecture.md for the settings.",
    "profile.unknown": "See `gapray models list` for the profiles.",
    "model.unknown": "See `gapray models list` for the cards.",
    "model.unavailable": "Fetch the file elsewhere and point GAPRAY_MODELS at its folder, or pull where a source is in reach.",
    "model.hash_mismatch": "Delete the file and pull again; if it happens twice, do not use that source.",
    "model.wrong_part": "Pull the card again, or name a card of the right family; see `gapray models list`.",
    "model.out_of_memory": "Use a larger GPU, fewer frames, a smaller size or --set video.animatediff.decode_chunk=4.",
    "model.failed": "See the log of the run; run `gapray doctor`.",
    "resource.insufficient": "Use a larger cluster, or a profile that asks for less.",
    "catalog.not_found": "Check the catalogue's path; `gapray package SRC --out CATALOG` makes one.",
    "catalog.incompatible": "Read this catalogue with the gapray release that wrote it.",
    "catalog.product_not_found": "See `gapray catalog show CATALOG` for the products it holds.",
    "catalog.write_failed": "Free space on the disk or in the bucket, check its permissions, then run again.",
    "gap.invalid_folder": "Compare the folder with the layout in docs/architecture.md; `gapray export` writes one.",
    "internal.error": "This is a defect of gapray: please report it with the message and the photos.",
}
"""Code -> the sentence that says what to do."""


class GaprayError(Exception):
    """Base of all errors that gapray raises on purpose.

    Args:
        code: A key of `REMEDIES`.
        message: One sentence of what is wrong, naming the thing it is wrong with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.remedy = REMEDIES[code]

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class InputError(GaprayError):
    """An input that cannot be used: `capture.*`, `image.*`, `mask.*`, `gap.*`, `orbit.*`, `video.*`, `score.*`, `report.*`."""

    exit_code = 4


class ConfigError(GaprayError):
    """Settings that are wrong or do not exist (`config.*`, `profile.*`)."""

    exit_code = 2


class ModelError(GaprayError):
    """Weights that cannot be had, or a network that failed (`model.*`)."""


class ResourceError(GaprayError):
    """A machine or cluster that lacks something the run needs (`resource.*`)."""


class CatalogError(GaprayError):
    """A catalogue, or a product in it, that cannot be read (`catalog.*`)."""

    exit_code = 4


class InternalError(GaprayError):
    """An error that gapray did not foresee, wrapped so that it keeps a code (`internal.error`)."""


def as_gapray_error(error: Exception) -> GaprayError:
    """`error` itself when it is one of ours, else an `InternalError` that names its type and message."""
    if isinstance(error, GaprayError):
        return error
    return InternalError("internal.error", f"{type(error).__name__}: {error}")
