"""OpenAI's Images API (openai 3.57, `resources/images.py`): stills of a product from photos, in a scene.

Synchronous, as the SDKs expect, up to a limit; a request that takes longer is answered with 202 and an id to poll.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse, Response

from gapray.errors import GaprayError, InputError, ModelError, ServeError
from gapray.serve.http.auth import caller, context_of, owner_of
from gapray.serve.http.bodies import read_body
from gapray.serve.http.context import Context
from gapray.serve.http.fields import AZIMUTH_FIELDS, Body
from gapray.serve.http.native import Wait, preferred_wait, require_kind
from gapray.serve.http.openai import (
    PHOTOS_SCHEMA,
    STILLS_MODEL,
    check_model,
    delete_and_answer,
    file_response,
    get_job,
    idempotency_key,
)
from gapray.serve.http.params import (
    ignored_fields,
    parse_azimuth_options,
    parse_azimuths,
    parse_params,
    parse_still_params,
)
from gapray.serve.http.places import run_per_key
from gapray.serve.incoming import ignored_members, photos_in_fields, refuse_two_sources
from gapray.serve.jobs import Job, StillParams
from gapray.serve.keys import ApiKey
from gapray.serve.shapes import job_id, openai_images

router = APIRouter(prefix="/v1", tags=["images"])
_UNSUPPORTED = {"stream": ("true", "1"), "background": ("transparent",), "partial_images": ("1", "2", "3")}
"""Values that would change the form of the answer, but are not supported: refused, whereas other unknown fields are ignored."""
_KNOWN = (
    "prompt",
    "model",
    "webhook",
    "webhook_url",
    "user",
    "n",
    "output_compression",
    "response_format",
)

_VIDEO_FIELDS = ("num_frames", "fps", "seconds", "score", "format")
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", "example": "a mug on a white marble kitchen counter, morning sun"},
        "scene": {"type": "string", "example": "marble-kitchen", "description": "One of GET /v1/scenes."},
        "package": {"type": "string", "description": "Id of a finished package, in place of photos."},
        "product": {"type": "string", "description": "What prompts call the product.", "example": "a white mug"},
        "n": {"type": "integer", "minimum": 1, "maximum": 10},
        "azimuth_deg": {"type": "number", "description": "Azimuth of the view that is shown."},
        "exact": {"type": "boolean", "description": "Keep the product's pixels exactly as in the photo."},
        "size": {"type": "string", "example": "1024x1024", "description": "Default: the photo's aspect ratio."},
        "output_format": {"type": "string", "enum": ["png", "jpeg", "webp"]},
        "output_compression": {"type": "integer", "minimum": 0, "maximum": 100},
        "response_format": {"type": "string", "enum": ["b64_json", "url"]},
        **{
            name: schema
            for name, schema in PHOTOS_SCHEMA["properties"].items()
            if name not in (*_VIDEO_FIELDS, "prompt", "size", "input_reference[]")
        },
    },
}
_FORM = _SCHEMA | {
    "properties": {
        **_SCHEMA["properties"],
        "image[]": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "One or more photos, or one zip of them; azimuths as for videos.",
        },
    }
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": _FORM}, "application/json": {"schema": _SCHEMA}},
    }
}


@router.post("/images/generations", openapi_extra=BODY)
async def generate_images(request: Request, wait: Wait = None) -> JSONResponse:
    """Put a product into a scene, from a finished `package` or from photos in `views`."""
    return await _generate(request, wait)


@router.post("/images/edits", openapi_extra=BODY)
async def edit_images(request: Request, wait: Wait = None) -> JSONResponse:
    """Put the product in these photos into a scene."""
    return await _generate(request, wait)


@router.get("/images/{image_id}")
async def get_images(request: Request, image_id: str) -> JSONResponse:
    """Return a request's state and, once they are done, its pictures."""
    job = require_kind(await get_job(request, image_id), "image")
    return await _images_response(request, job)


@router.get("/images/{image_id}/content/{index}", response_class=Response)
async def get_image(request: Request, image_id: str, index: Annotated[int, Path(ge=0, le=99)]) -> Response:
    """Return the file of one picture."""
    job = require_kind(await get_job(request, image_id), "image")
    images = (job.result or {}).get("images", [])
    name = images[index]["name"] if index < len(images) else f"picture {index}"
    return file_response(request, await context_of(request).file(job, name), name)


@router.delete("/images/{image_id}")
async def delete_images(request: Request, image_id: str) -> dict[str, Any]:
    """Cancel a request if it is not done, and delete all its data."""
    return await delete_and_answer(request, require_kind(await get_job(request, image_id, "write"), "image"), "image")


@router.get("/scenes")
async def list_scenes(request: Request) -> dict[str, Any]:
    """List the scenes that a request can name."""
    from gapray.stills.scene import load_scenes, scene_names

    await caller(request, "read")
    scenes = await context_of(request).call(load_scenes, scene_names())
    return {"object": "list", "data": [{"name": scene.name, "prompt": scene.prompt} for scene in scenes]}


def refuse_without_stylist(context: Context) -> None:
    """Refuse a request for stills if the server has no stylist.

    Raises:
        InputError: `request.unsupported`.
    """
    if context.settings.stylist is None:
        raise InputError("request.unsupported", "this server draws no stills")


async def _generate(request: Request, wait: float | None) -> JSONResponse:
    key = await caller(request, "write")
    context = context_of(request)
    refuse_without_stylist(context)
    await context.refuse_when_full(key)
    body = await read_body(request, context.settings.limits)
    for name, values in _UNSUPPORTED.items():
        if str(body.last(name)).lower() in values:
            raise InputError("request.invalid", f"{name}={body.last(name)} is not taken here")
    response_format = body.text("response_format") or "b64_json"
    if response_format not in ("b64_json", "url"):
        raise InputError("request.invalid", "response_format must be b64_json or url")
    model = body.text("model") or STILLS_MODEL
    check_model(context, model, STILLS_MODEL)
    # `format` here is the format of stills, not of a video.
    params = parse_params(Body(tuple(item for item in body.fields if item[0] != "format")), product_id="product")
    refuse_two_sources(dict(body.fields), ["package"])
    package = await _package_artifact(context, key, body.text("package"))
    photos = await run_per_key(request, photos_in_fields, body.fields, needed=package is None)
    ignored = ignored_fields(body, (*_KNOWN, *StillParams.model_fields, "package")) + ignored_members(photos)
    if package is not None:  # its azimuths are known
        ignored = sorted({*ignored, *(name for name, _ in body.fields if name in AZIMUTH_FIELDS)})
    job = await context.accept(
        key,
        api="openai",
        kind="image",
        params=params.model_copy(update={"still": parse_still_params(body)}),
        photos=photos,
        azimuths=parse_azimuths(body),
        options=replace(parse_azimuth_options(body), allow_missing=True),
        package=package,
        ignored=ignored,
        model=model,
        endpoint=response_format,
        idempotency_key=idempotency_key(request),
        digest=await run_per_key(request, body.digest, "openai", "image"),
        webhook=body.text("webhook", "webhook_url"),
    )
    request.state.job = job.id
    job = await context.wait_for_job(job, preferred_wait(request, wait, context.settings.limits.image_wait_s), key)
    if job.final and job.status != "completed":
        raise job_error(job)
    return await _images_response(request, job)


async def _package_artifact(context: Context, key: ApiKey, package_id: str | None) -> str | None:
    """Return the artifact of a caller's finished package; None if the request names no package."""
    if package_id is None:
        return None
    job: Job = await context.call(context.store.get, job_id(package_id), owner_of(key))
    require_kind(job, "package")
    if job.status != "completed":
        code = "job.failed" if job.final else "job.not_ready"
        raise InputError(code, f"package {package_id[:80]} is {job.status}")
    return f"{job.folder}/package.zip"


def job_error(job: Job) -> GaprayError:
    """Return a job's failure as the error of the request that waited for it."""
    code, message = job.error_code or "internal.error", job.error_message or "the job failed"
    if code.startswith("model."):
        return ModelError(code, message)
    return ServeError(code, message) if code in ("internal.error", "artifacts.failed") else InputError(code, message)


async def _images_response(request: Request, job: Job) -> JSONResponse:
    """Return a request's state and pictures."""
    context = context_of(request)
    location = f"/v1/images/image_{job.id}"

    def build() -> JSONResponse:
        images = (job.result or {}).get("images", []) if job.status == "completed" else []
        if job.endpoint == "url":
            base = str(request.base_url).rstrip("/")
            data = [{"url": f"{base}{location}/content/{index}"} for index in range(len(images))]
        else:
            files = [context.artifacts.get(f"{job.folder}/{image['name']}") for image in images]
            data = [{"b64_json": base64.b64encode(file).decode()} for file in files]
        return JSONResponse(openai_images(job, data), 200 if job.final else 202, {"location": location})

    # Encoding megabytes of base64 would block the event loop.
    response: JSONResponse = await context.call(build)
    return response
