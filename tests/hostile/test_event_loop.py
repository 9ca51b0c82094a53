"""Large bodies are parsed and hashed off the event loop, so that health checks are answered meanwhile."""

import base64
import concurrent.futures
import json
import time

import pytest
import requests

from gapray.serve.front import find_haproxy, free_port, run_front
from tests.serve.conftest import served

LONGEST_S = 4.0
"""Longest latency of a health check on a busy machine [s]; with parsing on the event loop it was ten."""

MANY = b'{"input": {"x": [' + b"1," * (15 * 2**20) + b"1]}}"
DEEP = b'{"input": ' + b'{"a":' * 90_000 + b"1" + b"}" * 90_000 + b"}"
OBJECTS = json.dumps({"input": {"multiview_manifest": {"views": [{"a": "b" * 300}] * 45_000}}}).encode()
PICTURES = json.dumps(
    {
        "input": {
            "images": [{"data": base64.b64encode(bytes(5 * 2**20)).decode(), "azimuth_deg": 45 * k} for k in range(8)]
        }
    }
).encode()
DOUBLED = json.dumps({"input": {f"k{at}": 0 for at in range(90_000)}}).encode().replace(b'"k89999"', b'"k89998"')
"""The last of 90,000 names is a duplicate: counting each name separately would take minutes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("loop"), worker="none") as server:
        yield server


@pytest.mark.parametrize(
    "body", [MANY, DEEP, OBJECTS, PICTURES, DOUBLED], ids=["values", "nested", "objects", "pictures", "doubled"]
)
def test_neighbours_are_answered_while_json_is_parsed(server, body):
    path = "/v2/gap/run"
    json_type = {"content-type": "application/json"}
    with concurrent.futures.ThreadPoolExecutor(2) as beside:
        posts = [
            beside.submit(requests.post, server.url + path, data=body, headers=json_type, timeout=60) for _ in "ab"
        ]
        longest = longest_health_check(server, posts)
    assert {answer.result().status_code for answer in posts} == {400}, [answer.result().text[:200] for answer in posts]
    print(f"longest {longest:.2f} s")
    assert longest < LONGEST_S


def part(head, content):
    return b"--frontier\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"


FILE = b'name="input_reference[]"; filename="a.jpg"'
QUOTES = b"".join(part(FILE + b';"' * 1000 + b";" * 1900, b"a") for _ in range(70))
"""Python's parser of such headers takes quadratic time."""
WORDS = b"".join(part(b'name="input_reference[]"; filename="' + b"=?a?q?" * 650 + b'"', b"a") for _ in range(70))
ENCODED = part(FILE + b"\r\nContent-Transfer-Encoding: base64", b" \nQUFB" * 7_000_000)
TEXT = part(b'name="prompt"', "\u0416".encode() * 20_000_000)
FORMS = {"quotes": QUOTES, "encoded words": WORDS, "base64": ENCODED, "a long text": TEXT}


@pytest.mark.parametrize("form", FORMS)
def test_neighbours_are_answered_while_forms_are_read(server, form):
    body, kind = FORMS[form] + b"--frontier--\r\n", {"content-type": "multipart/form-data; boundary=frontier"}
    with concurrent.futures.ThreadPoolExecutor(2) as beside:
        posts = [
            beside.submit(requests.post, f"{server.url}/v1/videos", data=body, headers=kind, timeout=60) for _ in "ab"
        ]
        longest = longest_health_check(server, posts)
    assert {answer.result().status_code for answer in posts} == {400}, [answer.result().text[:200] for answer in posts]
    print(f"longest {longest:.2f} s")
    assert longest < LONGEST_S


def longest_health_check(server, posts):
    """Ask for the server's health until the requests are answered; returns the longest latency [s]."""
    longest = 0.0
    while not all(answer.done() for answer in posts):
        begun = time.monotonic()
        assert requests.get(server.url + "/healthz", timeout=30).status_code == 200
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.01)
    return longest


def test_json_that_is_too_large_is_refused_by_its_size(server):
    kind = {"content-type": "application/json"}
    answer = requests.post(f"{server.url}/v1/videos", data=b'{"prompt": "' + b"x" * (65 * 2**20) + b'"}', headers=kind)
    assert answer.status_code == 413 and str(64 * 2**20) in answer.text


@pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy for this system")
@pytest.mark.parametrize(
    ("data", "status"),
    [(b'{"views": [' + b'"eA==",' * 6_000_000 + b"1]}", 400), (b'{"prompt": "' + b"x" * (65 * 2**20) + b'"}', 413)],
    ids=["values", "bytes"],
)
def test_a_client_that_sends_everything_before_reading_gets_the_error(server, data, status):
    """If the rest of the body were not read, the connection would be reset."""
    port = free_port()
    with run_front("127.0.0.1", port, int(server.url.rpartition(":")[2])):
        kind = {"content-type": "application/json"}
        answer = requests.post(f"http://127.0.0.1:{port}/v1/videos", data=data, headers=kind, timeout=60)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_neighbours_are_answered_while_percent_signs_are_read(server, kind):
    """Decoding millions of them takes long; on the event loop, or in one call, it would block all other requests."""
    only_gapray_errors = b"%41" * (7 * 2**20)
    body = b'{"views": ["' + only_gapray_errors + b'"]}' if "json" in kind else b"views=" + only_gapray_errors
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        post = beside.submit(
            requests.post, f"{server.url}/v1/videos", data=body, headers={"content-type": kind}, timeout=60
        )
        longest = 0.0
        while not post.done():
            begun = time.monotonic()
            assert requests.get(server.url + "/healthz", timeout=30).status_code == 200
            longest = max(longest, time.monotonic() - begun)
            time.sleep(0.01)
    assert post.result().status_code == 400, post.result().text[:200]
    print(f"longest {longest:.2f} s")
    assert longest < LONGEST_S
