"""The environment of this process, which belongs to whoever calls gapray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def environment_kept(**defaults: str) -> Iterator[None]:
    """Environment variables for what is started inside, such as Ray's processes; afterwards all variables are as they were.

    Args:
        defaults: Variable -> value, where the caller has set none.
    """
    before = dict(os.environ)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in {*before, *os.environ}:
            if name not in before:
                del os.environ[name]
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]
