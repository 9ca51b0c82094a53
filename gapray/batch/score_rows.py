"""Schemas of `gapray score`: a video with its truth photos, then pairs of aligned images, then scores.

Arrays are stored as bytes next to their shape, so that every stage can be used and tested with plain tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gapray.batch.render_stages import PACKAGE
from gapray.batch.rows import ERROR_FIELDS, Row
from gapray.catalog.schemas import REJECTS, SCORES, VERDICTS, VIEWS
from gapray.fidelity.comparison import Comparison, Pair
from gapray.fidelity.shown import NormalizedView

TRUTH = pa.struct([("uri", pa.string()), ("azimuth_deg", pa.float64())])
PENDING_SCORE = pa.schema(
    [
        ("product_id", pa.string()),
        ("product_key", pa.string()),
        ("video_key", pa.string()),
        ("key", pa.string()),
        ("seed", pa.int64()),
        ("part", pa.string()),
        ("product", PACKAGE),
        ("backend", pa.string()),
        ("profile", pa.string()),
        ("preset", pa.string()),
        ("models", pa.list_(pa.string())),
        ("files", pa.list_(pa.string())),
        ("frames", pa.int32()),
        ("azimuths_deg", pa.list_(pa.float64())),
        ("truths", pa.list_(TRUTH)),
    ]
)
"""A video to score; if `truths` is empty, some of its views are left out and redrawn."""
IDENTITY = pa.schema(
    [PENDING_SCORE.field(name) for name in ("product_id", "product_key", "video_key", "key", "seed")] + ERROR_FIELDS
)
"""Columns that a row keeps through all stages, and its error."""
_PICTURE = [("height", pa.int32()), ("width", pa.int32()), ("pixels", pa.large_binary())]  # uint8 [height, width, 3]
GATHERED = pa.schema(
    [
        *IDENTITY,
        PENDING_SCORE.field("product"),
        pa.field("views", pa.list_(pa.struct(list(VIEWS)))),  # pictures compressed, as in the catalogue
        PENDING_SCORE.field("preset"),
        PENDING_SCORE.field("azimuths_deg"),
        pa.field("frames", pa.list_(pa.struct(_PICTURE))),  # decoded
        pa.field("provenance", pa.string()),  # the JSON file beside the video
        pa.field("truths", pa.list_(pa.struct([("azimuth_deg", pa.float64()), *_PICTURE]))),
        pa.field("left_out", pa.list_(pa.struct([("view", pa.int32()), *_PICTURE]))),  # views drawn from the others
    ]
)
"""A video, its package, and either truth photos or left-out views redrawn from the others."""
_VIEW = pa.struct(
    [
        ("azimuth_deg", pa.float64()),
        ("side", pa.int32()),
        ("pixels", pa.large_binary()),  # uint8 [side, side, 3]
        ("mask", pa.large_binary()),  # uint8 [side, side]
    ]
)
_PAIR = pa.struct(
    [
        ("image", _VIEW),
        ("truth", _VIEW),
        ("kind", pa.string()),
        ("frame", pa.int32()),
        ("without", pa.int32()),
        ("native", pa.struct([("image", _VIEW), ("truth", _VIEW)])),
    ]
)
COMPARED = pa.schema(
    [
        *IDENTITY,
        pa.field("conditions_deg", pa.list_(pa.float64())),  # azimuths of the package's views
        pa.field("pairs", pa.list_(_PAIR)),
        pa.field("given", pa.list_(_VIEW)),
        pa.field("clip", pa.list_(_VIEW)),
        pa.field("framing", pa.string()),
        pa.field("truth", pa.string()),
    ]
)
"""The fields of `Comparison`, ready for the metrics."""
SCORED = pa.schema(
    [
        ("product_id", pa.string()),
        ("scores", pa.list_(pa.struct(list(SCORES)))),
        ("verdicts", pa.list_(pa.struct(list(VERDICTS)))),
        ("reject", pa.struct(list(REJECTS))),
    ]
)
SCORE_RECEIPT = pa.schema(
    [
        ("product_id", pa.string()),
        ("outcome", pa.string()),
        ("pairs", pa.int32()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
"""Receipt of a committed video; `outcome` is passed, failed or rejected."""


def picture_columns(picture: NDArray[np.uint8]) -> Row:
    """Return the height, width and pixels of an image, uint8 [H, W, 3]."""
    height, width, _ = picture.shape
    return {"height": height, "width": width, "pixels": picture.tobytes()}


def picture_of(row: Row) -> NDArray[np.uint8]:
    """Return the image of `picture_columns`, uint8 [H, W, 3], read-only."""
    return np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3)


def comparison_columns(comparison: Comparison) -> Row:
    """Return a comparison as columns of `COMPARED`."""
    return {
        "pairs": [_pair_columns(pair) for pair in comparison.pairs],
        "given": [_view_columns(view) for view in comparison.given],
        "clip": [_view_columns(frame) for frame in comparison.clip],
        "framing": comparison.framing,
        "truth": comparison.truth,
    }


def comparison_of(row: Row) -> Comparison:
    """Return the comparison of `comparison_columns`; its arrays are read-only."""
    return Comparison(
        pairs=tuple(_pair(pair) for pair in row["pairs"]),
        given=tuple(_view(view) for view in row["given"]),
        clip=tuple(_view(frame) for frame in row["clip"]),
        framing=row["framing"],
        truth=row["truth"],
    )


def _pair_columns(pair: Pair) -> Row:
    native: Any = pair.native and {"image": _view_columns(pair.native[0]), "truth": _view_columns(pair.native[1])}
    return {
        "image": _view_columns(pair.image),
        "truth": _view_columns(pair.truth),
        "kind": pair.kind,
        "frame": pair.frame,
        "without": pair.without,
        "native": native,
    }


def _pair(row: Row) -> Pair:
    native = row["native"] and (_view(row["native"]["image"]), _view(row["native"]["truth"]))
    return Pair(_view(row["image"]), _view(row["truth"]), row["kind"], row["frame"], row["without"], native)


def _view_columns(view: NormalizedView) -> Row:
    return {
        "azimuth_deg": view.azimuth_deg,
        "side": view.mask.shape[0],
        "pixels": view.image.tobytes(),
        "mask": view.mask.tobytes(),
    }


def _view(row: Row) -> NormalizedView:
    side = row["side"]
    image = np.frombuffer(row["pixels"], np.uint8).reshape(side, side, 3)
    return NormalizedView(row["azimuth_deg"], image, np.frombuffer(row["mask"], np.uint8).reshape(side, side))
