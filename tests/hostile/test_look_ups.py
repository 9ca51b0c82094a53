"""Host names that take long to look up, or that only exist in the internal network."""

import concurrent.futures
import socket
import time

import pytest
import requests

from gapray.errors import InputError
from gapray.serve import urls
from gapray.serve.settings import UrlRules
from tests.serve.conftest import served

NEIGHBOUR_S = 3.0
"""Longest time of a POST while thirty look-ups hang for ten seconds each [s]; alone it takes a tenth of a second."""


@pytest.fixture
def hanging(monkeypatch):
    """Make look-ups of names under `.slow` take ten seconds."""
    look_up = socket.getaddrinfo

    def slow(host, *rest, **named):
        if str(host).endswith(".slow"):
            time.sleep(10)
        return look_up("127.0.0.1" if str(host).endswith(".slow") else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)


def test_a_look_up_has_a_deadline(hanging, monkeypatch):
    monkeypatch.setattr(urls, "LOOK_UP_S", 0.3)
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        urls.check_url("http://a.slow/x.jpg", UrlRules())
    assert error.value.code == "url.refused" and time.monotonic() - begun < 2


def test_the_hosts_of_one_request_share_a_deadline(hanging, monkeypatch):
    monkeypatch.setattr(urls, "LOOK_UP_S", 0.2)
    begun = time.monotonic()
    with pytest.raises(InputError):
        urls.check_urls([f"http://{number}.slow/" for number in range(50)], UrlRules(timeout_s=1))
    assert time.monotonic() - begun < 3


def test_a_host_is_looked_up_once_per_request():
    asked = []

    def resolver(host, port):
        asked.append(host)
        return ["93.184.216.34"]

    urls.check_urls([f"https://shop.example/{number}.jpg" for number in range(72)], UrlRules(), resolver)
    assert asked == ["shop.example"]


def test_internal_names_are_not_revealed():
    def told(addresses):
        with pytest.raises(InputError) as error:
            urls.check_url("http://payroll.internal/", UrlRules(), lambda host, port: addresses)
        return error.value.code, error.value.message

    def missing(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with pytest.raises(InputError) as error:
        urls.check_url("http://payroll.internal/", UrlRules(), missing)
    assert told(["10.1.2.3"]) == told([]) == (error.value.code, error.value.message)


def test_hanging_look_ups_block_nobody_else(hanging, tmp_path, photos):
    views = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    with served(tmp_path, worker="none") as server, concurrent.futures.ThreadPoolExecutor(30) as many:

        def post(data):
            return requests.post(f"{server.url}/v1/videos", files=views, data=data, timeout=60)

        assert post({}).status_code == 200
        waiting = [many.submit(post, {"webhook": f"https://{number}.slow/done"}) for number in range(30)]
        time.sleep(1)
        for _ in range(3):
            begun = time.monotonic()
            assert post({}).status_code == 200
            assert time.monotonic() - begun < NEIGHBOUR_S
        assert {answer.result().status_code for answer in waiting} == {400}
