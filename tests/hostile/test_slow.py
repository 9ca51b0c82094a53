"""Slow bodies, endless streams and waiting callers: each key has its own share of the request slots."""

import concurrent.futures
import contextlib
import json
import select
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
import requests

from gapray.serve.front import find_haproxy, free_port, run_front
from tests.serve.conftest import served

SHARE = 3
QUICK = {
    "open": False,
    "limits": {"body_s": 1, "body_bytes_s": 16384, "at_once_per_key": SHARE, "wait_s": 2},
    "ingress": {"ongoing": 8, "cpus": 0.25},
}


@pytest.fixture
def server(tmp_path):
    with served(tmp_path, worker="none", **QUICK) as server:
        yield server


def open_slow_request(server, who="writer", path="/v1/videos", kind="application/json", length=2**20):
    """Open a connection and send the beginning of a body."""
    where = urlsplit(server.url)
    line = socket.create_connection((where.hostname, where.port), timeout=20)
    lines = [f"POST {path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Type: {kind}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in server.headers(who).items()]
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' if "multipart" in kind else b"{"
    line.sendall("\r\n".join([*lines, "", ""]).encode() + part)
    return line


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_slow_body_is_cut_off(server, kind):
    begun = time.monotonic()
    with open_slow_request(server, kind=kind) as line:
        line.settimeout(0.1)
        reply = b""
        while not reply and time.monotonic() - begun < 15:
            with contextlib.suppress(TimeoutError):
                reply = line.recv(4096)
            with contextlib.suppress(OSError):
                line.sendall(b" ")
    assert reply.startswith(b"HTTP/1.1 408") and b"request.too_slow" in reply
    assert time.monotonic() - begun < 10


def test_a_slow_connection_is_accepted(server, photos):
    """The body takes two seconds and may take more than ten."""
    form = [("input_reference[]", (name, data + bytes(25_000), "image/png")) for name, data in photos.items()]
    whole = requests.Request("POST", server.url + "/v1/videos", files=form, headers=server.headers("writer")).prepare()
    step = len(whole.body) // 20

    def slowly():
        for start in range(0, len(whole.body), step):
            time.sleep(0.1)
            yield whole.body[start : start + step]

    headers = {name: value for name, value in whole.headers.items() if name != "Content-Length"}
    assert requests.post(server.url + "/v1/videos", data=slowly(), headers=headers, timeout=30).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_body_bytes_in_flight_per_key_are_limited(tmp_path, kind):
    """Unfinished bodies would fill the memory: each key may send four of the largest size at once."""
    limits = {"body_bytes": 2**20, "body_s": 60}
    with served(tmp_path, worker="none", open=False, limits=limits) as server:
        lines = [open_slow_request(server, kind=kind) for _ in range(6)]
        try:
            for line in lines:
                line.sendall(b" " * (2**20 - 1000))
            concluded = []
            end = time.monotonic() + 20
            while len(concluded) < 2 and time.monotonic() < end:
                concluded = select.select(lines, [], [], 0.1)[0]
            replies = [line.recv(4096) for line in concluded]
            assert len(replies) == 2 and all(reply.startswith(b"HTTP/1.1 429") for reply in replies), replies
            body = {"prompt": "x", "views": [" " * (2**20 - 1000)]}
            neighbour = requests.post(server.url + "/v1/videos", json=body, headers=server.headers("other"), timeout=10)
            assert neighbour.status_code == 400
            for line in lines:
                line.close()
            end = time.monotonic() + 10
            while (
                requests.post(
                    server.url + "/v1/videos", json=body, headers=server.headers("writer"), timeout=10
                ).status_code
                != 400
            ):
                assert time.monotonic() < end, "bytes were not given back"
        finally:
            for line in lines:
                line.close()


def test_request_slots_per_key_are_limited(server, photos):
    lines = [open_slow_request(server) for _ in range(3 * SHARE)]
    time.sleep(0.5)
    try:
        assert requests.get(server.url + "/healthz", timeout=2).status_code == 200
        refused = requests.get(server.url + "/v1/videos", headers=server.headers("writer"), timeout=2)
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate.exceeded"
        assert int(refused.headers["retry-after"]) > 0
        form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
        neighbour = requests.post(server.url + "/v1/videos", files=form, headers=server.headers("other"), timeout=10)
        assert neighbour.status_code == 200
    finally:
        for line in lines:
            line.close()
    end = time.monotonic() + 10
    while requests.get(server.url + "/v1/videos", headers=server.headers("writer"), timeout=5).status_code != 200:
        assert time.monotonic() < end, "a place was not given back"
        time.sleep(0.1)


def test_health_checks_are_answered_when_all_slots_are_taken(server):
    lines = [open_slow_request(server, who) for who in ("writer", "other", "admin") for _ in range(SHARE)]
    time.sleep(0.5)
    try:
        response = requests.get(server.url + "/v1/videos", headers=server.headers("reader"), timeout=2)
        assert response.status_code == 503 and response.json()["error"]["code"] == "serve.busy"
        for path in ("/healthz", "/readyz"):
            assert requests.get(server.url + path, timeout=2).status_code == 200
    finally:
        for line in lines:
            line.close()


def test_slots_are_released_however_a_request_ends(server):
    for _ in range(4 * SHARE):
        for path, wanted in (("/v1/videos/video_" + "0" * 32, 404), ("/v1/models/none", 404), ("/nothing", 404)):
            assert requests.get(server.url + path, headers=server.headers("writer"), timeout=5).status_code == wanted
        assert requests.post(server.url + "/v1/videos", headers=server.headers("writer"), data=b"x").status_code == 415
        assert requests.get(server.url + "/v1/videos", timeout=5).status_code == 401
    assert requests.get(server.url + "/v1/videos", headers=server.headers("writer"), timeout=5).status_code == 200


def test_a_stream_ends_at_its_limit_and_can_be_resumed(server, photos):
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    video = requests.post(server.url + "/v1/videos", files=form, headers=server.headers("writer"), timeout=20).json()
    for _ in range(2):
        begun = time.monotonic()
        with requests.get(
            f"{server.url}/v1/videos/{video['id']}/events", headers=server.headers("writer"), stream=True, timeout=20
        ) as stream:
            text = b"".join(stream.iter_content(None)).decode()
        assert 1 < time.monotonic() - begun < 15
        [data] = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        assert json.loads(data)["video"]["status"] == "queued"


@pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy for this system")
def test_abandoned_streams_release_their_slots(tmp_path, photos):
    """Also behind HAProxy, which by default keeps reading the response: a page that is reloaded would lock itself out."""
    settings = QUICK | {"limits": QUICK["limits"] | {"wait_s": 120}}
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    with served(tmp_path, worker="none", **settings) as server:
        port = free_port()
        with run_front("127.0.0.1", port, int(server.url.rpartition(":")[2])):
            url, headers = f"http://127.0.0.1:{port}", server.headers("writer")
            video = requests.post(url + "/v1/videos", files=form, headers=headers, timeout=20).json()["id"]
            lines = []
            for _ in range(SHARE):
                lines.append(socket.create_connection(("127.0.0.1", port), timeout=20))
                said = [
                    f"GET /v1/videos/{video}/events HTTP/1.1",
                    f"Host: 127.0.0.1:{port}",
                    f"Authorization: {headers['authorization']}",
                ]
                lines[-1].sendall("\r\n".join([*said, "", ""]).encode())
            end = time.monotonic() + 30

            def status():
                assert time.monotonic() < end
                time.sleep(0.1)
                return requests.get(url + "/v1/videos", headers=headers, timeout=20).status_code

            while status() != 429:
                pass
            for line in lines:
                line.close()
            while status() != 200:
                pass


def test_streams_count_as_requests(server, photos):
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    video = requests.post(server.url + "/v1/videos", files=form, headers=server.headers("writer"), timeout=20).json()
    place = f"{server.url}/v1/videos/{video['id']}/events"
    gate = threading.Barrier(4 * SHARE)

    def watch(_):
        gate.wait()
        with requests.get(place, headers=server.headers("writer"), stream=True, timeout=20) as stream:
            next(stream.iter_content(None), None)
            status = stream.status_code
            time.sleep(0.5)
        return status

    with concurrent.futures.ThreadPoolExecutor(4 * SHARE) as many:
        found = list(many.map(watch, range(4 * SHARE)))
    assert found.count(200) <= 2 * SHARE and found.count(429) >= 2 * SHARE, found
