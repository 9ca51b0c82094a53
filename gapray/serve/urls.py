"""Requests to URLs that clients name, protected against server-side request forgery (SSRF, CWE-918).

Every address of a host must be public or in a network that the operator allowed; the connection is made to an address that
was checked, not to the result of a second look-up; each redirect is checked anew; size and time are limited; neither proxies
nor `.netrc` are used.
"""

from __future__ import annotations

import functools
import io
import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3

from gapray.errors import InputError
from gapray.serve.settings import UrlRules
from gapray.serve.text import refuse_many_values, strict_json

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_LENGTH = 8000
"""Maximum length of a URL [characters]; RFC 9110, section 4.1, recommends that servers support at least this."""
_CHUNK = 64 * 1024
LOOK_UP_S = 5.0
"""Longest look-up of a host name [s]."""
_LOOK_UPS = threading.BoundedSemaphore(64)
"""Limits the number of concurrent look-ups, including those that hang."""
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",
        "192.88.99.0/24",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "5f00::/16",
        "fec0::/10",
    )
)
"""Networks that are not public, or that embed IPv4 addresses, whatever `is_global` of this version of Python says of them."""

Resolver = Callable[[str, int], list[str]]
"""Resolves a host and port to addresses, as text."""


@dataclass(frozen=True)
class Target:
    """A checked URL, and the address to connect to."""

    url: str
    scheme: str
    host: str
    port: int
    address: str
    path: str


def resolve(host: str, port: int) -> list[str]:
    """Return every address of a host, as found by the system's resolver.

    The resolver cannot be interrupted, so each look-up has its own thread, which is abandoned when its time is over.

    Raises:
        OSError: There is no address, or none was found within `LOOK_UP_S`.
    """
    started = time.monotonic()
    if not _LOOK_UPS.acquire(timeout=LOOK_UP_S):
        raise TimeoutError("too many names are looked up")
    outcome: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            outcome.put(list(dict.fromkeys(str(info[4][0]) for info in infos)))
        except (OSError, UnicodeError) as error:
            outcome.put(error)
        finally:
            _LOOK_UPS.release()

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    try:
        addresses = outcome.get(timeout=max(0.0, started + LOOK_UP_S - time.monotonic()))
    except queue.Empty:
        raise TimeoutError(f"{host[:100]!r} was not found within {LOOK_UP_S:g} s") from None
    if isinstance(addresses, Exception):
        raise addresses
    return addresses


def check_urls(urls: Iterable[str], rules: UrlRules, resolver: Resolver = resolve) -> None:
    """Check all URLs of a request with `check_url`, looking up each host once, within `timeout_s` in all.

    Raises:
        InputError: `url.refused`; `url.failed` if the time is over.
    """
    deadline = time.monotonic() + rules.timeout_s
    look_up = functools.cache(resolver)
    for url in urls:
        if time.monotonic() > deadline:
            raise InputError("url.failed", f"the hosts of the URLs were not found within {rules.timeout_s:g} s")
        check_url(url, rules, look_up)


def check_url(url: str, rules: UrlRules, resolver: Resolver = resolve) -> Target:
    """Check that the server may fetch `url`, and choose the address to connect to. Opens no connection.

    Raises:
        InputError: `url.refused`, with the same message for a host without an address as for one that is not public: the
            difference would reveal which internal names exist.
    """
    if len(url) > _MAX_LENGTH:
        raise InputError("url.refused", f"the URL has {len(url)} characters; at most {_MAX_LENGTH} are taken")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError("url.refused", f"not a URL: {error}") from error
    if parts.scheme not in rules.schemes:
        raise InputError("url.refused", f"the scheme {parts.scheme[:20]!r} is not fetched")
    if not host or parts.username is not None or parts.password is not None:
        raise InputError("url.refused", "the URL must name a host, and no user")
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise InputError("url.refused", "the URL holds white space or control characters")
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = resolver(host, port)
    except (OSError, UnicodeError):
        addresses = []
    if not addresses or not all(is_allowed(address, rules) for address in addresses):
        raise InputError("url.refused", f"the host {host[:100]!r} has no public address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url, parts.scheme, host, port, addresses[0], path)


def is_allowed(address: str, rules: UrlRules) -> bool:
    """Whether an address is public, or in a network that the operator allowed."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if any(parsed in ipaddress.ip_network(network) for network in rules.private):
        return True
    if any(parsed in network for network in _NEVER_PUBLIC if network.version == parsed.version):
        return False
    return parsed.is_global and not (
        parsed.is_multicast or parsed.is_reserved or parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified
    )


def fetch(url: str, rules: UrlRules, resolver: Resolver = resolve, *, left: int | None = None) -> bytes:
    """Fetch the content of a URL, following redirects.

    Args:
        url: URL that a client named.
        rules: What may be fetched.
        resolver: Finds the host's addresses.
        left: What remains of the request's byte limit [bytes]; None = only the limits in `rules` apply.

    Raises:
        InputError: `url.refused` or `url.failed`; `request.too_large` beyond `left`.
    """
    deadline = time.monotonic() + rules.timeout_s
    for _ in range(rules.redirects + 1):
        target = check_url(url, rules, resolver)
        with _exchange(target, "GET", deadline, None, {}) as response:
            if response.status in _REDIRECTS and "location" in response.headers:
                url = urljoin(url, response.headers["location"])
                continue
            if response.status != 200:
                raise InputError("url.failed", f"{target.host} answered {response.status}")
            return _read_body(response, target, rules, left)
    raise InputError("url.refused", f"more than {rules.redirects} redirects")


def post_json(url: str, body: bytes, headers: Mapping[str, str], rules: UrlRules, resolver: Resolver = resolve) -> int:
    """Post JSON to a client's URL without following redirects; returns the HTTP status.

    Raises:
        InputError: `url.refused` or `url.failed`.
    """
    deadline = time.monotonic() + rules.timeout_s
    with _exchange(check_url(url, rules, resolver), "POST", deadline, body, headers) as response:
        return response.status


def fetch_json(url: str, rules: UrlRules, resolver: Resolver = resolve, *, max_values: int = 100_000) -> Any:
    """Fetch and parse JSON.

    Args:
        url: URL that a client named.
        rules: What may be fetched.
        resolver: Finds the host's addresses.
        max_values: Maximum number of values in the document.

    Raises:
        InputError: `url.refused`; `url.failed`, also if the document is not JSON or has more values.
    """
    data = fetch(url, rules, resolver)
    refuse_many_values("the URL's JSON", data, max_values, "url.failed")
    try:
        return strict_json(data)
    except (ValueError, RecursionError) as error:
        raise InputError("url.failed", f"the URL holds no JSON: {str(error)[:200]}") from error


@contextmanager
def _exchange(
    target: Target, method: str, end: float, body: bytes | None, headers: Mapping[str, str]
) -> Iterator[urllib3.BaseHTTPResponse]:
    """Send a request and yield its response, both limited in time by `end` on the monotonic clock.

    Timeouts of single reads are not enough: a host could send a byte now and then.

    Raises:
        InputError: `url.failed`, also while the caller reads the response.
    """
    pool = _connection_pool(target, max(0.1, end - time.monotonic()))
    deadline = _Deadline(end)
    pool.ConnectionCls = deadline.watch(pool.ConnectionCls)
    default = 443 if target.scheme == "https" else 80
    name = f"[{target.host}]" if ":" in target.host else target.host
    host = name if target.port == default else f"{name}:{target.port}"
    try:
        with deadline:
            response = pool.urlopen(
                method,
                target.path,
                body=body,
                headers={"Host": host, "User-Agent": "gapray", **headers},
                redirect=False,
                preload_content=False,
                assert_same_host=False,
            )
            try:
                deadline.check(target)  # truncated headers look like complete ones
                yield response
                deadline.check(target)
            finally:
                response.close()
    except urllib3.exceptions.HTTPError as error:
        deadline.check(target)
        raise InputError("url.failed", f"{target.host}: {type(error).__name__}") from error


def _connection_pool(target: Target, left_s: float) -> urllib3.HTTPConnectionPool:
    """Return a pool that connects to the checked address, but verifies the certificate for the URL's host name."""
    timeout = urllib3.Timeout(connect=min(10.0, left_s), read=left_s)
    options: dict[str, Any] = {"timeout": timeout, "retries": False, "maxsize": 1}
    if target.scheme == "https":
        return urllib3.HTTPSConnectionPool(
            target.address, target.port, server_hostname=target.host, assert_hostname=target.host, **options
        )
    return urllib3.HTTPConnectionPool(target.address, target.port, **options)


class _Deadline:
    """Closes the connections of one exchange when its time is over."""

    def __init__(self, end: float) -> None:
        self._left_s = max(0.1, end - time.monotonic())
        self._timer = threading.Timer(self._left_s, self._cut)
        self._timer.daemon = True
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()

    def watch(self, connection_class: type[Any]) -> type[Any]:
        """Return a subclass whose connections are closed at the deadline."""
        sockets = self._sockets

        class Watched(connection_class):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()
                # A duplicate, because TLS takes the original over; the handshake must be limited too.
                sockets.append(connection.dup())
                return connection

        return Watched

    def check(self, target: Target) -> None:
        """Check that the time is not over.

        Raises:
            InputError: `url.failed` if it is.
        """
        if self._over.is_set():
            raise InputError("url.failed", f"{target.host} took longer than {self._left_s:.3g} s")

    def _cut(self) -> None:
        self._over.set()
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for connection in self._sockets:
            connection.close()


def _read_body(response: urllib3.BaseHTTPResponse, target: Target, rules: UrlRules, left: int | None = None) -> bytes:
    data = io.BytesIO()  # gives its bytes away without a copy
    while chunk := response.read1(_CHUNK, decode_content=True):
        data.write(chunk)
        if data.tell() > rules.max_bytes:
            raise InputError("url.failed", f"{target.host} sent more than {rules.max_bytes} bytes")
        if left is not None and data.tell() > left:
            raise InputError("request.too_large", f"the URLs hold more bytes than a request may: {left} were left")
    return data.getvalue()
