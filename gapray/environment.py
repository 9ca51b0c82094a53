"""Changes to the environment of this process that are undone afterwards, because it belongs to the caller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def preserved_environment(**defaults: str) -> Iterator[None]:
    """Set environment variables for processes started inside the block, such as Ray's, and restore all variables afterwards.

    Args:
        defaults: Variable -> value; a variable that the caller has set keeps its value.
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
