"""A request's body as it arrives: no larger and no slower than it may be."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from starlette.types import Message, Receive

from gapray.errors import InputError
from gapray.serve.settings import Limits

_LENGTH = re.compile(r"[0-9]{1,18}")


def refuse_long(said: str, limits: Limits) -> None:
    """Refuse a body by the length that its header `content-length` says.

    Raises:
        InputError: `request.too_large`.
    """
    if _LENGTH.fullmatch(said) and int(said) > limits.body_bytes:
        raise _too_large(limits)


def bounded(receive: Receive, limits: Limits, arrived: Callable[[int], None] = lambda _: None) -> Receive:
    """`receive`, which refuses what is too large or comes too slowly.

    Args:
        receive: The next message of the request.
        limits: Of the body.
        arrived: Told how many bytes of the body came.

    Raises:
        InputError: `request.too_large` or `request.too_slow`, when the body is read.
        ServeError: What `arrived` raises.
    """
    began, seen, whole = time.monotonic(), 0, False

    async def bounded_receive() -> Message:
        nonlocal seen, whole
        if whole:
            return await receive()  # what comes now is that the caller goes
        left = began + limits.body_s + seen / limits.body_bytes_s - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, left))
        except TimeoutError:
            slow = f"{seen} bytes of the body came within {time.monotonic() - began:.0f} s"
            raise InputError("request.too_slow", slow) from None
        whole = not message.get("more_body", False)
        seen += len(message.get("body", b""))
        arrived(len(message.get("body", b"")))
        if seen > limits.body_bytes:
            raise _too_large(limits)
        return message

    return bounded_receive


def _too_large(limits: Limits) -> InputError:
    return InputError("request.too_large", f"the body is larger than {limits.body_bytes} bytes")
