"""Error responses in the form that each API's clients expect, with gapray's codes and remedies. Tracebacks stay in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

from gapray.errors import ConfigError, GaprayError, InputError, as_gapray_error, is_out_of_memory
from gapray.serve.remedies import as_request_fields, remedy_of
from gapray.serve.text import escaped
from gapray.serve.work import find_gapray_error

log = logging.getLogger("gapray.serve")
RETRY_AFTER_S = 5

STATUS: dict[str, int] = {
    "auth.missing": 401,
    "auth.invalid": 401,
    "auth.forbidden": 403,
    "rate.exceeded": 429,
    "queue.full": 429,
    "queue.key_full": 429,
    "job.not_found": 404,
    "job.no_such_file": 404,
    "job.expired": 404,
    "model.unknown": 404,
    "request.too_slow": 408,
    "request.too_large": 413,
    "request.unsupported_media": 415,
    "request.idempotency_mismatch": 422,
    "request.unsupported": 404,
    "request.not_found": 404,
    "request.host_refused": 403,
    "request.origin_refused": 403,
    "request.wrong_method": 405,
    "artifacts.failed": 503,
    "jobs.unavailable": 503,
    "serve.unavailable": 503,
    "serve.busy": 503,
    "internal.error": 500,
}
"""Error code -> HTTP status. Other client errors are 400; 409 is not used, because OpenAI's clients retry it."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_BY_STATUS = {404: "request.not_found", 405: "request.wrong_method"}


def status_of(error: GaprayError) -> int:
    """Return the HTTP status of an error."""
    if error.code in STATUS:
        return STATUS[error.code]
    return 400 if isinstance(error, (InputError, ConfigError)) else 503


def error_response(
    request: Request, status: int, code: str, message: str, headers: Mapping[str, str] = MappingProxyType({})
) -> JSONResponse:
    """Return an error in the form of the API that was called."""
    remedy, message = remedy_of(code), escaped(message)
    body: dict[str, Any]
    if request.url.path.startswith("/v2/") or request.url.path == "/graphql":
        # RunPod's asynchronous client reads `id` and `status` without looking at the HTTP status.
        body = {"id": None, "status": "FAILED", "error": message, "code": code, "remedy": remedy}
        if request.url.path == "/graphql":
            body = {"errors": [{"message": message}], "data": None}
    else:
        error_type = _TYPES.get(status, "invalid_request_error")
        body = {"error": {"message": message, "type": error_type, "param": None, "code": code, "remedy": remedy}}
    retry_after = {"retry-after": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    return JSONResponse(body, status, {**headers, **retry_after})


async def on_gapray_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of gapray."""
    assert isinstance(error, GaprayError)
    status = status_of(error)
    if status >= 500 and error.code != "serve.busy":  # a flood of requests must not fill the log
        log.error("%s: %s", error.code, error.message)
    message = as_request_fields(error.message) if status != 500 else "the server failed"
    return error_response(request, status, error.code, message)


async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a request with a parameter that FastAPI refused."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return error_response(request, 422, "request.invalid", f"{where}: {first['msg']}")


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a request with an unknown path or method."""
    assert isinstance(error, HTTPException)
    code = _BY_STATUS.get(error.status_code, "request.invalid")
    headers = {"allow": ", ".join(methods_of(request))} if error.status_code == 405 else {}
    return error_response(
        request, error.status_code, code, f"{request.method} {request.url.path[:200]}: {error.detail}", headers
    )


def methods_of(request: Request) -> list[str]:
    """Return the methods that a request's path supports (RFC 9110, section 15.5.6).

    The framework only knows those of one route.
    """
    methods = [
        method
        for method in _METHODS
        if any(route.matches(dict(request.scope) | {"method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return [*methods, "HEAD"] if "GET" in methods else methods


async def on_any_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error that nothing else handled: a bug, or an unavailable database."""
    known = as_gapray_error(MemoryError()) if is_out_of_memory(error) else find_gapray_error(error)
    if known is not None:
        return await on_gapray_error(request, known)
    log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    if type(error).__module__.startswith("sqlalchemy"):
        return error_response(request, 503, "jobs.unavailable", "the jobs' database does not answer")
    return error_response(request, 500, "internal.error", "the server failed")
