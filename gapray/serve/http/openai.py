"""OpenAI's Videos API (openai 3.54, `resources/videos`), for its SDKs, litellm and clients of vLLM-Omni and SGLang."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gapray.errors import InputError, ModelError, ServeError
from gapray.serve.artifacts import content_type
from gapray.serve.deletion import delete_job
from gapray.serve.http.auth import caller, context_of, key_of, owner_of
from gapray.serve.http.bodies import read_body, refuse_unknown_query
from gapray.serve.http.context import Context
from gapray.serve.http.params import ignored_fields, parse_azimuth_options, parse_azimuths, parse_params
from gapray.serve.http.places import run_per_key
from gapray.serve.incoming import ignored_members, photos_in_fields
from gapray.serve.jobs import Job
from gapray.serve.keys import ApiKey, Scope
from gapray.serve.shapes import job_id, openai_video, shape_or_failure
from gapray.serve.text import refuse_unusable

router = APIRouter(prefix="/v1", tags=["videos"])
MODEL = "gap-turntable"
STILLS_MODEL = "gap-stills"
EVENT_STEP_S, EVENT_PAUSE_S = 0.25, 1.0
"""Pause between two polls of a streamed job [s]: right after a change, and at most, after longer inactivity."""
_VARIANTS = {"thumbnail": "poster.jpg", "spritesheet": "sprite.jpg"}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_PICTURES = ("photo", "mask", "depth")

PHOTOS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "example": "a product photo on a plain white background"},
        "model": {"type": "string", "example": MODEL},
        "input_reference[]": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "The photos, or one zip of them. Azimuths are taken from `azimuths`, else read from the file names "
            "(`mug_045.jpg`, `mug (2).jpg`). Photos whose names carry no numbers are even steps in their order, with a warning; "
            "`gap.azimuths_by` states which.",
        },
        "azimuths": {"type": "string", "example": "0,45,90,135,180,225,270,315"},
        "names": {
            "type": "string",
            "enum": ["auto", "degrees", "index", "order"],
            "description": "Meaning of the numbers in file names; `order`: names are not read, the photos are in order.",
        },
        "closing_frame": {
            "type": "string",
            "enum": ["auto", "drop", "keep"],
            "description": "Whether the last numbered photo repeats the front.",
        },
        "num_frames": {"type": "integer", "example": 24},
        "fps": {"type": "number", "example": 12},
        "size": {"type": "string", "example": "512x512"},
        "seconds": {"type": "string", "example": "2"},
        "seed": {"type": "integer"},
        "num_inference_steps": {"type": "integer"},
        "guidance_scale": {"type": "number"},
        "negative_prompt": {"type": "string"},
        "format": {"type": "string", "enum": ["mp4", "gif", "webp"]},
        "score": {"type": "boolean", "description": "Also measure LPIPS by angle."},
        "product_id": {"type": "string", "example": "mug"},
        "direction": {"type": "string", "enum": ["ccw", "cw"]},
        "webhook": {"type": "string", "description": "URL to notify when the video is done."},
    },
}
_JSON_EXAMPLE = {
    "model": MODEL,
    "prompt": "a mug",
    "num_frames": 24,
    "views": [
        {"azimuth_deg": 45 * step, "image_url": f"https://photos.example/mug_{45 * step:03d}.jpg"} for step in range(8)
    ],
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": PHOTOS_SCHEMA},
            "application/json": {"schema": {"type": "object"}, "example": _JSON_EXAMPLE},
        },
    }
}


@router.post("/videos", openapi_extra=BODY)
async def create_video(request: Request) -> JSONResponse:
    """Make a turntable video from photos. Answers at once; the video is made asynchronously."""
    key = await caller(request, "write")
    context = context_of(request)
    await context.refuse_when_full(key)
    body = await read_body(request, context.settings.limits)
    model = body.text("model") or MODEL
    check_model(context, model, MODEL)
    photos = await run_per_key(request, photos_in_fields, body.fields)
    job = await context.accept(
        key,
        api="openai",
        kind="video",
        params=parse_params(body, product_id="product"),
        photos=photos,
        azimuths=parse_azimuths(body),
        options=parse_azimuth_options(body),
        ignored=ignored_fields(body, ("prompt", "model", "webhook", "webhook_url", "user")) + ignored_members(photos),
        model=model,
        idempotency_key=idempotency_key(request),
        digest=await run_per_key(request, body.digest, "openai", "video"),
        webhook=body.text("webhook", "webhook_url"),
    )
    request.state.job = job.id
    video = openai_video(job)
    return JSONResponse(video, headers={"location": f"/v1/videos/{video['id']}"})


@router.get("/videos")
async def list_videos(
    request: Request,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """List the caller's videos, newest first by default."""
    key = await caller(request, "read")
    refuse_unknown_query(request)
    jobs, has_more = await context_of(request).call(
        context_of(request).store.page,
        owner_of(key),
        after=job_id(after) if after else None,
        limit=limit,
        order=order,
        kind="video",
    )
    data = [shape_or_failure(openai_video, job) for job in jobs]
    return {
        "object": "list",
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


@router.get("/videos/{video_id}")
async def get_video(request: Request, video_id: str) -> JSONResponse:
    """Return a video's state and, once it is done, its scores."""
    job = await get_job(request, video_id)
    # OpenAI's SDK polls at this interval; a turntable takes minutes on a CPU and seconds on a GPU.
    headers = {} if job.final else {"openai-poll-after-ms": "500"}
    return JSONResponse(shape_or_failure(openai_video, job), headers=headers)


@router.delete("/videos/{video_id}")
async def delete_video(request: Request, video_id: str) -> dict[str, Any]:
    """Cancel a video if it is not done, and delete all its data."""
    return await delete_and_answer(request, await get_job(request, video_id, "write"), "video")


@router.get("/videos/{video_id}/content", response_class=Response)
async def get_content(
    request: Request, video_id: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
) -> Response:
    """Return the video, its poster or its sprite sheet, or a range of its bytes."""
    job = await get_job(request, video_id)
    name = _VARIANTS.get(variant) or str(((job.result or {}).get("video") or {}).get("name", ""))
    return file_response(request, await context_of(request).file(job, name), name)


@router.get("/videos/{video_id}/views")
async def list_views(request: Request, video_id: str) -> dict[str, Any]:
    """List the views whose previews are available so far."""
    job = await get_job(request, video_id)
    return {"object": "list", "data": await context_of(request).call(views_of, context_of(request), job)}


@router.get("/videos/{video_id}/views/{view}/{picture}", response_class=Response)
async def get_view(request: Request, video_id: str, view: str, picture: Literal["photo", "mask", "depth"]) -> Response:
    """Return a preview of one view: the photo, the product cut out, or its depth."""
    job = await get_job(request, video_id)
    if not re.fullmatch(r"\d{3}\.\d{3}", view):
        raise InputError("job.no_such_file", f"there is no view {view[:40]!r}")
    context = context_of(request)
    data = await context.call(context.artifacts.get, f"{job.folder}/views/{view}_{picture}.jpg")
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@router.get("/videos/{video_id}/events", response_class=StreamingResponse)
async def get_events(request: Request, video_id: str) -> StreamingResponse:
    """Stream server-sent events: `progress` after every change, `done` at the end.

    A stream ends after `limits.wait_s`; a new one begins with the job's state at that time.
    """
    job = await get_job(request, video_id)
    return StreamingResponse(
        _events(context_of(request), job, key_of(request)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


async def _events(context: Context, job: Job, key: ApiKey) -> AsyncIterator[str]:
    last, deadline = "", time.monotonic() + context.settings.limits.wait_s
    pause = EVENT_STEP_S
    while time.monotonic() < deadline:
        views = await context.call(views_of, context, job)
        data = json.dumps({"video": shape_or_failure(openai_video, job), "views": views})
        pause = min(EVENT_PAUSE_S, 2 * pause) if data == last else EVENT_STEP_S
        if data != last:
            last = data
            yield f"event: {'done' if job.final else 'progress'}\ndata: {data}\n\n"
        if job.final:
            return
        await asyncio.sleep(pause)
        try:
            job = await context.call(context.refreshed, job.id, key)
        except InputError:
            yield "event: gone\ndata: {}\n\n"
            return
        except ServeError:
            return  # the caller is no longer authorised; a new request is answered with the reason


def views_of(context: Context, job: Job) -> list[dict[str, Any]]:
    """Return the views of a job that have previews, with the kinds of preview of each."""
    pictures: dict[str, list[str]] = {}
    for name in context.artifacts.names(f"{job.folder}/views"):
        view, _, picture = name.removesuffix(".jpg").partition("_")
        if picture in _PICTURES:
            pictures.setdefault(view, []).append(picture)
    return [{"view": view, "azimuth_deg": float(view), "pictures": sorted(pictures[view])} for view in sorted(pictures)]


@router.api_route("/videos/{video_id}/remix", methods=["POST"])
@router.api_route("/videos/edits", methods=["POST"])
@router.api_route("/videos/extensions", methods=["POST"])
@router.api_route("/videos/characters", methods=["POST"])
async def not_here(request: Request) -> None:
    """Refuse the parts of the Videos API that make no sense for a turntable."""
    await caller(request, "write")
    raise InputError("request.unsupported", f"{request.url.path} is not part of gapray")


@router.get("/models", tags=["models"])
async def list_models(request: Request) -> dict[str, Any]:
    """List the models for videos and stills."""
    await caller(request, "read")
    context = context_of(request)
    return {"object": "list", "data": [model_facts(context, name) for name in all_model_names(context)]}


@router.get("/models/{name}", tags=["models"])
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """Return one model."""
    await caller(request, "read")
    context = context_of(request)
    check_model(context, name)
    return model_facts(context, name)


def model_names(context: Context, family: str) -> list[str]:
    """Return the names of a model: the family, such as `gap-turntable`, alone and with the server's profile."""
    return [family, f"{family}-{context.profile.name}"]


def all_model_names(context: Context) -> list[str]:
    """Return the names of the models for videos and, if the server draws stills, for stills."""
    stills = model_names(context, STILLS_MODEL) if context.settings.stylist else []
    return [*model_names(context, MODEL), *stills]


def model_facts(context: Context, name: str) -> dict[str, Any]:
    """Return OpenAI's Model object."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "gapray",
        "gap": {
            "profile": context.profile.name,
            "backend": (context.profile.stills if name.startswith(STILLS_MODEL) else context.profile.video).backend,
        },
    }


def check_model(context: Context, name: str, family: str | None = None) -> None:
    """Refuse an unknown model, instead of silently using another one.

    Raises:
        ModelError: `model.unknown`.
    """
    names = all_model_names(context) if family is None else model_names(context, family)
    if name not in names:
        raise ModelError("model.unknown", f"there is no model {name[:80]!r} here; models: {', '.join(names)}")


async def get_job(request: Request, public_id: str, scope: Scope = "read") -> Job:
    """Return the job with an API's id, if it is the caller's and the key has the scope.

    Raises:
        InputError: `job.not_found`.
        ServeError: `auth.missing`, `auth.invalid`, `auth.forbidden` or `rate.exceeded`.
    """
    key = await caller(request, scope)
    context = context_of(request)
    job: Job = await context.call(context.store.get, job_id(public_id), owner_of(key))
    return job


async def delete_and_answer(request: Request, job: Job, name: str) -> dict[str, Any]:
    """Delete a job and all its files, and return OpenAI's answer, in which the object is called `name`."""
    context = context_of(request)
    await context.call(delete_job, context.store, context.artifacts, job.id)
    return {"id": f"{name}_{job.id}", "deleted": True, "object": f"{name}.deleted"}


def idempotency_key(request: Request) -> str | None:
    """Return the value of the header ``Idempotency-Key``; None if there is none.

    Raises:
        InputError: `request.invalid` if it is empty, too long, or contains control characters.
    """
    value = request.headers.get("idempotency-key")
    if value is not None:
        refuse_unusable("idempotency-key", value)
        if not 1 <= len(value) <= 255:
            raise InputError("request.invalid", "an idempotency key has 1 to 255 characters")
    return value


def file_response(request: Request, data: bytes, name: str) -> Response:
    """Return a file, or the single range of it that was requested (RFC 9110, section 14)."""
    headers = {"accept-ranges": "bytes", "content-disposition": f'inline; filename="{name}"'}
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if "if-range" in request.headers:
        # No validator was ever sent that it could match, so the whole file must be returned (section 13.1.5).
        match = None
    if match is None or match.groups() == ("", ""):
        return Response(data, media_type=content_type(name), headers=headers)
    first, last = match.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start > end:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{len(data)}"})
    headers["content-range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, media_type=content_type(name), headers=headers)
