"""Threads: work beside an event loop, which must go on when memory runs out; and the threads of torch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from gapray.errors import as_gapray_error, is_out_of_memory

_P = ParamSpec("_P")
_R = TypeVar("_R")


def releasing_memory(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function; if memory runs out, release what the function holds before the error is passed on.

    The traceback of a `MemoryError` holds the function's frames, and they hold what has filled the memory. Passing such an error from a
    thread to the event loop takes memory as well: `concurrent.futures` fails to, its thread ends, and the caller waits for ever.

    Raises:
        ServeError: `job.out_of_memory`.
        Exception: What else the function raises.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Raised outside of the block, whose end has released the error and its frames.
    raise as_gapray_error(MemoryError())


async def in_thread(executor: Executor | None, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a blocking function in a thread of `executor`, or of the event loop's own threads (None).

    Raises:
        ServeError: `job.out_of_memory` if memory runs out.
        Exception: What else the function raises.
    """
    call = partial(releasing_memory, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(executor, copy_context().run, call)


def use_threads(count: int) -> None:
    """Set the number of torch's CPU threads for the calling thread.

    OpenMP keeps this number per thread, and Ray starts its processes with one.
    """
    import torch

    torch.set_num_threads(count)
