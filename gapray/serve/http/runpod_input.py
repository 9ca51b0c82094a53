"""The `input` of RunPod's jobs, as the prototype's clients send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from gapray.capture.azimuths import AzimuthOptions
from gapray.errors import InputError
from gapray.serve.base64_forms import decode_base64
from gapray.serve.http.fields import PARAM_FIELDS, STILL_ALIASES, Body, refuse_repeated, rename_aliases
from gapray.serve.http.params import (
    ignored_fields,
    parse_azimuth_options,
    parse_azimuths,
    parse_params,
    parse_still_params,
)
from gapray.serve.incoming import (
    PHOTO_FIELDS,
    IncomingPhoto,
    ignored_members,
    photos_in_fields,
    photos_in_manifest,
    refuse_two_sources,
)
from gapray.serve.jobs import GenerationParams, StillParams
from gapray.serve.text import MAX_VALUES, refuse_many_values, strict_json

IMAGE_FIELDS = ("reference_image", "depth_image", "normal_image")
"""Fields of the prototype's image endpoint; a job with any of them makes stills."""
FILE_FIELDS = PHOTO_FIELDS | set(IMAGE_FIELDS) | {"manifest", "manifest_b64"}
"""Fields of `input` that may hold images."""
PROTOTYPE_DEFAULTS = {"fps": 8, "format": "gif"}
"""The prototype's defaults for videos."""
_ACCEPTED_FIELDS = ("prompt", "model", "user")
"""Fields of the Videos API that are accepted without being reported as ignored."""
_MANIFESTS = ("manifest_url", "manifest_b64", "manifest")


@dataclass(frozen=True)
class ParsedInput:
    """The parsed `input` of a job."""

    kind: Literal["video", "image"]
    params: GenerationParams
    photos: list[IncomingPhoto]
    azimuths: list[float] | None
    options: AzimuthOptions
    manifest_url: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Further input files: field of `JobInput` -> bytes."""
    ignored: Sequence[str] = ()
    """Fields that have no effect."""

    def as_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for `Context.accept`."""
        return {member.name: getattr(self, member.name) for member in fields(self) if member.name != "ignored"}


def parse_input(job_input: dict[str, Any]) -> ParsedInput:
    """Parse a job's `input`: a request for a video or, with the fields of the prototype's image endpoint, for stills.

    Raises:
        InputError: `request.*` or `capture.invalid_product_id`.
    """
    refuse_repeated(_body(job_input))
    if not any(job_input.get(name) for name in IMAGE_FIELDS):
        # A requested duration determines the frame rate.
        defaults = {
            name: value for name, value in PROTOTYPE_DEFAULTS.items() if name != "fps" or not job_input.get("seconds")
        }
        body = _body(defaults | job_input)
        refuse_two_sources(job_input, _MANIFESTS)
        photos, manifest_url, name = parse_photos(job_input)
        params = parse_params(body, product_id=name)
        azimuths = parse_azimuths(body)
        if manifest_url is not None and azimuths is not None:
            raise InputError("request.invalid", "a manifest says its views' azimuths: send no `azimuths` beside it")
        ignored = ignored_fields(_body(job_input), (*_MANIFESTS, *_ACCEPTED_FIELDS)) + ignored_members(photos)
        options = parse_azimuth_options(body)
        return ParsedInput("video", params, photos, azimuths, options, manifest_url, ignored=ignored)
    refuse_two_sources(job_input, ("reference_image", *_MANIFESTS))
    # Fields of videos, such as scales and sizes, mean the same for stills, except for the file format.
    body = _body({name: value for name, value in job_input.items() if name not in ("format", *IMAGE_FIELDS)})
    params = parse_params(body, product_id="product")
    still = parse_still_params(_body({"n": job_input.get("num_images")} | job_input))
    params = params.model_copy(update={"still": still})
    reference = job_input.get("reference_image")
    photos = photos_in_fields([("image", reference)] if reference else job_input.items())
    files = {
        field_name: _decode_map(job_input[name], name)
        for name, field_name in (("depth_image", "depth"), ("normal_image", "normals"))
        if job_input.get(name)
    }
    options = replace(parse_azimuth_options(body), allow_missing=True)
    known = (*IMAGE_FIELDS, *StillParams.model_fields, *STILL_ALIASES, *_ACCEPTED_FIELDS, "num_images")
    ignored = ignored_fields(_body(job_input), known, params=(PARAM_FIELDS | {"size"}) - {"format"})
    ignored += ignored_members(photos)
    return ParsedInput("image", params, photos, parse_azimuths(body), options, files=files, ignored=ignored)


def _body(values: dict[str, Any]) -> Body:
    return Body(tuple(rename_aliases(values.items())))


def _decode_map(value: Any, name: str) -> bytes:
    """Return the bytes of a depth or normal map, which must be sent inline."""
    images = photos_in_fields([("image", value)])
    if len(images) != 1 or images[0].data is None:
        raise InputError("request.invalid", f"{name} must be one picture, in base64 or a data URI")
    return images[0].data


def parse_photos(job_input: dict[str, Any]) -> tuple[list[IncomingPhoto], str | None, str]:
    """Extract the photos from a manifest in the prototype's format, or from the photo fields of the Videos API.

    Returns:
        The photos, the URL of a manifest still to be fetched (or None), and the default product id.
    """
    url = job_input.get("manifest_url")
    if url is not None:
        if not isinstance(url, str):
            raise InputError("request.invalid", "manifest_url must be a URL")
        return [], url, "product"
    manifest = job_input.get("manifest_b64", job_input.get("manifest"))
    if manifest is None:
        return photos_in_fields(job_input.items()), None, "product"
    if isinstance(manifest, str):
        try:
            text = decode_base64(manifest)
            refuse_many_values("manifest_b64", text, MAX_VALUES)
            manifest = strict_json(text)
        except (ValueError, RecursionError) as error:
            raise InputError("request.invalid", "manifest_b64 holds no JSON") from error
    name = manifest.get("asset_name") if isinstance(manifest, dict) else None
    return photos_in_manifest(manifest), None, name if isinstance(name, str) and name else "product"
