"""Fetching what clients point at, without becoming their way into our network (SSRF, CWE-918).

Every address of a host must be public (or in a network that the operator named); the connection is made to an address that
was checked, not to whatever a second look-up says; each redirect is checked anew; size and time are capped; no proxy and
no `.netrc` is used.
"""

from __future__ import annotations

import functools
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
_LENGTH = 8000
"""Longest URL [characters]: what servers take at least, by RFC 9110, section 4.1."""
_CHUNK = 64 * 1024
LOOK_UP_S = 5.0
"""Longest look-up of a name."""
_LOOKING_UP = threading.BoundedSemaphore(64)
"""Look-ups at a time, those that hang included."""
_NEVER = tuple(
    ipaddress.ip_network(one)
    for one in (
        "100.64.0.0/10",
        "192.88.99.0/24",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "5f00::/16",
        "fec0::/10",
    )
)
"""Not public, or roads to IPv4 addresses that are not, whatever this Python's `is_global` says of them."""

Resolver = Callable[[str, int], list[str]]
"""Host, port -> addresses as text."""


@dataclass(frozen=True)
class Target:
    """A URL that was checked, and the address to connect to."""

    url: str
    scheme: str
    host: str
    port: int
    address: str
    path: str


def resolve(host: str, port: int) -> list[str]:
    """Every address of a host, by the system's resolver.

    The resolver cannot be stopped, so each look-up has a thread of its own, which is left behind when its time is over.

    Raises:
        OSError: There is none, or none was found within `LOOK_UP_S`.
    """
    begun = time.monotonic()
    if not _LOOKING_UP.acquire(timeout=LOOK_UP_S):
        raise TimeoutError("too many names are looked up")
    found: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put(list(dict.fromkeys(str(info[4][0]) for info in infos)))
        except (OSError, UnicodeError) as error:
            found.put(error)
        finally:
            _LOOKING_UP.release()

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    try:
        answer = found.get(timeout=max(0.0, begun + LOOK_UP_S - time.monotonic()))
    except queue.Empty:
        raise TimeoutError(f"{host[:100]!r} was not found within {LOOK_UP_S:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def check_urls(urls: Iterable[str], rules: UrlRules, resolver: Resolver = resolve) -> None:
    """`check_url` of all URLs of one request, each host looked up once, within the time that one URL may take.

    Raises:
        InputError: As `check_url`; `url.failed` when the time is over.
    """
    end = time.monotonic() + rules.timeout_s
    look_up = functools.cache(resolver)
    for url in urls:
        if time.monotonic() > end:
            raise InputError("url.failed", f"the hosts of the URLs were not found within {rules.timeout_s:g} s")
        check_url(url, rules, look_up)


def check_url(url: str, rules: UrlRules, resolver: Resolver = resolve) -> Target:
    """Whether the server may fetch `url`. Connects to nothing.

    Raises:
        InputError: `url.refused`. A host that has no address reads as one that is not public: the difference would tell
            strangers which internal names exist.
    """
    if len(url) > _LENGTH:
        raise InputError("url.refused", f"the URL has {len(url)} characters; at most {_LENGTH} are taken")
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
    if not addresses or not all(allowed(address, rules) for address in addresses):
        raise InputError("url.refused", f"the host {host[:100]!r} has no public address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url, parts.scheme, host, port, addresses[0], path)


def allowed(address: str, rules: UrlRules) -> bool:
    """Whether one address is public, or in a network that the operator named."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if any(parsed in ipaddress.ip_network(network) for network in rules.private):
        return True
    if any(parsed in network for network in _NEVER if network.version == parsed.version):
        return False
    return parsed.is_global and not (
        parsed.is_multicast or parsed.is_reserved or parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified
    )


def fetch(url: str, rules: UrlRules, resolver: Resolver = resolve, *, left: int | None = None) -> bytes:
    """What lies at `url`.

    Args:
        url: Of a client.
        rules: What may be fetched.
        resolver: Finds the host's addresses.
        left: What the request that wants it may still read [bytes]; None = as much as `rules` let it.

    Raises:
        InputError: `url.refused` or `url.failed`; `request.too_large` beyond `left`.
    """
    end = time.monotonic() + rules.timeout_s
    for _ in range(rules.redirects + 1):
        target = check_url(url, rules, resolver)
        with _exchange(target, "GET", end, None, {}) as answer:
            if answer.status in _REDIRECTS and "location" in answer.headers:
                url = urljoin(url, answer.headers["location"])
                continue
            if answer.status != 200:
                raise InputError("url.failed", f"{target.host} answered {answer.status}")
            return _body(answer, target, rules, left)
    raise InputError("url.refused", f"more than {rules.redirects} redirects")


def post_json(url: str, body: bytes, headers: Mapping[str, str], rules: UrlRules, resolver: Resolver = resolve) -> int:
    """Post to a client's URL; redirects are not followed. Returns the status.

    Raises:
        InputError: As `fetch`.
    """
    end = time.monotonic() + rules.timeout_s
    with _exchange(check_url(url, rules, resolver), "POST", end, body, headers) as answer:
        return answer.status


def fetch_json(url: str, rules: UrlRules, resolver: Resolver = resolve, *, most_values: int = 100_000) -> Any:
    """JSON at `url`.

    Args:
        url: Of a client.
        rules: What may be fetched.
        resolver: Finds the host's addresses.
        most_values: Values that it may hold.

    Raises:
        InputError: As `fetch`; `url.failed` also when it is no JSON, or holds more values.
    """
    data = fetch(url, rules, resolver)
    refuse_many_values("the URL's JSON", data, most_values, "url.failed")
    try:
        return strict_json(data)
    except (ValueError, RecursionError) as error:
        raise InputError("url.failed", f"the URL holds no JSON: {str(error)[:200]}") from error


@contextmanager
def _exchange(
    target: Target, method: str, end: float, body: bytes | None, headers: Mapping[str, str]
) -> Iterator[urllib3.BaseHTTPResponse]:
    """One request and its answer, which are over by `end`: time-outs of single reads let a host send a byte now and then.

    Raises:
        InputError: `url.failed`, also for what the caller reads of the answer.
    """
    pool = _pool(target, max(0.1, end - time.monotonic()))
    deadline = _Deadline(end)
    pool.ConnectionCls = deadline.watching(pool.ConnectionCls)
    default = 443 if target.scheme == "https" else 80
    name = f"[{target.host}]" if ":" in target.host else target.host
    sent = {"Host": name if target.port == default else f"{name}:{target.port}", "User-Agent": "gapray", **headers}
    try:
        with deadline:
            answer = pool.urlopen(
                method,
                target.path,
                body=body,
                headers=sent,
                redirect=False,
                preload_content=False,
                assert_same_host=False,
            )
            try:
                deadline.check(target)  # a head that was cut off reads as one that ended
                yield answer
                deadline.check(target)
            finally:
                answer.close()
    except urllib3.exceptions.HTTPError as error:
        deadline.check(target)
        raise InputError("url.failed", f"{target.host}: {type(error).__name__}") from error


def _pool(target: Target, left_s: float) -> urllib3.HTTPConnectionPool:
    """Connects to the address that was checked; name and certificate stay those of the URL."""
    timeout = urllib3.Timeout(connect=min(10.0, left_s), read=left_s)
    options: dict[str, Any] = {"timeout": timeout, "retries": False, "maxsize": 1}
    if target.scheme == "https":
        return urllib3.HTTPSConnectionPool(
            target.address, target.port, server_hostname=target.host, assert_hostname=target.host, **options
        )
    return urllib3.HTTPConnectionPool(target.address, target.port, **options)


class _Deadline:
    """Cuts the connections of one exchange when its time is over."""

    def __init__(self, end: float) -> None:
        self._left_s = max(0.1, end - time.monotonic())
        self._timer = threading.Timer(self._left_s, self._cut)
        self._timer.daemon = True
        self._lines: list[socket.socket] = []
        self._over = threading.Event()

    def watching(self, kind: type[Any]) -> type[Any]:
        """A class of connections that is cut with the others."""
        lines = self._lines

        class Watched(kind):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                line: socket.socket = super()._new_conn()
                lines.append(line.dup())  # TLS takes the first one over, and its handshake counts too
                return line

        return Watched

    def check(self, target: Target) -> None:
        """Raise when the time is over.

        Raises:
            InputError: `url.failed`.
        """
        if self._over.is_set():
            raise InputError("url.failed", f"{target.host} took longer than {self._left_s:.3g} s")

    def _cut(self) -> None:
        self._over.set()
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for line in self._lines:
            line.close()


def _body(answer: urllib3.BaseHTTPResponse, target: Target, rules: UrlRules, left: int | None = None) -> bytes:
    data = bytearray()
    while chunk := answer.read1(_CHUNK, decode_content=True):
        data += chunk
        if len(data) > rules.max_bytes:
            raise InputError("url.failed", f"{target.host} sent more than {rules.max_bytes} bytes")
        if left is not None and len(data) > left:
            raise InputError("request.too_large", f"the URLs hold more bytes than a request may: {left} were left")
    return bytes(data)
