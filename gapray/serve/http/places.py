"""Places: how many requests one process answers at once, and how many of them, and how much of their bodies, one key may have.

A request that waits, streams or sends its body slowly keeps its place. Health checks need none.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from starlette.types import Scope

from gapray.errors import ServeError
from gapray.serve.keys import ANYBODY

WITHOUT = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths of those who watch the server."""
BESIDE = 20
"""Requests that Ray Serve lets through beside those that have places: these are for `WITHOUT`, and for refusals."""
_HOLDER = "holder"
"""In a request's state: the id of the key that its place is counted for."""
_BYTES = "bytes"
"""In a request's state: how much of its body is counted for that key."""


class Places:
    """The places of one process. Used on its event loop only."""

    def __init__(self, most: int, of_one_key: int, bytes_of_one_key: int) -> None:
        self._most, self._of_one_key, self._bytes_of_one_key = most, of_one_key, bytes_of_one_key
        self._taken = 0
        self._held: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def taken(self, scope: Scope) -> Iterator[None]:
        """A place for a request, until it is answered.

        Raises:
            ServeError: `serve.busy` when there is none.
        """
        if scope["path"] in WITHOUT:
            yield
            return
        if self._taken >= self._most:
            raise ServeError("serve.busy", f"{self._most} requests are at work")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            if (holder := scope["state"].get(_HOLDER)) is not None:
                self._held[holder] -= 1
                self._held += Counter()  # forgets those that have none
                self._bytes[holder] -= scope["state"].get(_BYTES, 0)
                self._bytes += Counter()

    def hold(self, scope: Scope, key_id: str) -> None:
        """Count a request's place for the key that turns out to ask. Without keys there is but one tenant, who may have all.

        Raises:
            ServeError: `rate.exceeded` when the key has as many as it may.
        """
        if scope["path"] in WITHOUT or _HOLDER in scope["state"]:
            return
        if key_id != ANYBODY.id and self._held[key_id] >= self._of_one_key:
            raise ServeError("rate.exceeded", f"this key may have {self._of_one_key} requests at once")
        self._held[key_id] += 1
        scope["state"][_HOLDER] = key_id

    def arrived(self, scope: Scope, count: int) -> None:
        """Count bytes of a request's body for its key, until the request is answered.

        Raises:
            ServeError: `rate.exceeded` when the key's requests hold more than they may.
        """
        holder = scope["state"].get(_HOLDER, ANYBODY.id)
        if holder == ANYBODY.id:
            return
        scope["state"][_BYTES] = scope["state"].get(_BYTES, 0) + count
        self._bytes[holder] += count
        if self._bytes[holder] > self._bytes_of_one_key:
            raise ServeError("rate.exceeded", f"this key may send {self._bytes_of_one_key} bytes at once")

    def turn(self, scope: Scope) -> asyncio.Lock:
        """To be held while a body is read, by one request of a key at a time."""
        return self._turns.setdefault(scope["state"].get(_HOLDER, ANYBODY.id), asyncio.Lock())
