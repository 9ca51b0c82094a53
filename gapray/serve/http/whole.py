"""Whole bodies: read within limits, and worked on off the event loop, one body of a key at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request

from gapray.errors import InputError
from gapray.serve.text import count_values
from gapray.serve.threads import in_thread

_BODY_THREADS = ThreadPoolExecutor(4, "bodies")


async def read_limited(request: Request, what: str, max_bytes: int, max_values: int | None = None) -> bytearray:
    """Read a body within limits.

    The rest of a body beyond them is read and discarded, because most clients read no answer before they have sent everything.

    Raises:
        InputError: `request.invalid` or `request.too_large`.
    """
    data, values, error = bytearray(), 1, None
    async for part in request.stream():
        if error is not None:
            continue
        data += part
        values += count_values(part)
        if len(data) > max_bytes:
            error = InputError("request.too_large", f"the {what} is larger than {max_bytes} bytes")
        elif max_values is not None and values > max_values:
            error = InputError("request.invalid", f"the body holds more than {max_values} values")
        if error is not None:
            data.clear()
    if error is not None:
        raise error
    return data


async def run_per_key(request: Request, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a function over a whole body in a thread, one at a time for each key.

    C code over a large text keeps other threads from running for up to 0.2 s. Several such calls at once would block the event
    loop one after the other, and the bodies of one key would occupy all threads.
    """
    async with request.app.state.slots.body_lock(request.scope):
        return await in_thread(_BODY_THREADS, function, *args, **kwargs)
