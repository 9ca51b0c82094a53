"""RunPod's serverless API, version 2, and the little GraphQL that its SDK asks first (runpod 1.12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse

from gapray.capture.azimuths import AzimuthOptions
from gapray.errors import InputError
from gapray.serve.http.auth import caller, context_of, key_of, owner_of
from gapray.serve.http.bodies import (
    MAKING,
    MOST_IGNORED,
    NAMES,
    STILL,
    Body,
    azimuths_of,
    ignored_in,
    in_turn,
    making_of,
    options_of,
    read_json,
    refuse_long_texts,
    still_of,
)
from gapray.serve.http.context import Context
from gapray.serve.http.images import refuse_without_stylist
from gapray.serve.http.openai import MODEL, STILLS_MODEL, idempotency_key
from gapray.serve.jobs import Job, Making, StillWish
from gapray.serve.shapes import job_id, readable, runpod_accepted, runpod_id, runpod_state, runpod_status
from gapray.serve.text import VALUES, refuse_long, refuse_many_values, strict_json
from gapray.serve.uploads import PHOTO_FIELDS, Sent, decoded, refuse_two_sources, sent_by, sent_in_manifest

router = APIRouter(tags=["runpod"])
ENDPOINT = "gap-animatediff-video-sd15"
"""The prototype's endpoint; any other name is served alike."""
Endpoint = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
IMAGE_FIELDS = ("reference_image", "depth_image", "normal_image")
"""Fields of the prototype's image endpoint; any of them makes a job one for a picture."""
_PICTURES = PHOTO_FIELDS | set(IMAGE_FIELDS) | {"manifest", "manifest_b64"}
"""Fields of `input` that may hold pictures."""
PROTOTYPE = {"fps": 8, "format": "gif"}
"""What the prototype made when a request did not say."""
_SPOKEN = ("prompt", "model", "user")
"""Fields of the Videos API that change nothing here, or the words alone."""
RUNSYNC_WAIT_MS = 90_000
STREAMS_REMEMBERED = 10_000
_MANIFESTS = ("manifest_url", "manifest_b64", "manifest")
_BODY_FIELDS = {"input": None, "webhook": None, "s3Config": None, "policy": ("executionTimeout", "ttl")}
"""Members of a request, and those of their own of which one is read in parts."""
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"input": {"type": "object"}}, "required": ["input"]},
                "example": {"input": {"manifest_url": "https://photos.example/multiview_manifest.json", "frames": 24}},
            }
        },
    }
}


@router.post("/v2/{endpoint}/run", openapi_extra=_BODY)
async def run(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """Accept a job."""
    job, ignored = await _accepted(request, endpoint)
    return _with(runpod_accepted(job), ignored)


@router.post("/v2/{endpoint}/runsync", openapi_extra=_BODY)
async def run_sync(
    request: Request, endpoint: Endpoint, wait: Annotated[int, Query(ge=1000, le=300_000)] = RUNSYNC_WAIT_MS
) -> JSONResponse:
    """Accept a job and wait for it; a job that takes longer goes on."""
    job, ignored = await _accepted(request, endpoint)
    context = context_of(request)
    return await _status(context, await context.waited(job, wait / 1000, key_of(request)), ignored)


@router.get("/v2/{endpoint}/status/{shown}")
@router.post("/v2/{endpoint}/status/{shown}", include_in_schema=False)
async def status(request: Request, endpoint: Endpoint, shown: str) -> JSONResponse:
    """A job's state, and its output once it is done."""
    del endpoint
    return await _status(context_of(request), await _job(request, shown))


@router.get("/v2/{endpoint}/status-sync/{shown}")
@router.post("/v2/{endpoint}/status-sync/{shown}", include_in_schema=False)
async def status_sync(
    request: Request, endpoint: Endpoint, shown: str, wait: Annotated[int, Query(ge=1000, le=300_000)] = RUNSYNC_WAIT_MS
) -> JSONResponse:
    """As `status`, once the job is done."""
    del endpoint
    context = context_of(request)
    job = await _job(request, shown)
    return await _status(context, await context.waited(job, wait / 1000, key_of(request)))


@router.get("/v2/{endpoint}/stream/{shown}")
@router.post("/v2/{endpoint}/stream/{shown}", include_in_schema=False)
async def stream(request: Request, endpoint: Endpoint, shown: str) -> dict[str, Any]:
    """What a job has put out since it was last asked: progress while it runs, then its output."""
    del endpoint
    context = context_of(request)
    job = await _job(request, shown)
    if not job.final:
        # The SDK asks again at once while the stream is empty, and every second otherwise.
        job = await context.waited(job, 1.0, key_of(request))
    told = await context.call(readable, partial(runpod_status, artifacts=context.artifacts), job)
    said = request.app.state.streamed
    if job.final:
        # RunPod's clients stop when a job is final and its stream is empty: the output is told once.
        new = [] if job.id in said else [{"output": told.get("output")}]
        if not request.state.head:
            said[job.id] = True
        if len(said) > STREAMS_REMEMBERED:
            said.popitem(last=False)
        if job.status == "cancelled":
            # runpod 1.12 does not count CANCELLED among the final states and would ask for ever.
            return {"status": "FAILED", "stream": new, "error": job.error_message}
        return {"status": told["status"], "stream": new}
    return {"status": told["status"], "stream": [{"output": told["output"]}] if "output" in told else []}


@router.post("/v2/{endpoint}/cancel/{shown}")
async def cancel(request: Request, endpoint: Endpoint, shown: str) -> dict[str, Any]:
    """Stop a job."""
    del endpoint
    key = await caller(request, "write")
    context = context_of(request)
    job = await context.call(context.store.cancel, job_id(shown), owner_of(key))
    return {"id": runpod_id(job), "status": runpod_state(job)}


@router.post("/v2/{endpoint}/retry/{shown}")
async def retry(request: Request, endpoint: Endpoint, shown: str) -> dict[str, Any]:
    """Queue a failed job again."""
    del endpoint
    key = await caller(request, "write")
    context = context_of(request)
    job = await context.call(
        context.store.retry,
        job_id(shown),
        owner_of(key),
        max_queued=context.settings.limits.queued,
        max_of_owner=context.max_queued_of(key),
    )
    return {"id": runpod_id(job), "status": runpod_state(job)}


@router.post("/v2/{endpoint}/purge-queue")
async def purge_queue(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """Cancel own waiting jobs of this endpoint; with an admin key, everybody's."""
    key = await caller(request, "write")
    context = context_of(request)
    removed = await context.call(context.store.purge, owner_of(key), endpoint)
    return {"removed": removed, "status": "completed"}


@router.get("/v2/{endpoint}/health")
async def health(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """Own jobs by state, and workers."""
    key = await caller(request, "read")
    context = context_of(request)
    counts = await context.call(context.store.counts, owner_of(key), endpoint)
    return {
        "jobs": {
            "completed": counts["completed"],
            "failed": counts["failed"] + counts["cancelled"],
            "inProgress": counts["running"],
            "inQueue": counts["queued"],
            "retried": counts["retried"],
        },
        "workers": {
            "idle": max(0, context.settings.generator.max - counts["running"]),
            "running": counts["running"],
        },
    }


@router.post("/graphql")
async def graphql(request: Request) -> dict[str, Any]:
    """What `runpod.get_endpoints()` asks, with `status` and `workers`, which the prototype's script waits for."""
    key = await caller(request, "read")
    context = context_of(request)
    query = (await read_json(request, context.settings.limits)).get("query")
    if not isinstance(query, str) or "endpoints" not in query:
        return {"data": {"myself": {}}, "errors": [{"message": "only `myself { endpoints }` is answered here"}]}
    running = (await context.call(context.store.counts))["running"]
    generator = context.settings.generator
    endpoint = {
        "aiKey": "",
        "gpuIds": "",
        "id": ENDPOINT,
        "idleTimeout": 5,
        "name": ENDPOINT,
        "networkVolumeId": None,
        "locations": None,
        "scalerType": "QUEUE_DELAY",
        "scalerValue": 4,
        "templateId": "",
        "type": "QB",
        "userId": key.id,
        "version": 1,
        "workersMax": generator.max,
        "workersMin": generator.min,
        "workersStandby": 0,
        "gpuCount": 1 if generator.gpus else 0,
        "env": [],
        "createdAt": None,
        "networkVolume": None,
        "status": "RUNNING",
        "workers": [{"id": f"worker-{index}", "status": "RUNNING"} for index in range(max(1, running))],
    }
    return {"data": {"myself": {"endpoints": [endpoint]}}}


def _with(shown: dict[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    """An answer that also says what of its request nothing here reads."""
    return shown | {"gap": shown["gap"] | {"ignored": list(ignored)}} if ignored else shown


async def _status(context: Context, job: Job, ignored: Sequence[str] = ()) -> JSONResponse:
    shown = await context.call(readable, partial(runpod_status, artifacts=context.artifacts), job)
    shown = _with(shown, ignored)
    # The output is megabytes of base64: it is written off the event loop.
    return (
        JSONResponse(shown)
        if not {"video_b64", "image"} & set(shown.get("output") or {})
        else await context.call(JSONResponse, shown)
    )


async def _job(request: Request, shown: str) -> Job:
    key = await caller(request, "read")
    context = context_of(request)
    job: Job = await context.call(context.store.get, job_id(shown), owner_of(key))
    return job


async def _accepted(request: Request, endpoint: str) -> tuple[Job, list[str]]:
    """The job that a request asks for, and the fields that nothing here reads."""
    key = await caller(request, "write")
    context = context_of(request)
    await context.refuse_when_full(key)
    body = await read_json(request, context.settings.limits)
    given = body.get("input")
    if not isinstance(given, dict) or not given:
        raise InputError("request.invalid", "the body must hold an object `input`")
    if body.get("s3Config"):
        raise InputError("request.invalid", "s3Config is not taken; results come inline")
    policy = body.get("policy") if isinstance(body.get("policy"), dict) else {}
    assert isinstance(policy, dict)
    webhook = body.get("webhook")
    if webhook is not None and not isinstance(webhook, str):
        raise InputError("request.invalid", "webhook must be a URL")
    refuse_long("webhook", webhook)
    refuse_long_texts(given.items(), beside=_PICTURES)
    asked = await in_turn(request, asked_of, given)
    if asked.kind == "image":
        refuse_without_stylist(context)
    job = await context.accept(
        key,
        api="runpod",
        **asked.as_arguments(),
        endpoint=endpoint,
        model=STILLS_MODEL if asked.kind == "image" else MODEL,
        idempotency_key=idempotency_key(request),
        digest=await in_turn(request, Body(tuple(given.items())).digest, "runpod", endpoint, asked.kind),
        webhook=webhook,
        timeout_s=_seconds(policy.get("executionTimeout"), 5_000),
        ttl_s=_seconds(policy.get("ttl"), 10_000),
    )
    request.state.job = job.id
    return job, [*_unread(body), *asked.ignored]


def _unread(body: Mapping[str, Any]) -> list[str]:
    """Members of a request beside its `input` that nothing here reads."""
    beside = [name for name in body if name not in _BODY_FIELDS]
    for name, parts in _BODY_FIELDS.items():
        if parts is not None and isinstance(body.get(name), dict):
            beside += [f"{name}.{part}" for part in body[name] if part not in parts]
    return sorted(name[:60] for name in beside)[:MOST_IGNORED]


@dataclass(frozen=True)
class Asked:
    """A job's `input`, read."""

    kind: Literal["video", "image"]
    making: Making
    sent: list[Sent]
    azimuths: list[float] | None
    options: AzimuthOptions
    manifest_url: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    """Fields that nothing here reads."""

    def as_arguments(self) -> dict[str, Any]:
        """For `Context.accept`."""
        return {member.name: getattr(self, member.name) for member in fields(self) if member.name != "ignored"}


def asked_of(given: dict[str, Any]) -> Asked:
    """What a job's `input` asks for: a video, or, by the fields of the prototype's image endpoint, a picture.

    Raises:
        InputError: `request.*` or `capture.invalid_product_id`.
    """
    if not any(given.get(name) for name in IMAGE_FIELDS):
        # A length that is asked for sets the rate.
        usual = {name: value for name, value in PROTOTYPE.items() if name != "fps" or not given.get("seconds")}
        body = _body(usual | given)
        refuse_two_sources(given, _MANIFESTS)
        sent, manifest_url, name = photos_of(given)
        making = making_of(body, product_id=name)
        azimuths = azimuths_of(body)
        if manifest_url is not None and azimuths is not None:
            raise InputError("request.invalid", "a manifest says its views' azimuths: send no `azimuths` beside it")
        ignored = ignored_in(_body(given), (*_MANIFESTS, *_SPOKEN))
        return Asked("video", making, sent, azimuths, options_of(body), manifest_url, ignored=ignored)
    refuse_two_sources(given, ("reference_image", *_MANIFESTS))
    # A scale or a size that is a video's means the same here; its file format does not.
    body = _body({name: value for name, value in given.items() if name not in ("format", *IMAGE_FIELDS)})
    making = making_of(body, product_id="product")
    making = making.model_copy(update={"still": still_of(_body({"n": given.get("num_images")} | given))})
    sent = (
        sent_by([("image", given.get("reference_image"))]) if given.get("reference_image") else sent_by(given.items())
    )
    files = {
        field_name: _map_of(given[name], name)
        for name, field_name in (("depth_image", "depth"), ("normal_image", "normals"))
        if given.get(name)
    }
    options = replace(options_of(body), allow_missing=True)
    known = (*IMAGE_FIELDS, *StillWish.model_fields, *STILL, *_SPOKEN, "num_images")
    ignored = ignored_in(_body(given), known, making=(MAKING | {"size"}) - {"format"})
    return Asked("image", making, sent, azimuths_of(body), options, files=files, ignored=ignored)


def _body(values: dict[str, Any]) -> Body:
    return Body(tuple((NAMES.get(name, name), value) for name, value in values.items()))


def _map_of(value: Any, name: str) -> bytes:
    """A depth or normal map: its bytes must be in the request."""
    sent = sent_by([("image", value)])
    if len(sent) != 1 or sent[0].data is None:
        raise InputError("request.invalid", f"{name} must be one picture, in base64 or a data URI")
    return sent[0].data


def photos_of(given: dict[str, Any]) -> tuple[list[Sent], str | None, str]:
    """Photos of the prototype's manifest, or of the fields that the Videos API takes too."""
    url = given.get("manifest_url")
    if url is not None:
        if not isinstance(url, str):
            raise InputError("request.invalid", "manifest_url must be a URL")
        return [], url, "product"
    manifest = given.get("manifest_b64", given.get("manifest"))
    if manifest is None:
        return sent_by(given.items()), None, "product"
    if isinstance(manifest, str):
        try:
            text = decoded(manifest)
            refuse_many_values("manifest_b64", text, VALUES)
            manifest = strict_json(text)
        except (ValueError, RecursionError) as error:
            raise InputError("request.invalid", "manifest_b64 holds no JSON") from error
    name = manifest.get("asset_name") if isinstance(manifest, dict) else None
    return sent_in_manifest(manifest), None, name if isinstance(name, str) and name else "product"


def _seconds(value: Any, least_ms: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least_ms <= value <= 7 * 86_400_000:
        raise InputError("request.invalid", f"a policy's time is a number of milliseconds from {least_ms} to a week")
    return float(value) / 1000
