"""gapray's own routes: packages, scores, health, metrics."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import JSONResponse, Response

from gapray.errors import InputError
from gapray.serve.http.auth import caller, context_of
from gapray.serve.http.bodies import Body, azimuths_of, ignored_in, in_turn, making_of, options_of, read_body
from gapray.serve.http.openai import BODY, MODEL, deleted, idempotency_key, one_job, ranged
from gapray.serve.jobs import Job, Kind
from gapray.serve.shapes import native_job, readable
from gapray.serve.uploads import sent_by

router = APIRouter()
_PREFER_WAIT = re.compile(r"\bwait=([0-9]{1,4})\b")
Wait = Annotated[
    float | None, Query(ge=0, le=300, description="Answer when the job is done, or after so many seconds.")
]


class Metrics:
    """Metrics of one ingress process."""

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
    """Package photos: masks, depth, edges, identity. The zip of the GAP folder is its `content`."""
    return await _submitted(request, "package", wait)


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
    """Score a turntable video from anywhere against photos of its product: aligned LPIPS by angle."""
    return await _submitted(request, "score", wait)


async def _submitted(request: Request, kind: Kind, wait: float | None) -> JSONResponse:
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
    job = await context.accept(
        key,
        api="native",
        kind=kind,
        making=making_of(Body(tuple(item for item in body.fields if item[0] != "format")), product_id="product"),
        sent=await in_turn(request, sent_by, body.fields),
        azimuths=azimuths_of(body),
        options=options_of(body),
        files=files,
        model=MODEL,
        idempotency_key=idempotency_key(request),
        digest=await in_turn(request, body.digest, "native", kind),
        webhook=body.text("webhook", "webhook_url"),
    )
    request.state.job = job.id
    job = await context.waited(job, preferred_wait(request, wait, 0.0), key)
    place = {"location": f"/v1/{kind}s/{kind}_{job.id}"}
    known = ("webhook", "webhook_url", "model", "user", *(["video"] if kind == "score" else []))
    # Neither draws anything: of what a client can say of a video the product's name alone has an effect.
    ignored = ignored_in(body, known, making={"product_id"})
    shown = native_job(job) | ({"ignored": ignored} if ignored else {})
    return JSONResponse(shown, 200 if job.final else 202, place)


def preferred_wait(request: Request, wait: float | None, usual: float) -> float:
    """Seconds to wait: what the query says, or the header `Prefer` (RFC 7240), or what is usual."""
    said = request.headers.get("prefer", "")
    preferred = _PREFER_WAIT.search(said)
    if wait is not None:
        return wait
    return float(preferred[1]) if preferred else 0.0 if "respond-async" in said else usual


@router.get("/v1/packages/{package_id}", tags=["packages"])
async def get_package(request: Request, package_id: str) -> dict[str, Any]:
    """A package's state; when it is done, its views with their embeddings."""
    return readable(native_job, of_kind(await one_job(request, package_id), "package"))


@router.get("/v1/packages/{package_id}/content", tags=["packages"], response_class=Response)
async def get_package_content(request: Request, package_id: str) -> Response:
    """The GAP folder as a zip."""
    job = of_kind(await one_job(request, package_id), "package")
    return ranged(request, await context_of(request).file(job, "package.zip"), "package.zip")


@router.delete("/v1/packages/{package_id}", tags=["packages"])
async def delete_package(request: Request, package_id: str) -> dict[str, Any]:
    """Cancel a package if it is not done, and remove everything of it."""
    return await deleted(request, of_kind(await one_job(request, package_id, "write"), "package"), "package")


@router.get("/v1/scores/{score_id}", tags=["scores"])
async def get_score(request: Request, score_id: str) -> dict[str, Any]:
    """A score's state; when it is done, LPIPS by angle."""
    return readable(native_job, of_kind(await one_job(request, score_id), "score"))


@router.delete("/v1/scores/{score_id}", tags=["scores"])
async def delete_score(request: Request, score_id: str) -> dict[str, Any]:
    """Cancel a score if it is not done, and remove everything of it."""
    return await deleted(request, of_kind(await one_job(request, score_id, "write"), "score"), "score")


@router.get("/healthz", tags=["service"])
async def healthz() -> dict[str, str]:
    """This process answers. Loads nothing, asks nobody."""
    return {"status": "ok"}


@router.get("/readyz", tags=["service"])
async def readyz(request: Request) -> JSONResponse:
    """Jobs can be accepted and will be worked on."""
    context = context_of(request)
    try:
        await context.call(context.store.ping)
        missing = await context.call(context.ready)
    except Exception:
        missing = "the jobs' database does not answer"
    return JSONResponse({"status": missing or "ready"}, 503 if missing else 200)


@router.get("/metrics", tags=["service"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus; asks for an admin key where the server asks for keys."""
    await caller(request, "admin")
    context = context_of(request)
    found: Metrics = request.app.state.metrics
    for status, count in (await context.call(context.store.counts)).items():
        found.jobs.labels(status).set(count)
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)


def of_kind(job: Job, kind: Kind) -> Job:
    """The job, when it is of that kind.

    Raises:
        InputError: `job.not_found`.
    """
    if job.kind != kind:
        raise InputError("job.not_found", f"there is no {kind} {job.id!r}")
    return job
