"""Limits on the size and the speed of request bodies, applied while they arrive."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import Message, Receive

from gapray.errors import InputError
from gapray.serve.settings import Limits
from gapray.serve.text import count_values

_LENGTH = re.compile(r"[0-9]{1,18}")


def refuse_content_length(value: str, limits: Limits) -> None:
    """Refuse a body whose `content-length` header announces too many bytes.

    Raises:
        InputError: `request.too_large`.
    """
    if _LENGTH.fullmatch(value) and int(value) > limits.body_bytes:
        raise _too_large(limits)


def limit_body(receive: Receive, limits: Limits, on_bytes: Callable[[int], None] = lambda _: None) -> Receive:
    """Wrap an ASGI `receive` to refuse bodies that are too large or arrive too slowly.

    Args:
        receive: Returns the next message of the request.
        limits: Limits on the body.
        on_bytes: Called with the number of bytes in each message.

    Returns:
        The wrapped function. It raises InputError (`request.too_large` or `request.too_slow`) and whatever `on_bytes` raises.
    """
    started, received, complete = time.monotonic(), 0, False

    async def limited_receive() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()  # only the client's disconnection can follow
        left = started + limits.body_s + received / limits.body_bytes_s - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, left))
        except TimeoutError:
            progress = f"{received} bytes of the body came within {time.monotonic() - started:.0f} s"
            raise InputError("request.too_slow", progress) from None
        complete = not message.get("more_body", False)
        received += len(message.get("body", b""))
        on_bytes(len(message.get("body", b"")))
        if received > limits.body_bytes:
            raise _too_large(limits)
        return message

    return limited_receive


def _too_large(limits: Limits) -> InputError:
    return InputError("request.too_large", f"the body is larger than {limits.body_bytes} bytes")


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
