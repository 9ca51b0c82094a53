"""Remedies for clients of the HTTP APIs, in terms of request fields instead of command-line flags."""

from __future__ import annotations

import re

from gapray.errors import REMEDIES

_FIELDS = {
    "capture.no_photos": "Send the photos of one product: JPEG, PNG, WebP, HEIC, TIFF or BMP.",
    "capture.unfinished": "Wait until copying, downloading or synchronising has finished, and send all photos; leave the files that are named out.",
    "capture.ambiguous_layout": "Send the photos of one product.",
    "capture.ambiguous_azimuths": "Name the photos by degrees (mug_000 … mug_315), or send them one by one, not in a zip, "
    "with `azimuths` or `names=order`.",
    "capture.invalid_product_id": "Send another `product_id`, or rename the folder in the zip: letters, digits, '.', '_' and '-', "
    "at most 128, a letter or digit first.",
    "capture.duplicate_azimuth": "Send one photo an angle, and one product a request.",
    "capture.missing_views": "Take the missing photos, or send `allow_missing=true` to use the others as they are.",
    "capture.invalid_name": "Send file names in UTF-8.",
    "orbit.empty_hull": "Look at the masks (`/v1/videos/ID/views`): they must show one product, at the azimuths that are named.",
    "video.unsupported": "Change the number of frames, the size or the format.",
    "video.unknown_preset": "See /openapi.json for the formats.",
    "score.no_video": "Send a video: mp4, webm, gif or webp.",
    "score.not_as_drawn": "Make the video again, and score it as it is made.",
    "image.too_many_bytes": "Send a smaller file.",
    "image.too_many_pixels": "Send a smaller photo.",
    "mask.too_small": "Move closer, or use a plainer backdrop.",
    "mask.too_large": "Step back so that the backdrop is seen all round.",
    "scene.unknown": "See `GET /v1/scenes` for the names.",
    "score.no_truth": "Send photos at angles that the video was not made from, or at least four views.",
}


def remedy_of(code: str | None) -> str | None:
    """Return the remedy for an error code, or None if the code has none."""
    return None if code is None else _FIELDS.get(code, REMEDIES.get(code))


_PASS = re.compile(r"\bPass (?=--(?:names|closing-frame|front|direction)\b)")
_FLAG = re.compile(r"--(names|closing-frame|front|direction) (-?\w+)")


def as_request_fields(message: str) -> str:
    """Replace command-line flags in a message by request fields: ``--names index`` becomes ``names=index``."""
    return _FLAG.sub(lambda flag: f"{flag[1].replace('-', '_')}={flag[2]}", _PASS.sub("Send ", message))
