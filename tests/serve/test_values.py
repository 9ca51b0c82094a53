"""Wrong values in every field of every API are answered with a 4xx code, never with 5xx, and lists stay readable."""

import json
import random

import pytest
import requests

from gapray.serve.http.fields import PARAM_FIELDS

DEEP = 990
"""The deepest nesting that Python's JSON parser can read."""
VALUES = [
    *("²", "²x²", "１２", "-0", "1e999", "NaN", "Infinity", "0x10", "1_0", " ", "\0", "\ud800", "a" * 70_000, "%00", "{", "[[", "..", "🧊"),
    *(10**400, -(10**400), 1e308, -1, 0, 2**63, 2**64, True, None, [], {}, [[]], [{}], {"a": {"b": []}}, [10**400], [None]),
    *({"azimuth": 10**400, "b64": "eA=="}, {"name": ["x"], "b64": "eA=="}, {"10" * 300: "eA=="}),
]  # fmt: skip
FIELDS = sorted(
    PARAM_FIELDS
    | {"size", "azimuths", "front", "direction", "names", "closing_frame", "allow_missing", "model", "webhook", "n"}
    | {"views", "images", "depth_image", "reference_image", "manifest", "manifest_b64", "manifest_url", "scene"}
    | {"response_format", "output_format", "quality", "package", "extra_body", "user"}
)
PATHS = {
    "/v1/videos": lambda given: given,
    "/v1/packages": lambda given: given,
    "/v1/scores": lambda given: given,
    "/v1/images/edits?wait=0": lambda given: given,
    "/v1/images/generations?wait=0": lambda given: given,
    "/v2/e/run": lambda given: {"input": given},
}


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


SESSION = requests.Session()


def ask(server, path, given):
    # `json.dumps` writes big numbers in full and lone surrogates as escapes.
    data = json.dumps(PATHS[path](given))
    answer = SESSION.post(server.url + path, data=data, headers={"content-type": "application/json"}, timeout=30)
    assert answer.status_code < 500, (path, data[:200], answer.text[:300])
    assert answer.status_code < 300 or answer.json()["error"]
    return answer


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/images/edits?wait=0", "/v2/e/run"])  # one of each reader of fields
def test_no_value_of_any_field_causes_a_server_error(idle_server, path):
    for name in FIELDS:
        for value in VALUES:
            ask(idle_server, path, {"prompt": "p", "views": ["eA=="] * 8, name: value})
    assert requests.get(f"{idle_server.url}/v1/videos?limit=100", timeout=20).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_nesting_is_limited(idle_server, path):
    for depth in (50, 500, DEEP, 5_000):
        text = '{"input": {"prompt": %s, "views": %s}, "views": %s}'
        lists = ["[" * depth + "]" * depth] * 3
        for data in (text % tuple(lists), json.dumps({"views": json.dumps(nested(min(depth, 900)))})):
            headers = {"content-type": "application/json"}
            answer = requests.post(idle_server.url + path, data=data, headers=headers, timeout=30)
            assert 400 <= answer.status_code < 500, (path, depth, answer.text[:300])


def test_two_thousand_requests_of_many_wrong_fields(idle_server, photos):
    rng = random.Random(11)
    views = [{"name": name, "b64": "eA=="} for name in photos]
    for _ in range(1_000):
        given = {rng.choice(FIELDS): rng.choice(VALUES) for _ in range(rng.randint(1, 6))}
        ask(idle_server, rng.choice(list(PATHS)), {"views": views} | given)
    with requests.Session() as session:
        for _ in range(1_000):
            texts = [value for value in VALUES if isinstance(value, str) and value != "\ud800"]
            form = [(rng.choice(FIELDS), rng.choice(texts)) for _ in range(rng.randint(1, 6))]
            files = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
            path = rng.choice([path for path in PATHS if path.startswith("/v1")])
            answer = session.post(idle_server.url + path, data=form, files=files[: rng.randint(0, 8)], timeout=30)
            assert answer.status_code < 500, (path, form, answer.text[:300])
    assert requests.get(f"{idle_server.url}/v1/videos?limit=100", timeout=20).status_code == 200


@pytest.mark.parametrize("said", ["bytes=0-" + "9" * 5_000, "bytes=" + "9" * 5_000 + "-", "bytes=²-", "bytes=-²"])
def test_ranges_of_absurd_length(guarded_server, form, said):
    headers = guarded_server.headers() | {"range": said.encode("latin-1")}
    answer = requests.get(f"{guarded_server.url}/v1/videos/video_{'0' * 32}/content", headers=headers, timeout=20)
    assert answer.status_code == 404


@pytest.mark.parametrize("change", ["name", "field", "kind"])
def test_an_idempotency_key_belongs_to_one_request(idle_server, photos, change):
    """The same photos with other angles, in another field or for another kind of job are another request."""
    headers = {"idempotency-key": f"key-{change}"}
    named = list(photos.items())
    first = [("input_reference[]", (name, data, "image/png")) for name, data in named]
    other, path = first, "/v1/videos"
    if change == "name":
        names = [name for name, _ in named[1:]] + [named[0][0]]
        other = [("input_reference[]", (name, data)) for name, (_, data) in zip(names, named, strict=True)]
    elif change == "field":
        other = [("views[]", file) for _, file in first]
    else:
        path = "/v1/packages"
    made = requests.post(f"{idle_server.url}/v1/videos", files=first, headers=headers, timeout=20)
    again = requests.post(f"{idle_server.url}/v1/videos", files=first, headers=headers, timeout=20)
    assert made.json()["id"] == again.json()["id"]
    refused = requests.post(idle_server.url + path, files=other, headers=headers, timeout=20)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request.idempotency_mismatch")
