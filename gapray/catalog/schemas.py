"""Schemas of all tables, with column types that DuckDB, Polars, Spark and pandas can all read."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from gapray.errors import CatalogError
from gapray.gap.identity import IDENTITY_SIZE

FORMAT = 2
"""Format of the parts that this release writes. It is incremented for changes that older readers would misread, such as a different
type, unit or meaning of a column. An additional nullable column needs no new format. Format 2: files of videos and stills are
below ``files/`` (`gapray.catalog.media`)."""
OLDEST_FORMAT = 1
"""Oldest format that this release reads; compaction rewrites all parts in `FORMAT`."""
FORMAT_KEY = b"gapray.format"
"""Key of the format in a part's footer."""

_STAMP = pa.timestamp("us", tz="UTC")


def _schema(table: str, columns: list[tuple[str, pa.DataType, bool, str]]) -> pa.Schema:
    fields = [
        pa.field(name, kind, nullable, metadata={"description": description})
        for name, kind, nullable, description in columns
    ]
    return pa.schema(fields, metadata={b"gapray.table": table.encode(), FORMAT_KEY: str(FORMAT).encode()})


def check_format(path: str, metadata: Mapping[bytes, bytes] | None) -> None:
    """Check that this release can read a part.

    Args:
        path: Path of the part, for the error message.
        metadata: Key-value pairs of its footer.

    Raises:
        CatalogError: `catalog.newer_format`, `catalog.older_format`, or `catalog.incompatible` for a part without a format.
    """
    part_format = (metadata or {}).get(FORMAT_KEY, b"").decode(errors="replace")
    if not part_format.isdecimal():
        raise CatalogError("catalog.incompatible", f"{path} does not say which format it has")
    if int(part_format) > FORMAT:
        raise CatalogError(
            "catalog.newer_format", f"{path} has format {part_format}; this release reads up to {FORMAT}"
        )
    if int(part_format) < OLDEST_FORMAT:
        raise CatalogError(
            "catalog.older_format", f"{path} has format {part_format}; this release reads {OLDEST_FORMAT} and later"
        )


VIEWS = _schema(
    "views",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "Hash of the photos' bytes, azimuths, settings and weights of its product."),
        ("azimuth_deg", pa.float64(), False, "Degrees in [0, 360), 0 = front, counter-clockwise seen from above."),
        ("name", pa.string(), False, "File name of the photo."),
        ("uri", pa.string(), False, "Where the photo came from."),
        ("sha256", pa.string(), False, "SHA-256 of the photo's bytes."),
        ("width", pa.int32(), False, "Width of all four images [pixels]."),
        ("height", pa.int32(), False, "Height of all four images [pixels]."),
        ("reference", pa.large_binary(), False, "JPEG, sRGB."),
        ("mask", pa.large_binary(), False, "PNG, 8-bit grey, 128 and above = product."),
        (
            "depth",
            pa.large_binary(),
            False,
            "PNG, 16-bit grey, 0 = no product, 1 = farthest … 65535 = nearest of the set.",
        ),
        ("canny", pa.large_binary(), False, "PNG, 8-bit grey, 0 or 255."),
        ("identity", pa.list_(pa.float32(), IDENTITY_SIZE), False, "512 appearance features and 5 geometric figures."),
        ("mask_share", pa.float64(), False, "Fraction of the image that is product, 0 … 1."),
        ("depth_mean", pa.float64(), False, "Mean of the depth inside the mask, 0 … 1."),
        ("depth_std", pa.float64(), False, "Standard deviation of the depth inside the mask, 0 … 1."),
        ("depth_min", pa.float64(), False, "Minimum of the depth inside the mask, 0 … 1."),
        ("depth_max", pa.float64(), False, "Maximum of the depth inside the mask, 0 … 1."),
        ("sharpness", pa.float64(), False, "Variance of the Laplacian inside the mask [grey levels squared]."),
        ("clipped_dark", pa.float64(), False, "Fraction of the product's pixels at black, 0 … 1."),
        ("clipped_bright", pa.float64(), False, "Fraction of the product's pixels at white, 0 … 1."),
        ("mask_model", pa.string(), False, "name@revision."),
        ("depth_model", pa.string(), False, "name@revision."),
        ("canny_model", pa.string(), False, "name."),
        ("identity_model", pa.string(), False, "name@revision of the model of the 512 features."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When this product's package was finished."),
    ],
)
"""One row per view. All views of a product are adjacent, in one part."""

PRODUCTS = _schema(
    "products",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "Hash of the photos' bytes, azimuths, settings and weights."),
        ("source", pa.string(), False, "Hash of the photos' names, sizes, time stamps and azimuths."),
        ("settings", pa.string(), False, "Hash of the packaging settings and weights."),
        ("profile", pa.string(), False, "The profile's name."),
        ("uri", pa.string(), False, "Location of the photos."),
        ("views", pa.int32(), False, "Number of views."),
        ("azimuths_deg", pa.list_(pa.float64()), False, "Azimuths of the views, ascending [degrees]."),
        ("depth_scale", pa.float64(), False, "Model nearness = scale * (value - 1) / 65534 + shift."),
        ("depth_shift", pa.float64(), False, "Shift of the model's nearness, see `depth_scale`."),
        ("mask_model", pa.string(), False, "name@revision."),
        ("depth_model", pa.string(), False, "name@revision."),
        ("canny_model", pa.string(), False, "name."),
        ("identity_model", pa.string(), False, "name@revision."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When the package was finished."),
        (
            "azimuths_by",
            pa.string(),
            True,
            "How azimuths were determined: degrees or frames in the photos' names, a table, or their order; null = unknown.",
        ),
        (
            "warnings",
            pa.list_(pa.struct([("code", pa.string()), ("message", pa.string())])),
            True,
            "Problems with the photos or their origin; null = not checked.",
        ),
    ],
)
"""One row per product, without images, written after its views: the commit marker."""

REJECTS = _schema(
    "rejects",
    [
        ("product_id", pa.string(), False, "The SKU, or the folder's name if it is not a valid id."),
        ("key", pa.string(), False, "Hash of source and settings."),
        ("source", pa.string(), False, "As in `products`; empty if the photos could not be listed."),
        ("settings", pa.string(), False, "As in `products`."),
        ("uri", pa.string(), False, "Location of the photos."),
        ("stage", pa.string(), False, "The stage that failed: package, render, score or stills."),
        (
            "item",
            pa.string(),
            True,
            "What failed: backend/seed/preset of a video, scene/backend/seed of a still, the video's key for a score.",
        ),
        ("code", pa.string(), False, "Error code, see docs/errors.md."),
        ("message", pa.string(), False, "Error message."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When it was rejected."),
    ],
)
"""One row per product, video, score or still that a run could not make."""

VIDEOS = _schema(
    "videos",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "Hash of the product's key, the settings, the weights, the preset and the seed."),
        ("product_key", pa.string(), False, "`products.key` of the package it was made from."),
        ("backend", pa.string(), False, "Backend that drew the frames."),
        ("seed", pa.int64(), False, "Random seed."),
        ("preset", pa.string(), False, "Export preset."),
        ("profile", pa.string(), False, "The profile's name."),
        ("frames", pa.int32(), False, "Number of frames of one turn."),
        ("size", pa.int32(), False, "Side of a frame [pixels]."),
        ("azimuths_deg", pa.list_(pa.float64()), False, "Azimuths of the frames [degrees]."),
        ("key_frames", pa.list_(pa.int32()), False, "Indices of the frames at captured angles."),
        ("files", pa.list_(pa.string()), False, "Paths relative to the catalogue."),
        ("bytes", pa.int64(), False, "Total size of the files [bytes]."),
        ("source_type", pa.string(), False, "IPTC's digital source type."),
        ("licence", pa.string(), False, "Licence of the backend and its models."),
        ("models", pa.list_(pa.string()), False, "name@revision of every network."),
        ("elevation_deg", pa.float64(), False, "Calibrated elevation of the camera [degrees]."),
        ("direction", pa.int32(), False, "1, or -1 if the photos run against their azimuths."),
        ("reprojection_iou", pa.list_(pa.float64()), False, "IoU of each view's mask and the hull, 0 … 1."),
        ("warnings", pa.list_(pa.string()), False, "Problems with the photos."),
        ("seconds", pa.float64(), False, "Rendering time of this product, encoding included."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When the video was finished."),
    ],
)
"""One row per video, written after its files: the commit marker. The files are below `files/videos/<product_id>/`."""

_NUMBER = pa.float64()
_SCORED = [
    ("product_id", pa.string(), False, "The SKU."),
    ("key", pa.string(), False, "Hash of the video's key, the protocol and the truth photos."),
    ("product_key", pa.string(), False, "`products.key` of the package."),
    ("video_key", pa.string(), False, "`videos.key`, or the sha256 of a foreign video."),
    ("label", pa.string(), False, "gapray, a baseline's name, or the user's label of a foreign video."),
    (
        "foreign_video",
        pa.bool_(),
        False,
        "Scored by alignment: a foreign video, or gapray's own when compared with one.",
    ),
]
_STAMPED = [
    ("protocol", pa.string(), False, "JSON of `gapray.fidelity.protocol.Protocol`: how the scores were measured."),
    ("run_id", pa.string(), False, "The run that wrote this row."),
    ("created_at", _STAMP, False, "When it was scored."),
]

SCORES = _schema(
    "scores",
    [
        *_SCORED,
        ("frame", pa.int32(), True, "Index of the frame in the video; null if the image is not a frame."),
        ("azimuth_deg", _NUMBER, False, "Azimuth of the truth photo [degrees]."),
        ("kind", pa.string(), False, "key: the generator saw this photo; in-between: it did not."),
        ("lpips", _NUMBER, False, "LPIPS at the protocol's size, 0 = identical."),
        ("lpips_native", _NUMBER, True, "LPIPS at the video's own size."),
        ("psnr", _NUMBER, True, "PSNR [dB]; null for foreign videos, whose pixels are only roughly aligned."),
        ("ssim", _NUMBER, True, "SSIM, -1 … 1."),
        ("iou", _NUMBER, True, "IoU of the silhouettes, 0 … 1."),
        ("identity", _NUMBER, True, "Cosine similarity of the 512 appearance features."),
        ("product_share", _NUMBER, False, "Fraction of the truth image that is product, 0 … 1."),
        *_STAMPED,
    ],
)
"""One row per pair of image and truth photo."""

VERDICTS = _schema(
    "verdicts",
    [
        *_SCORED,
        ("angles", pa.int32(), False, "Number of in-between angles scored."),
        ("lpips", _NUMBER, True, "Mean LPIPS over in-between angles; over aligned angles for a foreign video."),
        ("worst_lpips", _NUMBER, True, "LPIPS at the worst of them."),
        ("worst_azimuth_deg", _NUMBER, True, "Azimuth of the worst of them [degrees]."),
        ("lpips_native", _NUMBER, True, "Mean LPIPS at the video's own size."),
        ("psnr", _NUMBER, True, "Mean PSNR [dB]."),
        ("ssim", _NUMBER, True, "Mean SSIM."),
        ("iou", _NUMBER, True, "Mean IoU of the silhouettes."),
        ("identity", _NUMBER, True, "Mean cosine similarity of the appearance features."),
        (
            "key_angles",
            pa.int32(),
            False,
            "Number of angles at which the generator saw the photo; not in the means above.",
        ),
        ("key_lpips", _NUMBER, True, "Mean LPIPS over those angles."),
        ("flicker", _NUMBER, True, "Flow-warp error, 0 … 1."),
        ("loop_gap", _NUMBER, True, "LPIPS of the step that closes the loop over that of the mean step."),
        ("span_deg", _NUMBER, True, "Part of the turn that is shown [degrees]."),
        ("gate", pa.string(), False, "pass, fail, or none if not judged."),
        ("reasons", pa.list_(pa.string()), False, "Reasons for failing the gate."),
        ("notes", pa.list_(pa.string()), False, "Remarks on the scores, such as unmatched angles."),
        *_STAMPED,
    ],
)
"""One row per video and label, written after its scores: the commit marker."""

STILLS = _schema(
    "stills",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "Hash of the product's key, the scene, the settings, the weights and the seed."),
        ("product_key", pa.string(), False, "`products.key` of the package it was made from."),
        ("scene", pa.string(), False, "The scene's name."),
        ("prompt", pa.string(), False, "The prompt as given to the model."),
        ("backend", pa.string(), False, "Backend that drew the still."),
        ("seed", pa.int64(), False, "Random seed."),
        ("azimuth_deg", pa.float64(), False, "Azimuth of the view that is shown [degrees]."),
        ("width", pa.int32(), False, "Width of the still [pixels]."),
        ("height", pa.int32(), False, "Height of the still [pixels]."),
        ("file", pa.string(), False, "Path relative to the catalogue."),
        ("bytes", pa.int64(), False, "Size of the file [bytes]."),
        (
            "pasted",
            pa.bool_(),
            False,
            "The product's pixels were copied from the photo, so that scores say nothing about the backend.",
        ),
        ("source_type", pa.string(), False, "IPTC's digital source type."),
        ("licence", pa.string(), False, "Licence of the backend and its models."),
        ("models", pa.list_(pa.string()), False, "name@revision of every network."),
        ("profile", pa.string(), False, "The profile's name."),
        (
            "cosine",
            _NUMBER,
            False,
            "Cosine similarity of the 512 appearance features to the most similar captured view.",
        ),
        ("lpips", _NUMBER, False, "LPIPS of the cut-out product against that view, after alignment."),
        ("iou", _NUMBER, False, "IoU of the silhouettes after alignment, 0 … 1."),
        ("colour", _NUMBER, False, "Mean difference of the blurred colours [CIE Lab / 100]."),
        ("hue", _NUMBER, False, "Difference of hues relative to the amount of colour, 0 = none."),
        ("detail", _NUMBER, False, "Amount of fine detail relative to the photo [log2]."),
        ("mirror", _NUMBER, False, "LPIPS to the mirrored views minus LPIPS to the views."),
        ("score", _NUMBER, False, "Confidence that it is the same product, 0 … 1."),
        ("same_percentile", _NUMBER, False, "Fraction of real photos of the same product that score lower, 0 … 1."),
        ("other_percentile", _NUMBER, False, "Fraction of photos of other products that score lower, 0 … 1."),
        ("gate", pa.string(), False, "pass or fail."),
        ("reasons", pa.list_(pa.string()), False, "Reasons for failing the gate."),
        ("seconds", pa.float64(), False, "Time to draw and judge it [s]."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When it was finished."),
    ],
)
"""One row per still, written after its file: the commit marker. The files are below `files/stills/<product_id>/`."""

TABLES: dict[str, pa.Schema] = {
    "views": VIEWS,
    "products": PRODUCTS,
    "videos": VIDEOS,
    "scores": SCORES,
    "verdicts": VERDICTS,
    "stills": STILLS,
    "rejects": REJECTS,
}
SORT_COLUMNS: dict[str, tuple[str, ...]] = {
    "views": ("product_id", "azimuth_deg"),
    "products": ("product_id",),
    "videos": ("product_id", "backend", "seed", "preset"),
    "scores": ("product_id", "label", "azimuth_deg"),
    "verdicts": ("product_id", "label"),
    "stills": ("product_id", "scene", "seed"),
    "rejects": ("product_id", "stage", "item"),
}
"""Sort order of rows in a part."""
