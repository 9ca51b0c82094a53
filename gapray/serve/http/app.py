"""The ASGI application: routes, limits on bodies, request ids, HEAD, CORS, metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections import OrderedDict
from functools import partial
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gapray.errors import GaprayError
from gapray.serve.audit import AuditWriter
from gapray.serve.front import ACCEPTED_HEADER
from gapray.serve.http import images, native, openai, runpod
from gapray.serve.http.arriving import limit_body, refuse_content_length
from gapray.serve.http.browsers import BrowserGuard
from gapray.serve.http.context import Context
from gapray.serve.http.failures import on_any_error, on_gapray_error, on_http_error, on_validation_error
from gapray.serve.http.places import RequestSlots
from gapray.serve.settings import Limits

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/assets/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/assets/style.css": ("style.css", "text/css; charset=utf-8"),
}
SAMPLE_AZIMUTHS = tuple(range(0, 360, 45))
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
BODIES_PER_KEY = 4
"""The bodies that one key is sending may together have the size of so many bodies of the largest size."""
_PATH_LENGTH = 200
"""Maximum length of a path in the audit log [characters]."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_EXPOSED = (
    "allow",
    "content-disposition",
    "content-range",
    "location",
    "openai-poll-after-ms",
    "retry-after",
    "x-request-id",
)
"""Response headers that pages of other origins may read, besides those that the CORS protocol always allows."""


def build_app(context: Context, *, adds_request_id: bool = True) -> FastAPI:
    """Build the application.

    Args:
        context: Store, files, settings and keys.
        adds_request_id: Whether the application adds `x-request-id` to its responses; Ray Serve's proxies do so themselves.
    """
    from gapray import __version__

    app = FastAPI(
        title="gapray",
        version=__version__,
        summary="Eight photos of a product in; a turntable video, stills and their fidelity out.",
        docs_url=None,  # FastAPI's page loads scripts from a CDN
        redoc_url=None,
    )
    app.state.context = context
    limits = context.settings.limits
    app.state.slots = slots = RequestSlots(
        context.settings.ingress.ongoing, context.settings.requests_per_key, BODIES_PER_KEY * limits.body_bytes
    )
    app.state.metrics = native.Metrics()
    app.state.streamed_jobs = OrderedDict()
    for module in (openai, images, runpod, native):
        app.include_router(module.router)
    _add_page(app)
    app.add_exception_handler(GaprayError, on_gapray_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_middleware(
        BrowserGuard,
        keyless=context.keyless,
        hosts=context.settings.hosts,
        bound=context.settings.bound,
        origins=context.settings.cors_origins,
    )
    app.add_middleware(
        _OutermostMiddleware,
        limits=limits,
        slots=slots,
        audit=context.audit,
        metrics=app.state.metrics,
        adds_request_id=adds_request_id,
    )
    if context.settings.cors_origins:
        # Outside of `_OutermostMiddleware`, so that pages can read refusals too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=context.settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )
    return app


def _add_page(app: FastAPI) -> None:
    folder = resources.files("gapray.serve") / "page"
    for path, (name, media_type) in PAGE.items():
        data = (folder / name).read_bytes()
        app.add_api_route(path, _static(data, media_type), methods=["GET"], include_in_schema=False)
    for azimuth in SAMPLE_AZIMUTHS:
        name = f"mug_{azimuth:03d}.jpg"
        data = (folder / "sample" / name).read_bytes()
        app.add_api_route(
            f"/assets/sample/{name}", _static(data, "image/jpeg"), methods=["GET"], include_in_schema=False
        )


def _static(data: bytes, media_type: str) -> Any:
    async def page() -> Response:
        return Response(data, media_type=media_type, headers=_PAGE_HEADERS)

    return page


class _HeadAnsweredError(Exception):
    """Stops a streaming response to HEAD once its headers are sent."""


class _OutermostMiddleware:
    """Takes a slot for each request, gives it an id, limits its body, counts it, and answers HEAD as GET without a body.

    Errors that nothing else caught are answered here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        slots: RequestSlots,
        audit: AuditWriter,
        metrics: native.Metrics,
        adds_request_id: bool,
    ) -> None:
        self._app, self._limits, self._slots, self._audit = app, limits, slots, audit
        self._metrics, self._adds_request_id = metrics, adds_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        scope = {**scope, "method": "GET"} if head else scope
        scope.setdefault("state", {})["head"] = head
        request = Request(scope)
        proposed_id = request.headers.get("x-request-id", "")
        request_id = proposed_id if _REQUEST_ID.fullmatch(proposed_id) else uuid.uuid4().hex
        started_at, status, responded = time.monotonic(), 500, False

        async def send_response(message: Message) -> None:
            nonlocal status, responded
            if message["type"] == "http.response.start":
                status, responded = message["status"], True
                if scope["state"].get("accepted"):
                    message["headers"] = [*message.get("headers", ()), (ACCEPTED_HEADER.encode(), b"1")]
                if self._adds_request_id:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            elif head and message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": b""})
                if message.get("more_body"):
                    raise _HeadAnsweredError
                return
            await send(message)

        try:
            count_bytes = partial(self._slots.count_body_bytes, scope)
            with self._slots.take(scope):
                refuse_content_length(request.headers.get("content-length", ""), self._limits)
                await self._app(scope, limit_body(receive, self._limits, count_bytes), send_response)
        except _HeadAnsweredError:
            pass
        except Exception as error:
            response = await on_any_error(request, error)
            if not responded:
                await response(scope, receive, send_response)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - started_at)
            if scope["method"] != "GET" and (key := scope["state"].get("key")) is not None:
                self._audit(
                    key=key.id,
                    name=key.name,
                    did=f"{scope['method']} {scope['path'][:_PATH_LENGTH]}",
                    job=scope["state"].get("job"),
                    status=status,
                    request=request_id,
                )
