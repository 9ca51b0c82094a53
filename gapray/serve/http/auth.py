"""Authentication and authorisation of requests by API keys."""

from __future__ import annotations

from starlette.requests import Request

from gapray.errors import ServeError
from gapray.serve.http.context import Context
from gapray.serve.keys import ANONYMOUS, ApiKey, Scope


def context_of(request: Request) -> Context:
    """Return the context of this process."""
    context: Context = request.app.state.context
    return context


async def caller(request: Request, scope: Scope) -> ApiKey:
    """Authenticate a request, and count it towards its key's limits.

    The key is sent as ``Authorization: Bearer <key>``, or bare, as some of RunPod's clients do.

    Raises:
        ServeError: `auth.missing`, `auth.invalid`, `auth.forbidden` or `rate.exceeded`.
    """
    request.state.key = key = await _authenticate(request, scope)
    request.app.state.slots.assign(request.scope, key.id)
    return key


async def _authenticate(request: Request, scope: Scope) -> ApiKey:
    context = context_of(request)
    header = request.headers.get("authorization", "").strip()
    scheme, _, credentials = header.partition(" ")
    secret = credentials.strip() if scheme.lower() == "bearer" else header
    if await context.keyless():
        return ANONYMOUS
    if not secret:
        raise ServeError("auth.missing", "the request carries no API key")
    ring = context.keys
    # Only a look-up in the database needs a thread, which costs more than the check of a cached key.
    key: ApiKey = ring.check(secret) if ring.is_cached(secret) else await context.call(ring.check, secret)
    request.state.accepted = True
    if scope not in key.scopes and "admin" not in key.scopes:
        raise ServeError("auth.forbidden", f"this key may not {scope}")
    context.count_request(key)
    return key


def key_of(request: Request) -> ApiKey:
    """Return the key of a request that `caller` has authenticated."""
    key: ApiKey = request.state.key
    return key


def owner_of(key: ApiKey) -> str | None:
    """Return the owner whose jobs a key may access: its own id, or None (all owners) with the scope `admin`."""
    return None if "admin" in key.scopes else key.id
