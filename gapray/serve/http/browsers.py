"""Protects a server without keys from web pages: any page in a browser can send requests to the loopback address.

Requests of pages of other origins are recognised by `Sec-Fetch-Site`, `Origin` and `Referer`, which pages cannot forge. A page
whose own name was made to resolve to this machine (DNS rebinding) has the same origin; it is recognised by that name in `Host`.
Programs send none of the first three headers, and the address they were given in `Host`. A server with keys needs no such
protection, because pages do not know a key.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gapray.errors import InputError
from gapray.serve.http.failures import error_response, status_of

_HTTP_PORT = 80
_HEALTH = ("/healthz", "/readyz")
"""Paths that monitoring may request under any host name."""
_SERVICE_NAME = re.compile(r"(?=.*[a-z])[a-z0-9_-]+")
_OWN_SITE = ("same-origin", "none")
"""Accepted values of `Sec-Fetch-Site`: a page of this server, or a user who typed the address."""


class BrowserGuard:
    """ASGI middleware that answers requests of foreign web pages with 403 while no key is needed.

    Args:
        app: The application to protect.
        keyless: Whether callers need no key at the moment.
        hosts: Values of `Host`, such as ``render.lan:8000``, that are accepted in addition to the usual ones.
        bound: Address and port that the server listens on; None if unknown.
        origins: Origins whose pages may send requests; ``*`` = any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keyless: Callable[[], Coroutine[Any, Any, bool]],
        hosts: Collection[str],
        bound: tuple[str, int] | None,
        origins: Collection[str],
    ) -> None:
        self._app, self._keyless, self._hosts, self._bound, self._origins = app, keyless, hosts, bound, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] == "http" and scope["path"] not in _HEALTH and await self._keyless():
            headers = Headers(scope=scope)
            try:
                refuse_host(headers.getlist("host"), self._hosts, self._bound)
                refuse_origin(scope["method"], scope["path"], headers, self._origins)
            except InputError as error:
                response = error_response(Request(scope), status_of(error), error.code, error.message)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def refuse_host(sent: list[str], hosts: Collection[str], bound: tuple[str, int] | None) -> None:
    """Refuse a host name that somebody's DNS could have pointed at this machine.

    A server that listens on the loopback only accepts loopback addresses, ``localhost`` and the address that it was bound to, each
    with its port. A server that other machines can reach accepts any IP address, the address that it was bound to, and names
    without a dot, which services in container networks have but no domain has; their ports may be mapped, so they do not count.

    Args:
        sent: Every `Host` header of a request.
        hosts: Further accepted values.
        bound: Address and port that the server listens on; None if unknown, and then any port is accepted.

    Raises:
        InputError: `request.host_refused`.
    """
    host = sent[0].lower() if len(sent) == 1 else ""
    if host and host in {allowed.lower() for allowed in hosts}:
        return
    name, port = _split(host)
    bound_name, bound_port = bound if bound is not None else ("", port)
    address = _address(name)
    local = address is not None and address.is_loopback
    if _is_loopback(bound_name):
        accepted = port == bound_port and (local or name in ("localhost", bound_name.lower()))
    else:
        accepted = address is not None or name == bound_name.lower() or _SERVICE_NAME.fullmatch(name) is not None
    if name and accepted:
        return
    raise InputError("request.host_refused", f"the server needs no key and does not answer to the name {host[:100]!r}")


def refuse_origin(method: str, path: str, headers: Headers, origins: Collection[str]) -> None:
    """Refuse a request that a page of another origin sends.

    Following a link to the server's own page at ``/`` is allowed, and so is OPTIONS, which neither changes nor reveals anything.

    Args:
        method: HTTP method, in capitals.
        path: Decoded path of the URL.
        headers: Headers of the request.
        origins: Origins whose pages may send requests; ``*`` = any.

    Raises:
        InputError: `request.origin_refused`.
    """
    if method == "OPTIONS" or "*" in origins or (path == "/" and method in ("GET", "HEAD")):
        return
    # Browsers request images and videos in a page without `Origin`.
    origin = headers.get("origin") or _origin_of(headers.get("referer"))
    if origin in origins:
        return
    foreign = origin is not None and (origin == "null" or origin.partition("://")[2] != headers.get("host", "").lower())
    if foreign or headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        shown = origin or "another site"
        raise InputError("request.origin_refused", f"the server needs no key and obeys no page of {shown[:100]!r}")


def _split(host: str) -> tuple[str, int]:
    """Split a `Host` header into name and port; the name of a malformed one is empty."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "", 0
    return ("", 0) if parts.netloc != host or "@" in host else (name, _HTTP_PORT if port is None else port)


def _origin_of(url: str | None) -> str | None:
    """Return the origin of a `Referer` header: ``null`` for a malformed one, None for a missing one."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return "null"
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.netloc else "null"


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address; None if `name` is not one."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    """Whether a server that is bound to `host` can only be reached from its own machine."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)
