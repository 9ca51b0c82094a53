"""RunPod's serverless API, version 2, and the one GraphQL query that its SDK sends (runpod 1.12)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse

from gapray.errors import InputError
from gapray.serve.http.auth import caller, context_of, key_of, owner_of
from gapray.serve.http.bodies import read_json, refuse_long_texts, refuse_unknown_query
from gapray.serve.http.context import Context
from gapray.serve.http.fields import Body
from gapray.serve.http.images import refuse_without_stylist
from gapray.serve.http.openai import MODEL, STILLS_MODEL, idempotency_key
from gapray.serve.http.places import run_per_key
from gapray.serve.http.runpod_input import FILE_FIELDS, parse_input
from gapray.serve.incoming import MAX_IGNORED
from gapray.serve.jobs import Job
from gapray.serve.shapes import job_id, runpod_accepted, runpod_id, runpod_state, runpod_status, shape_or_failure
from gapray.serve.text import refuse_long

router = APIRouter(tags=["runpod"])
ENDPOINT = "gap-animatediff-video-sd15"
"""Name of the prototype's endpoint; any other name works as well."""
Endpoint = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
RUNSYNC_WAIT_MS = 90_000
STREAMS_REMEMBERED = 10_000
"""Maximum number of jobs whose output is remembered as streamed."""
_BODY_FIELDS = {"input": None, "webhook": None, "s3Config": None, "policy": ("executionTimeout", "ttl")}
"""Members of a request that are read; for those read in parts, their members."""
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
    return runpod_accepted(await _submit(request, endpoint))


@router.post("/v2/{endpoint}/runsync", openapi_extra=_BODY)
async def run_sync(
    request: Request, endpoint: Endpoint, wait: Annotated[int, Query(ge=1000, le=300_000)] = RUNSYNC_WAIT_MS
) -> JSONResponse:
    """Accept a job and wait for it; a job that takes longer continues in the background."""
    job = await _submit(request, endpoint)
    context = context_of(request)
    return await _status(context, await context.wait_for_job(job, wait / 1000, key_of(request)))


@router.get("/v2/{endpoint}/status/{shown}")
@router.post("/v2/{endpoint}/status/{shown}", include_in_schema=False)
async def status(request: Request, endpoint: Endpoint, shown: str) -> JSONResponse:
    """Return a job's state and, once it is done, its output."""
    del endpoint
    return await _status(context_of(request), await _job(request, shown))


@router.get("/v2/{endpoint}/status-sync/{shown}")
@router.post("/v2/{endpoint}/status-sync/{shown}", include_in_schema=False)
async def status_sync(
    request: Request, endpoint: Endpoint, shown: str, wait: Annotated[int, Query(ge=1000, le=300_000)] = RUNSYNC_WAIT_MS
) -> JSONResponse:
    """Wait for a job, and return its state and output."""
    del endpoint
    context = context_of(request)
    job = await _job(request, shown)
    return await _status(context, await context.wait_for_job(job, wait / 1000, key_of(request)))


@router.get("/v2/{endpoint}/stream/{shown}")
@router.post("/v2/{endpoint}/stream/{shown}", include_in_schema=False)
async def stream(request: Request, endpoint: Endpoint, shown: str) -> dict[str, Any]:
    """Return a job's progress while it runs and, once, its output."""
    del endpoint
    context = context_of(request)
    job = await _job(request, shown)
    if not job.final:
        # The SDK polls without a pause while the stream is empty, and every second otherwise.
        job = await context.wait_for_job(job, 1.0, key_of(request))
    current = await context.call(shape_or_failure, partial(runpod_status, artifacts=context.artifacts), job)
    streamed = request.app.state.streamed_jobs
    if job.final:
        # RunPod's clients stop once a job is final and its stream is empty, so the output is returned only once.
        new = [] if job.id in streamed else [{"output": current.get("output")}]
        if not request.state.head:
            streamed[job.id] = True
        if len(streamed) > STREAMS_REMEMBERED:
            streamed.popitem(last=False)
        if job.status == "cancelled":
            # runpod 1.12 does not treat CANCELLED as final and would poll for ever.
            return {"status": "FAILED", "stream": new, "error": job.error_message}
        return {"status": current["status"], "stream": new}
    return {"status": current["status"], "stream": [{"output": current["output"]}] if "output" in current else []}


@router.post("/v2/{endpoint}/cancel/{shown}")
async def cancel(request: Request, endpoint: Endpoint, shown: str) -> dict[str, Any]:
    """Cancel a job."""
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
        max_per_owner=context.max_queued_of(key),
    )
    return {"id": runpod_id(job), "status": runpod_state(job)}


@router.post("/v2/{endpoint}/purge-queue")
async def purge_queue(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """Cancel the caller's queued jobs of an endpoint; with an admin key, those of all callers."""
    key = await caller(request, "write")
    context = context_of(request)
    removed = await context.call(context.store.purge, owner_of(key), endpoint)
    return {"removed": removed, "status": "completed"}


@router.get("/v2/{endpoint}/health")
async def health(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """Return the number of the caller's jobs by state, and of workers."""
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
    """Answer the query of `runpod.get_endpoints()`, adding `status` and `workers`, which the prototype's script waits for."""
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


async def _status(context: Context, job: Job) -> JSONResponse:
    content = await context.call(shape_or_failure, partial(runpod_status, artifacts=context.artifacts), job)
    # Writing megabytes of base64 would block the event loop.
    return (
        JSONResponse(content)
        if not {"video_b64", "image"} & set(content.get("output") or {})
        else await context.call(JSONResponse, content)
    )


async def _job(request: Request, public_id: str) -> Job:
    key = await caller(request, "read")
    context = context_of(request)
    job: Job = await context.call(context.store.get, job_id(public_id), owner_of(key))
    return job


async def _submit(request: Request, endpoint: str) -> Job:
    """Submit the job that a request describes."""
    key = await caller(request, "write")
    context = context_of(request)
    await context.refuse_when_full(key)
    body = await read_json(request, context.settings.limits)
    refuse_unknown_query(request)
    job_input = body.get("input")
    if not isinstance(job_input, dict) or not job_input:
        raise InputError("request.invalid", "the body must hold an object `input`")
    if body.get("s3Config"):
        raise InputError("request.invalid", "s3Config is not taken; results come inline")
    policy = body.get("policy") if isinstance(body.get("policy"), dict) else {}
    assert isinstance(policy, dict)
    webhook = body.get("webhook")
    if webhook is not None and not isinstance(webhook, str):
        raise InputError("request.invalid", "webhook must be a URL")
    refuse_long("webhook", webhook)
    refuse_long_texts(job_input.items(), exempt=FILE_FIELDS)
    parsed = await run_per_key(request, parse_input, job_input)
    if parsed.kind == "image":
        refuse_without_stylist(context)
    job = await context.accept(
        key,
        api="runpod",
        **parsed.as_arguments(),
        ignored=[*_ignored_members(body), *parsed.ignored],
        endpoint=endpoint,
        model=STILLS_MODEL if parsed.kind == "image" else MODEL,
        idempotency_key=idempotency_key(request),
        digest=await run_per_key(request, Body(tuple(job_input.items())).digest, "runpod", endpoint, parsed.kind),
        webhook=webhook,
        timeout_s=_seconds(policy.get("executionTimeout"), 5_000),
        ttl_s=_seconds(policy.get("ttl"), 10_000),
    )
    request.state.job = job.id
    return job


def _ignored_members(body: Mapping[str, Any]) -> list[str]:
    """Return the members of a request, other than those of its `input`, that have no effect."""
    ignored = [name for name in body if name not in _BODY_FIELDS]
    for name, parts in _BODY_FIELDS.items():
        if parts is not None and isinstance(body.get(name), dict):
            ignored += [f"{name}.{part}" for part in body[name] if part not in parts]
    return sorted(name[:60] for name in ignored)[:MAX_IGNORED]


def _seconds(value: Any, min_ms: int) -> float | None:
    """Convert a time of a policy from milliseconds to seconds; None for None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not min_ms <= value <= 7 * 86_400_000:
        raise InputError("request.invalid", f"a policy's time is a number of milliseconds from {min_ms} to a week")
    return float(value) / 1000
