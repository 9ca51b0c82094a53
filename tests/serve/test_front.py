"""HAProxy in front of a server: limits on the size, number and duration of headers, and on a client's connections."""

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
import requests

from gapray.errors import ConfigError
from gapray.serve.front import ACCEPTED_HEADER, ADDRESS_CONNECTIONS, HEAD_S, find_haproxy, free_port, run_front
from tests.serve.conftest import served

pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy for this system")


@pytest.fixture(scope="module")
def fronted(tmp_path_factory):
    """A server without keys behind HAProxy: its URL, its address, and the running proxy."""
    with served(tmp_path_factory.mktemp("fronted"), worker="none") as server:
        port = free_port()
        with run_front("127.0.0.1", port, int(server.url.rpartition(":")[2])) as running:
            yield f"http://127.0.0.1:{port}", ("127.0.0.1", port), running


def talk(address, *parts, limit_s=30.0):
    """Send raw bytes, and return the reply until the other side closes the connection."""
    with socket.create_connection(address, timeout=limit_s) as line:
        try:
            for part in parts:
                line.sendall(part)
        except OSError:
            pass  # the response may come before everything is sent
        found = b""
        try:
            while more := line.recv(65536):
                found += more
        except ConnectionResetError:
            pass
    return found


def test_responses_pass_through_unchanged(fronted, photos):
    url, _, _ = fronted
    direct = requests.get(f"{url}/v1/models", timeout=20)
    assert direct.status_code == 200 and direct.headers["x-request-id"] and direct.json()["data"]
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    made = requests.post(f"{url}/v1/videos", files=form, timeout=20)
    assert made.status_code == 200 and requests.head(f"{url}{made.headers['location']}", timeout=20).status_code == 200
    chunked = requests.post(f"{url}/v1/videos", data=iter([b"x" * 70_000] * 20), timeout=20)
    assert chunked.status_code == 415


@pytest.mark.parametrize("path", ["/-/routes", "/-/healthz", "/%2D/routes", "/%2d%2froutes", "/-"])
def test_the_paths_of_ray_serve_are_not_for_clients(fronted, path):
    _, address, _ = fronted
    answer = talk(address, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ") and b'"request.not_found"' in answer
    assert b"x-request-id" not in answer.lower(), "the server was not asked"


@pytest.mark.parametrize("head", ["one of 20 kB", "many", "endless"])
def test_oversized_heads_are_refused(fronted, head):
    url, address, _ = fronted
    start = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
    more = {
        "one of 20 kB": [b"a: " + b"x" * 20_000 + b"\r\n\r\n"],
        "many": [b"".join(b"h%d: x\r\n" % at for at in range(500)) + b"\r\n"],
        "endless": [b"".join(b"h%d: %s\r\n" % (at, b"x" * 4000) for at in range(step, step + 10)) for step in range(0, 1000, 10)],
    }[head]  # fmt: skip
    reply = talk(address, start, *more)
    assert reply == b"" or reply.startswith(b"HTTP/1.1 400 "), reply[:200]
    if head != "endless":  # a client that keeps sending may be cut off before it reads
        assert reply
    assert requests.get(f"{url}/healthz", timeout=5).status_code == 200


def test_an_endless_head_is_cut_off_without_blocking_others(fronted):
    url, address, running = fronted
    before = psutil.Process(running.pid).memory_info().rss
    lines = [socket.create_connection(address) for _ in range(150)]
    for line in lines:
        line.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
    began = time.monotonic()
    assert requests.get(f"{url}/healthz", timeout=5).status_code == 200
    for _ in range(HEAD_S - 2):
        time.sleep(1)
        for line in lines[:50]:
            line.sendall(b"a: b\r\n")  # occasional headers do not extend the deadline
    lines[0].settimeout(10)
    reply = lines[0].recv(4096)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < HEAD_S + 5
    assert psutil.Process(running.pid).memory_info().rss - before < 32 * 2**20
    for line in lines:
        line.close()


def test_connections_per_address_are_limited(fronted):
    url, address, _ = fronted
    lines = [socket.create_connection(address) for _ in range(ADDRESS_CONNECTIONS + 1)]
    refused = requests.get(f"{url}/healthz", timeout=5)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate.exceeded")
    assert refused.headers["retry-after"]
    for line in lines:
        line.close()
    end = time.monotonic() + 5
    while requests.get(f"{url}/healthz", timeout=5).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_dead_proxy_is_restarted(fronted):
    url, _, running = fronted
    psutil.Process(running.pid).kill()
    psutil.Process(running.pid).wait(5)
    running.restart_if_dead()
    assert requests.get(f"{url}/healthz", timeout=5).status_code == 200


def test_an_unreachable_server_is_answered_with_503(tmp_path):
    port = free_port()
    with run_front("127.0.0.1", port, free_port()):
        answer = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "serve.unavailable")
    assert answer.headers["retry-after"]


def test_an_address_that_cannot_be_bound_is_named():
    with pytest.raises(ConfigError) as error, run_front("203.0.113.7", free_port(), free_port()):
        pass
    assert error.value.code == "serve.cannot_bind" and "203.0.113.7" in error.value.message


def test_a_flooding_key_is_limited_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("gapray.serve.front.KEY_REQUESTS", 20)
    with served(tmp_path, worker="none", open=False) as server:
        port = free_port()
        with run_front("127.0.0.1", port, int(server.url.rpartition(":")[2])):
            url = f"http://127.0.0.1:{port}/v1/videos"

            def ask(who):
                begun = time.monotonic()
                return requests.get(url, headers=server.headers(who), timeout=20), time.monotonic() - begun

            answers = [ask("writer") for _ in range(24)]
            statuses = [answer.status_code for answer, _ in answers]
            assert statuses == sorted(statuses) and statuses.count(200) in range(18, 23), statuses
            late, seconds = answers[-1]
            assert late.status_code == 429 and late.json()["error"]["code"] == "rate.exceeded" and seconds > 0.9
            assert ask("other")[0].status_code == 200 and ask("reader")[0].status_code == 200


@pytest.fixture
def keyed(tmp_path):
    """Return `keyed(**options_of_run_front)`, which yields the URL of a server with keys behind HAProxy, and the server."""

    @contextmanager
    def run(**named):
        with served(tmp_path, worker="none", open=False) as server:
            port = free_port()
            with run_front("127.0.0.1", port, int(server.url.rpartition(":")[2]), **named):
                yield f"http://127.0.0.1:{port}", server

    return run


def test_callers_without_a_key_are_limited_by_address(keyed, monkeypatch):
    monkeypatch.setattr("gapray.serve.front.ANONYMOUS_REQUESTS", 20)
    with keyed() as (url, server):

        def ask(key=None, path="/v1/videos"):
            headers = {"authorization": key} if isinstance(key, str) else key
            return requests.get(url + path, headers=headers, timeout=20)

        def flood():
            with ThreadPoolExecutor(24) as beside:
                return Counter(beside.map(lambda _: ask().status_code, range(24)))

        assert ask(server.headers("writer")).status_code == 200  # the front has now seen this key
        found = flood()
        assert found[401] in range(18, 23) and found[401] + found[429] == 24, found
        late = ask(path="/")
        assert late.status_code == 429 and late.headers["retry-after"]
        assert late.json()["error"]["code"] == "rate.exceeded" and late.json()["error"]["type"] == "rate_limit_error"
        body = ask(path="/v2/gap/status/x").json()  # in RunPod's form
        assert (body["id"], body["status"], body["code"]) == (None, "FAILED", "rate.exceeded")
        assert [ask(server.headers("writer")).status_code for _ in range(3)] == [200] * 3
        flood()
        # Unknown keys count as none, even if they change; a valid key that is new is accepted when it comes again.
        assert {ask(f"Bearer gap_{at}").status_code for at in range(2)} == {429}
        assert [ask("Bearer gap_0").status_code for _ in range(2)] == [401, 429]
        flood()
        assert [ask(server.headers("other")).status_code for _ in range(2)] == [429, 200]
        # Health checks are counted separately.
        assert [ask(path="/healthz").status_code for _ in range(10)] == [200] * 10
        assert 429 in [ask(path="/healthz").status_code for _ in range(15)]


@pytest.mark.parametrize(("path", "status"), [("/v1/videos", 401), ("/openapi.json", 200), ("/nothing", 404)])
@pytest.mark.parametrize("repeats", [1, 2])
def test_unknown_keys_count_as_no_key(keyed, monkeypatch, path, status, repeats):
    """Made-up keys exempt no request, wherever it goes and however often each is used."""
    monkeypatch.setattr("gapray.serve.front.ANONYMOUS_REQUESTS", 20)
    monkeypatch.setattr("gapray.serve.front.TRIED_KEYS", 2)
    with keyed() as (url, _):

        def ask(at):
            headers = {"authorization": f"Bearer gap_{at // repeats}"}
            return requests.get(url + path, headers=headers, timeout=20).status_code

        first = [ask(at) for at in range(20)]
        assert first == [status] * 20, first
        with ThreadPoolExecutor(8) as beside:  # refused requests wait for a second
            late = Counter(beside.map(ask, range(24, 56)))
        assert late[status] <= 4 and late[429] >= 28, late


def test_responses_do_not_say_how_keys_are_counted(keyed):
    with keyed() as (url, server):
        answer = requests.get(f"{url}/v1/videos", headers=server.headers(), timeout=20)
        assert answer.status_code == 200 and ACCEPTED_HEADER not in answer.headers
        assert requests.get(f"{server.url}/v1/videos", headers=server.headers(), timeout=20).headers[ACCEPTED_HEADER]


def test_a_key_with_many_refused_requests_is_limited(keyed, monkeypatch):
    monkeypatch.setattr("gapray.serve.front.KEY_REFUSALS", 10)
    with keyed() as (url, server):

        def post(who):
            return requests.post(
                f"{url}/v1/videos", json={"views": []}, headers=server.headers(who), timeout=20
            ).status_code

        statuses = [post("writer") for _ in range(14)]
        assert statuses == sorted(statuses) and statuses.count(400) in range(9, 13), statuses
        assert requests.get(f"{url}/v1/videos", headers=server.headers("writer"), timeout=20).status_code == 200
        assert post("other") == 400


def test_a_key_is_recognised_however_its_header_is_written(keyed, monkeypatch):
    monkeypatch.setattr("gapray.serve.front.KEY_REQUESTS", 20)
    with keyed() as (url, server):
        secret = server.headers("writer")["authorization"].removeprefix("Bearer ")
        written = [
            f"{scheme}{' ' * blanks}{secret}" for scheme in ("Bearer", "bearer", "BEARER") for blanks in range(1, 9)
        ]
        written += [f"Bearer \t{secret}", f"Bearer \xa0{secret}", f"Bearer  {secret}\x85", secret]
        statuses = [
            requests.get(f"{url}/v1/videos", headers={"authorization": value.encode("latin-1")}, timeout=20).status_code
            for value in written
        ]
        assert 200 in statuses[:20] and set(statuses[22:]) == {429}, statuses
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        head = f"GET /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\nauthorization: Bearer gap_other\r\n\r\n"
        assert talk(address, head.encode()).startswith(b"HTTP/1.1 400 ")


def test_http_2_is_not_supported(fronted):
    """One HTTP/2 connection would carry a hundred requests at once."""
    _, address, _ = fronted
    assert talk(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])).startswith(
        b"HTTP/1.1 400 "
    )


def test_health_checks_are_answered_even_to_a_flooding_key(keyed, monkeypatch):
    monkeypatch.setattr("gapray.serve.front.KEY_REQUESTS", 5)
    with keyed() as (url, server):
        headers = server.headers("writer")
        assert 429 in [requests.get(f"{url}/v1/videos", headers=headers, timeout=20).status_code for _ in range(8)]
        assert requests.get(f"{url}/healthz", headers=headers, timeout=20).status_code == 200


def test_concurrent_requests_per_key_are_limited(keyed):
    head = (
        "POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\nauthorization: "
    )
    with keyed(requests_per_key=3) as (url, server):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        lines = [socket.create_connection(address, timeout=20) for _ in range(3)]
        for line in lines:
            line.sendall(f"{head}{server.headers('writer')['authorization']}\r\n\r\n{{".encode())
        time.sleep(0.5)
        refused = requests.get(f"{url}/v1/videos", headers=server.headers("writer"), timeout=20)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate.exceeded")
        assert requests.get(f"{url}/v1/videos", headers=server.headers("other"), timeout=20).status_code == 200
        for line in lines:
            line.close()
        end = time.monotonic() + 10
        while requests.get(f"{url}/v1/videos", headers=server.headers("writer"), timeout=20).status_code != 200:
            assert time.monotonic() < end


def test_the_upload_rate_per_key_is_limited(keyed, monkeypatch):
    monkeypatch.setattr("gapray.serve.front.KEY_BYTES_S", 2**20)
    with keyed() as (url, server):

        def send(who):
            begun = time.monotonic()
            data = b'{"prompt": "' + b"x" * (4 * 2**20) + b'"}'
            kind = server.headers(who) | {"content-type": "application/json"}
            assert requests.post(f"{url}/v1/videos", data=data, headers=kind, timeout=60).status_code == 400
            return time.monotonic() - begun

        with ThreadPoolExecutor(2) as beside:
            took = list(beside.map(send, ["writer", "writer"]))
        assert max(took) > 5, took  # 8 MiB at 1 MiB/s, less what is buffered on the way
