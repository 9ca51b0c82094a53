"""Thousands of bad requests: each is answered with a code and never with 5xx, and no memory leaks."""

import gc
import json
import random
from contextlib import suppress

import psutil
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error


def test_the_openapi_document_finds_no_5xx(idle_server):
    """schemathesis generates valid and invalid requests for every operation of the document."""
    schema = schemathesis.openapi.from_url(idle_server.url + "/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 31
    asked = []

    def ask(case):
        asked.append(case)
        case.call_and_validate(checks=[not_a_server_error], timeout=20)

    quick = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)
            with suppress(Unsatisfiable):  # a request without parameters cannot be invalid
                quick(given(case=strategy)(lambda case: ask(case)))()
    assert len(asked) > 300


def bad_bodies(photos, count, seed):
    """Generate damaged requests: (path, body, content type)."""
    rng = random.Random(seed)
    boundary = "gapray-test"
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="input_reference[]"; filename="{name}"\r\n\r\n'.encode()
        + data
        for name, data in photos.items()
    ]
    multipart = b"\r\n".join(parts) + f"\r\n--{boundary}--\r\n".encode()
    document = json.dumps(
        {"input": {"views": ["aGVsbG8="] * 8, "frames": 8}, "views": [{"azimuth": 0, "b64": "eA=="}]}
    ).encode()
    kinds = [
        (multipart, f"multipart/form-data; boundary={boundary}"),
        (document, "application/json"),
        (b"prompt=x&views=%00&size=1x1", "application/x-www-form-urlencoded"),
    ]
    paths = ["/v1/videos", "/v1/packages", "/v1/scores", "/v1/images/edits", "/v2/e/run", "/graphql"]
    for _ in range(count):
        body, kind = rng.choice(kinds)
        damaged = bytearray(body)
        for _ in range(rng.randint(1, 12)):
            at = rng.randrange(len(damaged))
            what = rng.random()
            if what < 0.5:
                damaged[at] = rng.randrange(256)
            elif what < 0.75:
                del damaged[at : at + rng.randint(1, 200)]
            else:
                damaged[at:at] = rng.choice(
                    [b"\0", b"\xff\xfe", b"{{", b"[" * 50, b"\r\n--" + boundary.encode(), b'"', b"1e999"]
                )
            damaged = damaged or bytearray(b"x")
        if rng.random() < 0.1:
            kind = rng.choice(
                [
                    "",
                    "text/html",
                    "multipart/form-data",
                    "multipart/form-data; boundary=" + "x" * 300,
                    "application/json; charset=utf-99",
                ]
            )
        yield rng.choice(paths), bytes(damaged), kind


def test_six_hundred_damaged_bodies(idle_server, photos):
    statuses = {}
    with requests.Session() as session:
        for path, body, kind in bad_bodies(photos, 600, seed=7):
            answer = session.post(idle_server.url + path, data=body, headers={"content-type": kind}, timeout=20)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (path, kind, body[:200], answer.text)
            answer.json()
    assert sum(statuses.values()) == 600 and statuses.get(400, 0) > 100, statuses


def test_memory_stays_flat_over_two_thousand_requests(idle_server, photos):
    process = psutil.Process()
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    bodies = list(bad_bodies(photos, 100, seed=3))
    with requests.Session() as session:

        def ask(count):
            for index in range(count):
                if index % 40 == 0:
                    video = session.post(idle_server.url + "/v1/videos", files=form, timeout=20).json()["id"]
                    session.delete(f"{idle_server.url}/v1/videos/{video}", timeout=20)
                elif index % 4 == 0:
                    path, body, kind = bodies[index % len(bodies)]
                    session.post(idle_server.url + path, data=body, headers={"content-type": kind}, timeout=20)
                else:
                    session.get(f"{idle_server.url}/v1/videos/{video}", timeout=20)
            gc.collect()

        ask(500)
        before = process.memory_info().rss
        ask(2000)
        grown = process.memory_info().rss - before
    assert grown < 24 * 2**20, f"{grown / 2**20:.1f} MiB"
