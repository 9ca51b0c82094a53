"""Limits on concurrent requests: of a process, and of each key, whose requests and body bytes in flight are counted.

A request that waits, streams or sends its body slowly keeps its slot. Health checks need none.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.types import Scope

from gapray.errors import ServeError
from gapray.serve.keys import ANONYMOUS
from gapray.serve.threads import in_thread

_BODY_THREADS = ThreadPoolExecutor(4, "bodies")
"""Threads that parse, decode and hash whole bodies."""
EXEMPT_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths for monitoring, which need no slot."""
RESERVED_REQUESTS = 20
"""Requests that Ray Serve lets through in addition to the slots: for `EXEMPT_PATHS`, and for requests that are refused."""
_HOLDER = "holder"
"""Member of a request's state: the id of the key that its slot is counted for."""
_BYTES = "bytes"
"""Member of a request's state: the number of body bytes that are counted for that key."""


class RequestSlots:
    """The request slots of one process. May be used on its event loop only.

    Args:
        total: Maximum number of concurrent requests.
        per_key: Maximum number of concurrent requests of one key.
        bytes_per_key: Maximum total size of the bodies of one key's concurrent requests.
    """

    def __init__(self, total: int, per_key: int, bytes_per_key: int) -> None:
        self._total, self._per_key, self._bytes_per_key = total, per_key, bytes_per_key
        self._taken = 0
        self._held: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._body_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def take(self, scope: Scope) -> Iterator[None]:
        """Take a slot until the request is answered.

        Raises:
            ServeError: `serve.busy` if none is free.
        """
        if scope["path"] in EXEMPT_PATHS:
            yield
            return
        if self._taken >= self._total:
            raise ServeError("serve.busy", f"{self._total} requests are at work")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            if (holder := scope["state"].get(_HOLDER)) is not None:
                self._held[holder] -= 1
                self._held += Counter()  # drops entries of zero
                self._bytes[holder] -= scope["state"].get(_BYTES, 0)
                self._bytes += Counter()

    def assign(self, scope: Scope, key_id: str) -> None:
        """Count a request's slot for its key, once that is known. A server without keys has one tenant, who may use all slots.

        Raises:
            ServeError: `rate.exceeded` if the key already has `per_key` requests.
        """
        if scope["path"] in EXEMPT_PATHS or _HOLDER in scope["state"]:
            return
        if key_id != ANONYMOUS.id and self._held[key_id] >= self._per_key:
            raise ServeError("rate.exceeded", f"this key may have {self._per_key} requests at once")
        self._held[key_id] += 1
        scope["state"][_HOLDER] = key_id

    def count_body_bytes(self, scope: Scope, count: int) -> None:
        """Count bytes of a request's body for its key, until the request is answered.

        Raises:
            ServeError: `rate.exceeded` if the key's requests together exceed `bytes_per_key`.
        """
        holder = scope["state"].get(_HOLDER, ANONYMOUS.id)
        if holder == ANONYMOUS.id:
            return
        scope["state"][_BYTES] = scope["state"].get(_BYTES, 0) + count
        self._bytes[holder] += count
        if self._bytes[holder] > self._bytes_per_key:
            raise ServeError("rate.exceeded", f"this key may send {self._bytes_per_key} bytes at once")

    def body_lock(self, scope: Scope) -> asyncio.Lock:
        """Return the lock that allows one request of a key at a time to parse its body."""
        return self._body_locks.setdefault(scope["state"].get(_HOLDER, ANONYMOUS.id), asyncio.Lock())


async def run_per_key(request: Request, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a function over a whole body in a thread, one at a time for each key.

    C code over a large text keeps other threads from running for up to 0.2 s. Several such calls at once would block the event
    loop one after the other, and the bodies of one key would occupy all threads.
    """
    async with request.app.state.slots.body_lock(request.scope):
        return await in_thread(_BODY_THREADS, function, *args, **kwargs)
