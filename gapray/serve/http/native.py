"""gapray's own routes: packages, scores, health, metrics."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import JSONResponse, Response

from gapray.errors import InputError
from gapray.serve.http.auth import caller, context_of
from gapray.serve.http.bodies import read_body
from gapray.serve.http.fields import Body
from gapray.serve.http.openai import BODY, MODEL, delete_and_answer, file_response, get_job, idempotency_key
from gapray.serve.http.params import ignored_fields, parse_azimuth_options, parse_azimuths, parse_params
from gapray.serve.http.places import run_per_key
from gapray.serve.incoming import ignored_members, photos_in_fields
from gapray.serve.jobs import Job, Kind
from gapray.serve.shapes import native_job, shape_or_failure

router = APIRouter()
_PREFER_WAIT = re.compile(r"\bwait=([0-9]{1,4})\b")
Wait = Annotated[
    float | None, Query(ge=0, le=300, description="Longest time to wait for the job before answering [s].")
]


class Metrics:
    """Prometheus metrics of one ingress process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gapray_http_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "gapray_http_request_seconds",
            "Time to answer, without streams.",
            ("route",),
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        self.jobs = Gauge("gapray_jobs", "Jobs in the database by state.", ("status",), registry=self.registry)


@router.post("/v1/packages", tags=["packages"], openapi_extra=BODY)
async def create_package(request: Request, wait: Wait = None) -> JSONResponse:
    """Package photos: masks, depth, edges, identity. The GAP folder is available as a zip at `content`."""
    return await _submit(request, "package", wait)


@router.post(
    "/v1/scores",
    tags=["scores"],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "video": {"type": "string", "format": "binary", "description": "mp4, webm, gif or webp."},
                            **BODY["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"],
                        },
                    }
                }
            },
        }
    },
)
async def create_score(request: Request, wait: Wait = None) -> JSONResponse:
    """Score a turntable video of any origin against photos of its product: aligned LPIPS by angle."""
    return await _submit(request, "score", wait)


async def _submit(request: Request, kind: Kind, wait: float | None) -> JSONResponse:
    key = await caller(request, "write")
    context = context_of(request)
    await context.refuse_when_full(key)
    body = await read_body(request, context.settings.limits)
    files = {}
    if kind == "score":
        videos = [value for name, value in body.fields if name == "video" and value not in (None, "")]
        if any(video != videos[0] for video in videos):
            raise InputError("request.invalid", f"{len(videos)} videos came; send one a request")
        video = body.last("video")
        if not isinstance(video, tuple) or not video[1]:
            raise InputError("request.invalid", "the field `video` must hold a file")
        files = {"video": video[1]}
    photos = await run_per_key(request, photos_in_fields, body.fields)
    known = ("webhook", "webhook_url", "model", "user", *(["video"] if kind == "score" else []))
    job = await context.accept(
        key,
        api="native",
        kind=kind,
        params=parse_params(Body(tuple(item for item in body.fields if item[0] != "format")), product_id="product"),
        photos=photos,
        azimuths=parse_azimuths(body),
        options=parse_azimuth_options(body),
        files=files,
        # Packages and scores render nothing: of the generation parameters only the product's id has an effect.
        ignored=ignored_fields(body, known, params={"product_id"}) + ignored_members(photos),
        model=MODEL,
        idempotency_key=idempotency_key(request),
        digest=await run_per_key(request, body.digest, "native", kind),
        webhook=body.text("webhook", "webhook_url"),
    )
    request.state.job = job.id
    job = await context.wait_for_job(job, preferred_wait(request, wait, 0.0), key)
    headers = {"location": f"/v1/{kind}s/{kind}_{job.id}"}
    return JSONResponse(native_job(job), 200 if job.final else 202, headers)


def preferred_wait(request: Request, wait: float | None, default: float) -> float:
    """Return how long to wait for a job [s]: the query parameter, else the header `Prefer` (RFC 7240), else `default`."""
    prefer = request.headers.get("prefer", "")
    match = _PREFER_WAIT.search(prefer)
    if wait is not None:
        return wait
    return float(match[1]) if match else 0.0 if "respond-async" in prefer else default


@router.get("/v1/packages/{package_id}", tags=["packages"])
async def get_package(request: Request, package_id: str) -> dict[str, Any]:
    """Return a package's state and, once it is done, its views with their embeddings."""
    return shape_or_failure(native_job, require_kind(await get_job(request, package_id), "package"))


@router.get("/v1/packages/{package_id}/content", tags=["packages"], response_class=Response)
async def get_package_content(request: Request, package_id: str) -> Response:
    """Return the GAP folder as a zip."""
    job = require_kind(await get_job(request, package_id), "package")
    return file_response(request, await context_of(request).file(job, "package.zip"), "package.zip")


@router.delete("/v1/packages/{package_id}", tags=["packages"])
async def delete_package(request: Request, package_id: str) -> dict[str, Any]:
    """Cancel a package job if it is not done, and delete all its data."""
    return await delete_and_answer(
        request, require_kind(await get_job(request, package_id, "write"), "package"), "package"
    )


@router.get("/v1/scores/{score_id}", tags=["scores"])
async def get_score(request: Request, score_id: str) -> dict[str, Any]:
    """Return a score's state and, once it is done, LPIPS by angle."""
    return shape_or_failure(native_job, require_kind(await get_job(request, score_id), "score"))


@router.delete("/v1/scores/{score_id}", tags=["scores"])
async def delete_score(request: Request, score_id: str) -> dict[str, Any]:
    """Cancel a score job if it is not done, and delete all its data."""
    return await delete_and_answer(request, require_kind(await get_job(request, score_id, "write"), "score"), "score")


@router.get("/healthz", tags=["service"])
async def healthz() -> dict[str, str]:
    """Report that this process answers, without checking anything else."""
    return {"status": "ok"}


@router.get("/readyz", tags=["service"])
async def readyz(request: Request) -> JSONResponse:
    """Report whether jobs can be accepted and will be worked on."""
    context = context_of(request)
    try:
        await context.call(context.store.ping)
        problem = await context.call(context.ready)
    except Exception:
        problem = "the jobs' database does not answer"
    return JSONResponse({"status": problem or "ready"}, 503 if problem else 200)


@router.get("/metrics", tags=["service"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Return Prometheus metrics; needs an admin key if the server needs keys."""
    await caller(request, "admin")
    context = context_of(request)
    current: Metrics = request.app.state.metrics
    for status, count in (await context.call(context.store.counts)).items():
        current.jobs.labels(status).set(count)
    return Response(generate_latest(current.registry), media_type=CONTENT_TYPE_LATEST)


def require_kind(job: Job, kind: Kind) -> Job:
    """Return the job if it is of the given kind.

    Raises:
        InputError: `job.not_found` if it is not.
    """
    if job.kind != kind:
        raise InputError("job.not_found", f"there is no {kind} {job.id!r}")
    return job
