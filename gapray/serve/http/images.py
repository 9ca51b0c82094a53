"""OpenAI's Images API (openai 3.57, `resources/images.py`): a product out of photos, put into a scene.

Synchronous as the SDKs expect it, up to a limit; a request that takes longer is answered by 202 and an id to ask for later.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse, Response

from gapray.errors import GaprayError, InputError, ModelError, ServeError
from gapray.serve.http.auth import caller, context_of, owner_of
from gapray.serve.http.bodies import (
    Body,
    azimuths_of,
    ignored_in,
    in_turn,
    making_of,
    options_of,
    read_body,
    still_of,
)
from gapray.serve.http.context import Context
from gapray.serve.http.native import Wait, of_kind, preferred_wait
from gapray.serve.http.openai import PHOTOS_SCHEMA, STILLS_MODEL, check_model, deleted, idempotency_key, one_job, ranged
from gapray.serve.jobs import Job, StillWish
from gapray.serve.keys import ApiKey
from gapray.serve.shapes import job_id, openai_images
from gapray.serve.uploads import refuse_two_sources, sent_by

router = APIRouter(prefix="/v1", tags=["images"])
_ELSEWHERE = {"stream": ("true", "1"), "background": ("transparent",), "partial_images": ("1", "2", "3")}
"""Values that would change what comes back and are not there: refused, where other fields are named as ignored."""
_KNOWN = (
    "prompt",
    "model",
    "webhook",
    "webhook_url",
    "extra_body",
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
        "azimuth_deg": {"type": "number", "description": "Of the view that is shown."},
        "exact": {"type": "boolean", "description": "Keep the photo's own product, pixel by pixel."},
        "size": {"type": "string", "example": "1024x1024", "description": "Default: the photo's aspect."},
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
            "description": "The photos, one to eight and more, or one zip of them; azimuths as for videos.",
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
    """Put a product into a scene: of a finished `package`, or of photos in `views`."""
    return await _answered(request, wait)


@router.post("/images/edits", openapi_extra=BODY)
async def edit_images(request: Request, wait: Wait = None) -> JSONResponse:
    """Put the product of these photos into a scene."""
    return await _answered(request, wait)


@router.get("/images/{image_id}")
async def get_images(request: Request, image_id: str) -> JSONResponse:
    """A request's state, and its pictures once they are done."""
    job = of_kind(await one_job(request, image_id), "image")
    return await _shown(request, job, [])


@router.get("/images/{image_id}/content/{index}", response_class=Response)
async def get_image(request: Request, image_id: str, index: Annotated[int, Path(ge=0, le=99)]) -> Response:
    """One picture's file."""
    job = of_kind(await one_job(request, image_id), "image")
    images = (job.result or {}).get("images", [])
    name = images[index]["name"] if index < len(images) else f"picture {index}"
    return ranged(request, await context_of(request).file(job, name), name)


@router.delete("/images/{image_id}")
async def delete_images(request: Request, image_id: str) -> dict[str, Any]:
    """Cancel a request if it is not done, and remove everything of it."""
    return await deleted(request, of_kind(await one_job(request, image_id, "write"), "image"), "image")


@router.get("/scenes")
async def list_scenes(request: Request) -> dict[str, Any]:
    """Scenes that a request can name."""
    from gapray.stills.scene import load_scenes, scene_names

    await caller(request, "read")
    found = await context_of(request).call(load_scenes, scene_names())
    return {"object": "list", "data": [{"name": scene.name, "prompt": scene.prompt} for scene in found]}


def refuse_without_stylist(context: Context) -> None:
    """A server of videos alone says so.

    Raises:
        InputError: `request.unsupported`.
    """
    if context.settings.stylist is None:
        raise InputError("request.unsupported", "this server draws no stills")


async def _answered(request: Request, wait: float | None) -> JSONResponse:
    key = await caller(request, "write")
    context = context_of(request)
    refuse_without_stylist(context)
    await context.refuse_when_full(key)
    body = await read_body(request, context.settings.limits)
    for name, values in _ELSEWHERE.items():
        if str(body.last(name)).lower() in values:
            raise InputError("request.invalid", f"{name}={body.last(name)} is not taken here")
    form = body.text("response_format") or "b64_json"
    if form not in ("b64_json", "url"):
        raise InputError("request.invalid", "response_format must be b64_json or url")
    model = body.text("model") or STILLS_MODEL
    check_model(context, model, STILLS_MODEL)
    # `format` of a video is another thing.
    making = making_of(Body(tuple(item for item in body.fields if item[0] != "format")), product_id="product")
    refuse_two_sources(dict(body.fields), ["package"])
    package = await _package(context, key, body.text("package"))
    job = await context.accept(
        key,
        api="openai",
        kind="image",
        making=making.model_copy(update={"still": still_of(body)}),
        sent=await in_turn(request, sent_by, body.fields, needed=package is None),
        azimuths=azimuths_of(body),
        options=replace(options_of(body), allow_missing=True),
        package=package,
        model=model,
        endpoint=form,
        idempotency_key=idempotency_key(request),
        digest=await in_turn(request, body.digest, "openai", "image"),
        webhook=body.text("webhook", "webhook_url"),
    )
    request.state.job = job.id
    job = await context.waited(job, preferred_wait(request, wait, context.settings.limits.image_wait_s), key)
    if job.final and job.status != "completed":
        raise failure(job)
    return await _shown(request, job, ignored_in(body, (*_KNOWN, *StillWish.model_fields, "package")))


async def _package(context: Context, key: ApiKey, shown: str | None) -> str | None:
    """The artifact of a caller's finished package."""
    if shown is None:
        return None
    job: Job = await context.call(context.store.get, job_id(shown), owner_of(key))
    of_kind(job, "package")
    if job.status != "completed":
        raise InputError("job.not_ready" if not job.final else "job.failed", f"package {shown[:80]} is {job.status}")
    return f"{job.folder}/package.zip"


def failure(job: Job) -> GaprayError:
    """A job's failure as the error of the request that waited for it."""
    code, message = job.error_code or "internal.error", job.error_message or "the job failed"
    if code.startswith("model."):
        return ModelError(code, message)
    return ServeError(code, message) if code in ("internal.error", "artifacts.failed") else InputError(code, message)


async def _shown(request: Request, job: Job, ignored: list[str]) -> JSONResponse:
    context = context_of(request)
    place = f"/v1/images/image_{job.id}"

    def shown() -> JSONResponse:
        images = (job.result or {}).get("images", []) if job.status == "completed" else []
        if job.endpoint == "url":
            base = str(request.base_url).rstrip("/")
            data = [{"url": f"{base}{place}/content/{index}"} for index in range(len(images))]
        else:
            # Megabytes of base64: made and written off the event loop.
            files = [context.artifacts.get(f"{job.folder}/{one['name']}") for one in images]
            data = [{"b64_json": base64.b64encode(one).decode()} for one in files]
        answer = openai_images(job, data)
        if ignored:
            answer["gap"]["ignored"] = ignored
        return JSONResponse(answer, 200 if job.final else 202, {"location": place})

    answer: JSONResponse = await context.call(shown)
    return answer
