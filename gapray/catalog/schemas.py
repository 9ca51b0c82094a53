"""Columns of every table. Types are those that DuckDB, Polars, Spark and pandas all read."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from gapray.errors import CatalogError
from gapray.gap.identity import IDENTITY_SIZE

FORMAT = 2
"""Format of the parts that this release writes. It grows when readers that do not know of a change would read wrong rows: another
type, unit or meaning of a column. A column more that may be null needs no new format. 2: files of videos and stills lie below
``files/`` (`gapray.catalog.media`)."""
OLDEST_FORMAT = 1
"""The oldest that this release reads; compaction writes all parts in `FORMAT`."""
FORMAT_KEY = b"gapray.format"
"""Where a part's footer says its format."""

_STAMP = pa.timestamp("us", tz="UTC")


def _schema(table: str, columns: list[tuple[str, pa.DataType, bool, str]]) -> pa.Schema:
    fields = [
        pa.field(name, kind, nullable, metadata={"description": description})
        for name, kind, nullable, description in columns
    ]
    return pa.schema(fields, metadata={b"gapray.table": table.encode(), FORMAT_KEY: str(FORMAT).encode()})


def check_format(path: str, metadata: Mapping[bytes, bytes] | None) -> None:
    """Make sure that this release can read a part.

    Args:
        path: Of the part, for the message.
        metadata: Key-value pairs of its footer.

    Raises:
        CatalogError: `catalog.newer_format`, `catalog.older_format`, or `catalog.incompatible` for a part that says none.
    """
    said = (metadata or {}).get(FORMAT_KEY, b"").decode(errors="replace")
    if not said.isdecimal():
        raise CatalogError("catalog.incompatible", f"{path} does not say which format it has")
    if int(said) > FORMAT:
        raise CatalogError("catalog.newer_format", f"{path} has format {said}; this release reads up to {FORMAT}")
    if int(said) < OLDEST_FORMAT:
        raise CatalogError(
            "catalog.older_format", f"{path} has format {said}; this release reads {OLDEST_FORMAT} and later"
        )


VIEWS = _schema(
    "views",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "Hash of the photos' bytes, azimuths, settings and weights of its product."),
        ("azimuth_deg", pa.float64(), False, "Degrees in [0, 360), 0 = front, counter-clockwise seen from above."),
        ("name", pa.string(), False, "File name of the photo."),
        ("uri", pa.string(), False, "Where the photo came from."),
        ("sha256", pa.string(), False, "Of the photo's bytes."),
        ("width", pa.int32(), False, "Of all four images [pixels]."),
        ("height", pa.int32(), False, "Of all four images [pixels]."),
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
        ("mask_share", pa.float64(), False, "Share of the image that is product."),
        ("depth_mean", pa.float64(), False, "Of the depth inside the mask, 0 … 1."),
        ("depth_std", pa.float64(), False, "Of the depth inside the mask, 0 … 1."),
        ("depth_min", pa.float64(), False, "Of the depth inside the mask, 0 … 1."),
        ("depth_max", pa.float64(), False, "Of the depth inside the mask, 0 … 1."),
        ("sharpness", pa.float64(), False, "Variance of the Laplacian inside the mask [grey levels squared]."),
        ("clipped_dark", pa.float64(), False, "Share of the product at black."),
        ("clipped_bright", pa.float64(), False, "Share of the product at white."),
        ("mask_model", pa.string(), False, "name@revision."),
        ("depth_model", pa.string(), False, "name@revision."),
        ("canny_model", pa.string(), False, "name."),
        ("identity_model", pa.string(), False, "name@revision of what made the 512 features."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When this product's package was finished."),
    ],
)
"""One row a view. All views of a product lie side by side in one part."""

PRODUCTS = _schema(
    "products",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "As in `views`."),
        ("source", pa.string(), False, "Hash of the photos' names, sizes, stamps and azimuths."),
        ("settings", pa.string(), False, "Hash of the packaging settings and weights."),
        ("profile", pa.string(), False, "The profile's name."),
        ("uri", pa.string(), False, "Where the photos lie."),
        ("views", pa.int32(), False, "Number of views."),
        ("azimuths_deg", pa.list_(pa.float64()), False, "Ascending."),
        ("depth_scale", pa.float64(), False, "Model nearness = scale * (value - 1) / 65534 + shift."),
        ("depth_shift", pa.float64(), False, "See `depth_scale`."),
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
            "degrees or frames in the photos' names, a table, or their order; null where nobody said.",
        ),
        (
            "warnings",
            pa.list_(pa.struct([("code", pa.string()), ("message", pa.string())])),
            True,
            "What looks wrong with the photos or where they came from; null where nobody has looked.",
        ),
    ],
)
"""One light row a product, written after its views: the commit marker."""

REJECTS = _schema(
    "rejects",
    [
        ("product_id", pa.string(), False, "The SKU, or the folder's name where it cannot be one."),
        ("key", pa.string(), False, "Hash of source and settings."),
        ("source", pa.string(), False, "As in `products`; empty when the photos could not be listed."),
        ("settings", pa.string(), False, "As in `products`."),
        ("uri", pa.string(), False, "Where the photos lie."),
        ("stage", pa.string(), False, "What could not be done: package, render, score or stills."),
        (
            "item",
            pa.string(),
            True,
            "Which of the product's: of videos backend/seed/preset, of stills scene/backend/seed, of scores the video's key.",
        ),
        ("code", pa.string(), False, "Stable reason, see docs/errors.md."),
        ("message", pa.string(), False, "One sentence, naming the photo."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When it was refused."),
    ],
)
"""One row a product, video, score or still that a run could not make."""

VIDEOS = _schema(
    "videos",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "Hash of the product's key, the settings, the weights, the preset and the seed."),
        ("product_key", pa.string(), False, "`products.key` of the package it was made from."),
        ("backend", pa.string(), False, "What drew the frames."),
        ("seed", pa.int64(), False, "Of whatever is random."),
        ("preset", pa.string(), False, "Which files were made."),
        ("profile", pa.string(), False, "The profile's name."),
        ("frames", pa.int32(), False, "Of one turn."),
        ("size", pa.int32(), False, "Side of a frame [pixels]."),
        ("azimuths_deg", pa.list_(pa.float64()), False, "Of the frames."),
        ("key_frames", pa.list_(pa.int32()), False, "Frames that show a captured angle."),
        ("files", pa.list_(pa.string()), False, "Paths relative to the catalogue."),
        ("bytes", pa.int64(), False, "Of all files."),
        ("source_type", pa.string(), False, "IPTC's digital source type."),
        ("licence", pa.string(), False, "Of what drew the frames."),
        ("models", pa.list_(pa.string()), False, "name@revision of every network."),
        ("elevation_deg", pa.float64(), False, "Of the camera, as calibrated."),
        ("direction", pa.int32(), False, "-1 when the photos run against their azimuths."),
        ("reprojection_iou", pa.list_(pa.float64()), False, "Of each view's mask and the hull."),
        ("warnings", pa.list_(pa.string()), False, "What looks wrong with the photos."),
        ("seconds", pa.float64(), False, "Rendering time of this product, encoding included."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When the video was finished."),
    ],
)
"""One row a video, written after its files: the commit marker. The files lie under `files/videos/<product_id>/`."""

_NUMBER = pa.float64()
_SCORED = [
    ("product_id", pa.string(), False, "The SKU."),
    ("key", pa.string(), False, "Hash of the video's key, the protocol and the truth photos."),
    ("product_key", pa.string(), False, "`products.key` of the package."),
    ("video_key", pa.string(), False, "`videos.key`, or the sha256 of a foreign video."),
    ("label", pa.string(), False, "gapray, a baseline's name, or what the user calls a foreign video."),
    (
        "foreign_video",
        pa.bool_(),
        False,
        "Scored by alignment against a video from elsewhere: ours too, for equal freedom.",
    ),
]
_STAMPED = [
    ("protocol", pa.string(), False, "JSON of `gapray.fidelity.protocol.Protocol`: how the numbers were made."),
    ("run_id", pa.string(), False, "The run that wrote this row."),
    ("created_at", _STAMP, False, "When it was scored."),
]

SCORES = _schema(
    "scores",
    [
        *_SCORED,
        ("frame", pa.int32(), True, "Index in the video; null for what is no frame of one."),
        ("azimuth_deg", _NUMBER, False, "Of the truth photo."),
        ("kind", pa.string(), False, "key: the generator saw this very photo. in-between: it did not."),
        ("lpips", _NUMBER, False, "LPIPS at the protocol's size, 0 = identical."),
        ("lpips_native", _NUMBER, True, "LPIPS at the video's own size."),
        ("psnr", _NUMBER, True, "[dB]; null for foreign videos, whose pixels are only roughly aligned."),
        ("ssim", _NUMBER, True, "-1 … 1."),
        ("iou", _NUMBER, True, "Of the silhouettes, 0 … 1."),
        ("identity", _NUMBER, True, "Cosine of the 512 appearance features."),
        ("product_share", _NUMBER, False, "Share of the truth image that is product."),
        *_STAMPED,
    ],
)
"""One row an image and its truth."""

VERDICTS = _schema(
    "verdicts",
    [
        *_SCORED,
        ("angles", pa.int32(), False, "In-between angles scored."),
        ("lpips", _NUMBER, True, "Mean over in-between angles; aligned angles for a foreign video."),
        ("worst_lpips", _NUMBER, True, "At the worst of them."),
        ("worst_azimuth_deg", _NUMBER, True, "Which that is."),
        ("lpips_native", _NUMBER, True, "Mean at the video's own size."),
        ("psnr", _NUMBER, True, "Mean [dB]."),
        ("ssim", _NUMBER, True, "Mean."),
        ("iou", _NUMBER, True, "Mean."),
        ("identity", _NUMBER, True, "Mean."),
        ("key_angles", pa.int32(), False, "Angles at which the generator saw the photo; never in the means above."),
        ("key_lpips", _NUMBER, True, "Mean over those."),
        ("flicker", _NUMBER, True, "Flow-warp error, 0 … 1."),
        ("loop_gap", _NUMBER, True, "LPIPS of the last step over the mean step."),
        ("span_deg", _NUMBER, True, "Degrees of the turn that are shown."),
        ("gate", pa.string(), False, "pass, fail, or none for what is not judged."),
        ("reasons", pa.list_(pa.string()), False, "Why it failed."),
        ("notes", pa.list_(pa.string()), False, "What to know about the number, such as unmatched angles."),
        *_STAMPED,
    ],
)
"""One row a video and label, written after its scores: the commit marker."""

STILLS = _schema(
    "stills",
    [
        ("product_id", pa.string(), False, "The SKU."),
        ("key", pa.string(), False, "Hash of the product's key, the scene, the settings, the weights and the seed."),
        ("product_key", pa.string(), False, "`products.key` of the package it was made from."),
        ("scene", pa.string(), False, "The scene's name."),
        ("prompt", pa.string(), False, "As it was given to the model."),
        ("backend", pa.string(), False, "What drew it."),
        ("seed", pa.int64(), False, "Of whatever is random."),
        ("azimuth_deg", pa.float64(), False, "Of the view that is shown."),
        ("width", pa.int32(), False, "[pixels]"),
        ("height", pa.int32(), False, "[pixels]"),
        ("file", pa.string(), False, "Path relative to the catalogue."),
        ("bytes", pa.int64(), False, "Of the file."),
        (
            "pasted",
            pa.bool_(),
            False,
            "The product's pixels are the photo's own: scores prove nothing about the backend.",
        ),
        ("source_type", pa.string(), False, "IPTC's digital source type."),
        ("licence", pa.string(), False, "Of what drew it."),
        ("models", pa.list_(pa.string()), False, "name@revision of every network."),
        ("profile", pa.string(), False, "The profile's name."),
        ("cosine", _NUMBER, False, "Of the 512 appearance features, against the nearest captured view."),
        ("lpips", _NUMBER, False, "Of the cut-out product after alignment, against that view."),
        ("iou", _NUMBER, False, "Of the silhouettes after alignment, 0 … 1."),
        ("colour", _NUMBER, False, "Mean difference of blurred colours, CIE Lab / 100."),
        ("hue", _NUMBER, False, "Difference of hues against what colour there is, 0 = none."),
        ("detail", _NUMBER, False, "Fine detail against the photo's [log2]."),
        ("mirror", _NUMBER, False, "LPIPS from the mirrored views less LPIPS from the views."),
        ("score", _NUMBER, False, "0 … 1: how sure it is the same product."),
        ("same_percentile", _NUMBER, False, "Share of real photos of a product that score less."),
        ("other_percentile", _NUMBER, False, "Share of photos of other products that score less."),
        ("gate", pa.string(), False, "pass or fail."),
        ("reasons", pa.list_(pa.string()), False, "Why it failed."),
        ("seconds", pa.float64(), False, "To draw and to judge it."),
        ("run_id", pa.string(), False, "The run that wrote this row."),
        ("created_at", _STAMP, False, "When it was finished."),
    ],
)
"""One row a still, written after its file: the commit marker. The files lie under `files/stills/<product_id>/`."""

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
"""The order of rows in a part."""
