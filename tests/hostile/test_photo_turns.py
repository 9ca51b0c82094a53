"""The photos of one key are checked one request at a time, in threads that no other work needs."""

import asyncio
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gapray.errors import InputError, ServeError, as_gapray_error
from gapray.serve.http import context as of_requests
from gapray.serve.http.context import Context
from gapray.serve.http.failures import status_of
from gapray.serve.incoming import IncomingPhoto
from gapray.serve.jobs import GenerationParams
from gapray.serve.keys import ANONYMOUS
from tests.serve.conftest import settings_in


def run(work):
    """Run a coroutine in a thread of its own: the browser of other tests keeps an event loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


MANY = 40
"""More requests than asyncio has threads of its own (at most 32)."""


@pytest.fixture
def context(tmp_path):
    return Context.of(settings_in(tmp_path))


def submitted(context, owner):
    photos = [IncomingPhoto(name=owner, data=b"photo")]
    key = replace(ANONYMOUS, id=owner)
    return context.accept(key, api="native", kind="package", params=GenerationParams(), photos=photos)


def test_slow_headers_of_one_key_delay_nobody_else(context, monkeypatch):
    go_on, at_work, most = threading.Event(), [], []

    def check(photos, **_):
        if photos[0].name == "hostile":
            at_work.append(1)
            most.append(len(at_work))
            go_on.wait(60)
            at_work.pop()
        raise InputError("image.truncated", f"the photos of {photos[0].name}")

    async def attack():
        hostile = [asyncio.create_task(submitted(context, "hostile")) for _ in range(MANY)]
        while not at_work:
            await asyncio.sleep(0.01)
        try:
            status = await asyncio.wait_for(context.call(context.store.counts), 20)
            with pytest.raises(InputError, match="neighbour"):
                await asyncio.wait_for(submitted(context, "neighbour"), 20)
        finally:
            go_on.set()
        return status, await asyncio.gather(*hostile, return_exceptions=True)

    monkeypatch.setattr(of_requests, "prepare_upload", check)
    status, answers = run(attack())
    assert status["queued"] == 0
    assert most == [1] * MANY
    assert [str(error) for error in answers] == ["the photos of hostile [image.truncated]"] * MANY


class Photos:
    """Stands for what fills the memory."""


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_fills_the_memory_is_released_before_the_error_is_passed_on(context, wrapped):
    """Otherwise the error cannot be passed on to the event loop: the thread ends, and the request gets no answer."""
    held = []

    def work():
        photos = Photos()
        held.append(weakref.ref(photos))
        try:
            raise MemoryError
        except MemoryError as error:
            if wrapped:
                raise ValueError("a decoder failed") from error
            raise

    async def answer():
        with pytest.raises(ServeError) as error:
            await context.call(work)
        return error.value.code, held[0]()

    assert run(answer()) == ("job.out_of_memory", None)


def test_a_lack_of_memory_is_answered_by_503():
    assert status_of(as_gapray_error(MemoryError())) == 503
