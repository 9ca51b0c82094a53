"""The ASGI application: routes, limits on bodies, request ids, HEAD, other origins, metrics."""

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
from gapray.serve.audit import Note
from gapray.serve.http import images, native, openai, runpod
from gapray.serve.http.arriving import bounded, refuse_long
from gapray.serve.http.browsers import Browsers
from gapray.serve.http.context import Context
from gapray.serve.http.failures import on_any_error, on_gapray_error, on_http_error, on_validation_error
from gapray.serve.http.places import Places
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


BODIES_OF_ONE_KEY = 4
"""Largest bodies that one key may have on their way at once, in bytes; smaller ones are more."""
_PATH = 200
"""Characters of a path in the audit log."""
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
"""Headers of an answer that pages of other origins may read, beside those that browsers let them."""


def build_app(context: Context, *, named_elsewhere: bool = False) -> FastAPI:
    """The application over one context.

    Args:
        context: Store, files, settings, keys.
        named_elsewhere: Whatever runs the application adds `x-request-id` to answers, as Ray Serve's proxies do.
    """
    from gapray import __version__

    app = FastAPI(
        title="gapray",
        version=__version__,
        summary="Eight photos of a product in; a turntable video, stills and their fidelity out.",
        docs_url=None,  # the usual page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.context = context
    limits = context.settings.limits
    app.state.places = places = Places(
        context.settings.ingress.ongoing, context.settings.requests_per_key, BODIES_OF_ONE_KEY * limits.body_bytes
    )
    app.state.metrics = native.Metrics()
    app.state.streamed = OrderedDict()
    for module in (openai, images, runpod, native):
        app.include_router(module.router)
    _add_page(app)
    app.add_exception_handler(GaprayError, on_gapray_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_middleware(
        Browsers,
        keyless=context.keyless,
        hosts=context.settings.hosts,
        bound=context.settings.bound,
        origins=context.settings.cors_origins,
    )
    app.add_middleware(
        _Front,
        limits=limits,
        places=places,
        note=context.note,
        metrics=app.state.metrics,
        named_elsewhere=named_elsewhere,
    )
    if context.settings.cors_origins:
        # Outside of `_Front`, so that refusals too can be read by the page that asked.
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
    for path, (name, kind) in PAGE.items():
        data = (folder / name).read_bytes()
        app.add_api_route(path, _static(data, kind), methods=["GET"], include_in_schema=False)
    for azimuth in SAMPLE_AZIMUTHS:
        name = f"mug_{azimuth:03d}.jpg"
        data = (folder / "sample" / name).read_bytes()
        app.add_api_route(
            f"/assets/sample/{name}", _static(data, "image/jpeg"), methods=["GET"], include_in_schema=False
        )


def _static(data: bytes, kind: str) -> Any:
    async def page() -> Response:
        return Response(data, media_type=kind, headers=_PAGE_HEADERS)

    return page


class _AnsweredError(Exception):
    """Ends what makes the body of an answer to HEAD, once its headers are sent."""


class _Front:
    """Outermost: gives the request a place and a name, bounds its body, counts it, and answers HEAD as GET without a body.

    Errors that nothing else caught end here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        places: Places,
        note: Note,
        metrics: native.Metrics,
        named_elsewhere: bool,
    ) -> None:
        self._app, self._limits, self._places, self._note = app, limits, places, note
        self._metrics, self._named_elsewhere = metrics, named_elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        scope = {**scope, "method": "GET"} if head else scope
        scope.setdefault("state", {})["head"] = head
        request = Request(scope)
        said = request.headers.get("x-request-id", "")
        request_id = said if _REQUEST_ID.fullmatch(said) else uuid.uuid4().hex
        began, status, started = time.monotonic(), 500, False

        async def named(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                if not self._named_elsewhere:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            elif head and message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": b""})
                if message.get("more_body"):
                    raise _AnsweredError
                return
            await send(message)

        try:
            arrived = partial(self._places.arrived, scope)
            with self._places.taken(scope):
                refuse_long(request.headers.get("content-length", ""), self._limits)
                await self._app(scope, bounded(receive, self._limits, arrived), named)
        except _AnsweredError:
            pass
        except Exception as error:
            failed = await on_any_error(request, error)
            if not started:
                await failed(scope, receive, named)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)
            if scope["method"] != "GET" and (key := scope["state"].get("key")) is not None:
                self._note(
                    key=key.id,
                    name=key.name,
                    did=f"{scope['method']} {scope['path'][:_PATH]}",
                    job=scope["state"].get("job"),
                    status=status,
                    request=request_id,
                )
