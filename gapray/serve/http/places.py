"""Places: how many requests one process answers at once, and how many of them one key may have.

A request that waits, streams or sends its body slowly keeps its place. Health checks need none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from gapray.errors import ServeError
from gapray.serve.keys import ANYBODY

WITHOUT = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths of those who watch the server."""
BESIDE = 20
"""Requests that Ray Serve lets through beside those that have places: these are for `WITHOUT`, and for refusals."""
_HOLDER = "holder"
"""In a request's state: the id of the key that its place is counted for."""


class Places:
    """The places of one process. Used on its event loop only."""

    def __init__(self, most: int, of_one_key: int) -> None:
        self._most, self._of_one_key = most, of_one_key
        self._taken = 0
        self._held: Counter[str] = Counter()

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
