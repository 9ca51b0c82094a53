"""Keeps web pages away from a server that asks for no key: whatever page a browser shows can send requests to the loopback.

A page of another origin is known by `Sec-Fetch-Site`, `Origin` and `Referer`, which no page can forge. A page whose own name was
made to resolve to this machine (DNS rebinding) is of the same origin; it is known by that name, in `Host`. Programs send none
of the first three, and the address they were given as the last. Where a key is needed, the key protects: no page knows it.
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
from gapray.serve.http.failures import answer, status_of

_HTTP_PORT = 80
_HEALTH = ("/healthz", "/readyz")
"""Asked by whatever watches the server, under any name; the first asks no database."""
_SERVICE_NAME = re.compile(r"(?=.*[a-z])[a-z0-9_-]+")
_OWN_SITE = ("same-origin", "none")
"""Values of `Sec-Fetch-Site`: a page of this server, or the user, who typed the address."""


class Browsers:
    """ASGI middleware: answers 403 to what web pages of others send, while no key is needed.

    Args:
        app: What is protected.
        keyless: Whether a caller needs no key now.
        hosts: Values of `Host`, such as ``render.lan:8000``, that are taken beside the usual ones.
        bound: Address and port that the server listens at; None = not known.
        origins: Origins whose pages may call; ``*`` = any.
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
        """Pass a request on, or answer it by 403."""
        if scope["type"] == "http" and scope["path"] not in _HEALTH and await self._keyless():
            headers = Headers(scope=scope)
            try:
                refuse_host(headers.getlist("host"), self._hosts, self._bound)
                refuse_origin(scope["method"], scope["path"], headers, self._origins)
            except InputError as error:
                refused = answer(Request(scope), status_of(error), error.code, error.message)
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


def refuse_host(sent: list[str], hosts: Collection[str], bound: tuple[str, int] | None) -> None:
    """Refuse a name that anybody's DNS could point at this machine.

    Taken are `hosts`, and ``localhost``, IP addresses and the address that the server was bound to: where it listens on the
    loopback alone, only the loopback's, with its port. Where others reach it, ports may be mapped, and names without a dot are taken
    too: the services of a container network have such, and no domain has.

    Args:
        sent: Every `Host` header of a request.
        hosts: Further values that are taken.
        bound: Address and port that the server listens at; None = not known, and any port is taken.

    Raises:
        InputError: `request.host_refused`.
    """
    said = sent[0].lower() if len(sent) == 1 else ""
    if said and said in {host.lower() for host in hosts}:
        return
    name, port = _split(said)
    own, listening = bound if bound is not None else ("", port)
    address = _address(name)
    local = address is not None and address.is_loopback
    if _is_loopback(own):
        taken = port == listening and (local or name in ("localhost", own.lower()))
    else:
        taken = address is not None or name == own.lower() or _SERVICE_NAME.fullmatch(name) is not None
    if name and taken:
        return
    raise InputError("request.host_refused", f"the server needs no key and does not answer to the name {said[:100]!r}")


def refuse_origin(method: str, path: str, headers: Headers, origins: Collection[str]) -> None:
    """Refuse a request that a page of another origin sends, be it to change something or to read.

    Following a link to the server's own page, at ``/``, is no such request. OPTIONS changes and tells nothing.

    Args:
        method: In capitals.
        path: Of the URL, decoded.
        headers: Of the request.
        origins: Origins whose pages may call; ``*`` = any.

    Raises:
        InputError: `request.origin_refused`.
    """
    if method == "OPTIONS" or "*" in origins or (path == "/" and method in ("GET", "HEAD")):
        return
    # A picture or a video in a page is asked for without `Origin`.
    origin = headers.get("origin") or _origin_of(headers.get("referer"))
    if origin in origins:
        return
    foreign = origin is not None and (origin == "null" or origin.partition("://")[2] != headers.get("host", "").lower())
    if foreign or headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        shown = origin or "another site"
        raise InputError("request.origin_refused", f"the server needs no key and obeys no page of {shown[:100]!r}")


def _split(host: str) -> tuple[str, int]:
    """Name and port of a `Host` header; an unreadable one has no name."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "", 0
    return ("", 0) if parts.netloc != host or "@" in host else (name, _HTTP_PORT if port is None else port)


def _origin_of(url: str | None) -> str | None:
    """The origin of a `Referer`; ``null`` of an unreadable one, None of none."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return "null"
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.netloc else "null"


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    """Whether a server that is bound to `host` is reached from its own machine alone."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)
