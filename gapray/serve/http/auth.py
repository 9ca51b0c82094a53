"""Who asks, and what they may."""

from __future__ import annotations

from starlette.requests import Request

from gapray.errors import ServeError
from gapray.serve.http.context import Context
from gapray.serve.keys import ANYBODY, ApiKey, Scope


def context_of(request: Request) -> Context:
    """The process's context."""
    context: Context = request.app.state.context
    return context


async def caller(request: Request, scope: Scope) -> ApiKey:
    """The key of a request: ``Authorization: Bearer <key>``, or the bare key, as some of RunPod's clients send it.

    Raises:
        ServeError: `auth.missing`, `auth.invalid`, `auth.forbidden` or `rate.exceeded`.
    """
    request.state.key = key = await _caller(request, scope)
    request.app.state.places.hold(request.scope, key.id)
    return key


async def _caller(request: Request, scope: Scope) -> ApiKey:
    context = context_of(request)
    sent = request.headers.get("authorization", "").strip()
    kind, _, rest = sent.partition(" ")
    secret = rest.strip() if kind.lower() == "bearer" else sent
    if await context.keyless():
        return ANYBODY
    if not secret:
        raise ServeError("auth.missing", "the request carries no API key")
    ring = context.keys
    # The database is only asked for a key that was not seen for some seconds; another thread costs more than the check.
    key: ApiKey = ring.check(secret) if ring.knows(secret) else await context.call(ring.check, secret)
    if scope not in key.scopes and "admin" not in key.scopes:
        raise ServeError("auth.forbidden", f"this key may not {scope}")
    context.within_rate(key)
    return key


def key_of(request: Request) -> ApiKey:
    """Who `caller` found to ask."""
    key: ApiKey = request.state.key
    return key


def owner_of(key: ApiKey) -> str | None:
    """Whose jobs a key sees: its own, or with `admin` everybody's."""
    return None if "admin" in key.scopes else key.id
