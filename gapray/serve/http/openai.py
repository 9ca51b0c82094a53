"""OpenAI's Videos API (openai 3.54, `resources/videos`), for its SDKs, litellm, and clients of vLLM-Omni and SGLang."""

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
from gapray.serve.deletion import forget
from gapray.serve.http.auth import caller, context_of, key_of, owner_of
from gapray.serve.http.bodies import azimuths_of, ignored_in, in_turn, making_of, options_of, read_body
from gapray.serve.http.context import Context
from gapray.serve.jobs import Job
from gapray.serve.keys import ApiKey, Scope
from gapray.serve.shapes import job_id, openai_video, readable
from gapray.serve.text import refuse_unusable
from gapray.serve.uploads import sent_by

router = APIRouter(prefix="/v1", tags=["videos"])
MODEL = "gap-turntable"
STILLS_MODEL = "gap-stills"
EVENT_STEP_S, EVENT_PAUSE_S = 0.25, 1.0
"""Between two looks at a job that is watched, right after something changed and when nothing does any more."""
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
            "`gap.azimuths_by` says which it was.",
        },
        "azimuths": {"type": "string", "example": "0,45,90,135,180,225,270,315"},
        "names": {
            "type": "string",
            "enum": ["auto", "degrees", "index", "order"],
            "description": "What the numbers in file names are; `order`: names are not read, the photos come in their order.",
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
        "webhook": {"type": "string", "description": "URL that is told when the video is done."},
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
    """Make a turntable video from photos. Answers at once; the video comes later."""
    key = await caller(request, "write")
    context = context_of(request)
    await context.refuse_when_full(key)
    body = await read_body(request, context.settings.limits)
    model = body.text("model") or MODEL
    check_model(context, model, MODEL)
    job = await context.accept(
        key,
        api="openai",
        kind="video",
        making=making_of(body, product_id="product"),
        sent=await in_turn(request, sent_by, body.fields),
        azimuths=azimuths_of(body),
        options=options_of(body),
        model=model,
        idempotency_key=idempotency_key(request),
        digest=await in_turn(request, body.digest, "openai", "video"),
        webhook=body.text("webhook", "webhook_url"),
    )
    request.state.job = job.id
    shown = openai_video(job)
    ignored = ignored_in(body, ("prompt", "model", "webhook", "webhook_url", "extra_body", "user"))
    if ignored:
        shown["gap"]["ignored"] = ignored
    return JSONResponse(shown, headers={"location": f"/v1/videos/{shown['id']}"})


@router.get("/videos")
async def list_videos(
    request: Request,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """Own videos, newest first."""
    key = await caller(request, "read")
    found, more = await context_of(request).call(
        context_of(request).store.page,
        owner_of(key),
        after=job_id(after) if after else None,
        limit=limit,
        order=order,
        kind="video",
    )
    data = [readable(openai_video, job) for job in found]
    return {
        "object": "list",
        "data": data,
        "has_more": more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


@router.get("/videos/{video_id}")
async def get_video(request: Request, video_id: str) -> JSONResponse:
    """One video's state, and its scores once it is done."""
    job = await one_job(request, video_id)
    # OpenAI's poller sleeps for this long; a turntable is minutes on a CPU and seconds on a GPU.
    headers = {} if job.final else {"openai-poll-after-ms": "500"}
    return JSONResponse(readable(openai_video, job), headers=headers)


@router.delete("/videos/{video_id}")
async def delete_video(request: Request, video_id: str) -> dict[str, Any]:
    """Cancel a video if it is not done, and remove everything of it."""
    return await deleted(request, await one_job(request, video_id, "write"), "video")


@router.get("/videos/{video_id}/content", response_class=Response)
async def get_content(
    request: Request, video_id: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
) -> Response:
    """The video, its poster or its sprite sheet; ranges are answered."""
    job = await one_job(request, video_id)
    name = _VARIANTS.get(variant) or str(((job.result or {}).get("video") or {}).get("name", ""))
    return ranged(request, await context_of(request).file(job, name), name)


@router.get("/videos/{video_id}/views")
async def list_views(request: Request, video_id: str) -> dict[str, Any]:
    """Which views of a video's photos can be looked at by now."""
    job = await one_job(request, video_id)
    return {"object": "list", "data": await context_of(request).call(views_of, context_of(request), job)}


@router.get("/videos/{video_id}/views/{view}/{picture}", response_class=Response)
async def get_view(request: Request, video_id: str, view: str, picture: Literal["photo", "mask", "depth"]) -> Response:
    """A small picture of one view: the photo, the product cut out, its depth."""
    job = await one_job(request, video_id)
    if not re.fullmatch(r"\d{3}\.\d{3}", view):
        raise InputError("job.no_such_file", f"there is no view {view[:40]!r}")
    context = context_of(request)
    data = await context.call(context.artifacts.get, f"{job.folder}/views/{view}_{picture}.jpg")
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@router.get("/videos/{video_id}/events", response_class=StreamingResponse)
async def get_events(request: Request, video_id: str) -> StreamingResponse:
    """Server-sent events: `progress` whenever something changed, `done` at the end.

    A stream ends after `limits.wait_s`; the next one begins with how the job is then.
    """
    job = await one_job(request, video_id)
    return StreamingResponse(
        _events(context_of(request), job, key_of(request)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


async def _events(context: Context, job: Job, key: ApiKey) -> AsyncIterator[str]:
    last, end = "", time.monotonic() + context.settings.limits.wait_s
    pause = EVENT_STEP_S
    while time.monotonic() < end:
        views = await context.call(views_of, context, job)
        data = json.dumps({"video": readable(openai_video, job), "views": views})
        pause = min(EVENT_PAUSE_S, 2 * pause) if data == last else EVENT_STEP_S
        if data != last:
            last = data
            yield f"event: {'done' if job.final else 'progress'}\ndata: {data}\n\n"
        if job.final:
            return
        await asyncio.sleep(pause)
        try:
            job = await context.call(context.watched, job.id, key)
        except InputError:
            yield "event: gone\ndata: {}\n\n"
            return
        except ServeError:
            return  # the caller is let in no more; who asks again is told why


def views_of(context: Context, job: Job) -> list[dict[str, Any]]:
    """Views and the pictures there are of each."""
    found: dict[str, list[str]] = {}
    for name in context.artifacts.names(f"{job.folder}/views"):
        view, _, picture = name.removesuffix(".jpg").partition("_")
        if picture in _PICTURES:
            found.setdefault(view, []).append(picture)
    return [{"view": view, "azimuth_deg": float(view), "pictures": sorted(found[view])} for view in sorted(found)]


@router.api_route("/videos/{video_id}/remix", methods=["POST"])
@router.api_route("/videos/edits", methods=["POST"])
@router.api_route("/videos/extensions", methods=["POST"])
@router.api_route("/videos/characters", methods=["POST"])
async def not_here(request: Request) -> None:
    """Parts of the Videos API that make no sense for a turntable."""
    await caller(request, "write")
    raise InputError("request.unsupported", f"{request.url.path} is not part of gapray")


@router.get("/models", tags=["models"])
async def list_models(request: Request) -> dict[str, Any]:
    """What this server makes videos and stills with."""
    await caller(request, "read")
    context = context_of(request)
    return {"object": "list", "data": [model_facts(context, name) for name in all_model_names(context)]}


@router.get("/models/{name}", tags=["models"])
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    await caller(request, "read")
    context = context_of(request)
    check_model(context, name)
    return model_facts(context, name)


def model_names(context: Context, family: str) -> list[str]:
    """`gap-turntable` is whatever this server has; the longer name says which."""
    return [family, f"{family}-{context.profile.name}"]


def all_model_names(context: Context) -> list[str]:
    """Names of the models for videos, and for stills where they are drawn."""
    stills = model_names(context, STILLS_MODEL) if context.settings.stylist else []
    return [*model_names(context, MODEL), *stills]


def model_facts(context: Context, name: str) -> dict[str, Any]:
    """OpenAI's Model object."""
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
    """Refuse a model that is not here: another one is never taken in silence.

    Raises:
        ModelError: `model.unknown`.
    """
    names = all_model_names(context) if family is None else model_names(context, family)
    if name not in names:
        raise ModelError("model.unknown", f"there is no model {name[:80]!r} here; models: {', '.join(names)}")


async def one_job(request: Request, shown: str, scope: Scope = "read") -> Job:
    """The job that a path names, if the caller may see it and the key has the scope."""
    key = await caller(request, scope)
    context = context_of(request)
    job: Job = await context.call(context.store.get, job_id(shown), owner_of(key))
    return job


async def deleted(request: Request, job: Job, name: str) -> dict[str, Any]:
    """Remove a job and all its files; the answer calls it `name`, as OpenAI's API does."""
    context = context_of(request)
    await context.call(forget, context.store, context.artifacts, job.id)
    return {"id": f"{name}_{job.id}", "deleted": True, "object": f"{name}.deleted"}


def idempotency_key(request: Request) -> str | None:
    """The header's value.

    Raises:
        InputError: `request.invalid` when it is too long, or holds control characters.
    """
    value = request.headers.get("idempotency-key")
    if value is not None:
        refuse_unusable("idempotency-key", value)
        if not 1 <= len(value) <= 255:
            raise InputError("request.invalid", "an idempotency key has 1 to 255 characters")
    return value


def ranged(request: Request, data: bytes, name: str) -> Response:
    """A file, or the one range of it that is asked for (RFC 9110, section 14)."""
    headers = {"accept-ranges": "bytes", "content-disposition": f'inline; filename="{name}"'}
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if "if-range" in request.headers:
        # It names a version of the file by a tag or date, none of which was ever sent: the whole is due (13.1.5).
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
