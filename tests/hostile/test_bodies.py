"""Bodies that are hard to parse: surrogates, huge numbers and deep nesting, in JSON and in multipart forms."""

import random
from collections import Counter
from urllib.parse import urlencode

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from gapray.serve.http import bodies, forms
from tests.serve.conftest import idle_server  # noqa: F401
from tests.serve.test_values import FIELDS

PATHS = ["/v1/videos", "/v1/packages", "/v1/scores", "/v1/images/edits?wait=0", "/v1/images/generations?wait=0"]
PATHS += ["/v2/e/run", "/v2/e/runsync?wait=1", "/graphql"]
TEXTS = [
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '"\\u0000"',
    '"\U0001f9ca"',
    '"a"',
    '""',
    '"' + "x" * 3000 + '"',
    '"\ufeff"',
    '"e\u0301"',
]
NUMBERS = [
    "1e999",
    "-1e-999",
    "1" * 5000,
    "0." + "1" * 5000,
    "-0",
    "1E400",
    "NaN",
    "-Infinity",
    "9" * 19,
    "0x10",
    "01",
    "1_0",
]
BROKEN = ["{", "[", '"', "\\", ",,", ":", "\x00", "tru", "]}", "/*"]
BYTES = [
    b"\xed\xa0\x80",
    b"\xff\xfe",
    b"\xc0\xaf",
    b"\x00",
    "²".encode(),
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 500,
]


def value(rng, depth=0):
    """Generate JSON, or something close to it."""
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(BROKEN)
    if kind < 0.06:
        deep = rng.choice([60, 500, 990, 5000])
        return rng.choice(["[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep, "[" * deep])
    if kind < 0.35:
        return rng.choice(TEXTS)
    if kind < 0.65:
        return rng.choice(NUMBERS)
    if kind < 0.75 or depth > 3:
        return rng.choice(["true", "null", "[]", "{}", '"eA=="'])
    inner = [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if kind < 0.88:
        return "[" + ",".join(inner) + "]"
    return "{" + ",".join(f"{name(rng)}:{item}" for item in inner) + "}"


def name(rng):
    return f'"{rng.choice(FIELDS)}"' if rng.random() < 0.8 else rng.choice(TEXTS)


def document(rng):
    members = ",".join(f"{name(rng)}:{value(rng)}" for _ in range(rng.randint(1, 5)))
    views = ',"views":[' + ",".join(['"eA=="'] * 8) + "]" if rng.random() < 0.5 else ""
    text = "{" + members + views + "}"
    text = '{"input":' + text + "}" if rng.random() < 0.3 else text
    encoding = rng.choice(["utf-8"] * 8 + ["utf-16", "utf-32"])
    return text.encode(encoding), "application/json"


def form(rng, photos):
    """Generate a multipart form with arbitrary names, file names, types and contents."""
    lines = []
    for _ in range(rng.randint(1, 8)):
        field = rng.choice(FIELDS).encode() if rng.random() < 0.8 else rng.choice(BYTES)[:200]
        head = b'--b\r\nContent-Disposition: form-data; name="' + field + b'"'
        if rng.random() < 0.4:
            head += b'; filename="' + rng.choice([*BYTES, b"mug_045.png", b"../../x", b"a" * 300])[:400] + b'"'
        if rng.random() < 0.3:
            head += b"\r\nContent-Type: " + rng.choice(
                [b"image/png", b"application/json", b"\xff", b"text/plain; charset=utf-99"]
            )
        content = rng.choice([rng.choice(BYTES), value(rng).encode(), rng.choice(list(photos.values()))])
        lines.append(head + b"\r\n\r\n" + content)
    end = b"\r\n--b--\r\n" if rng.random() < 0.9 else b"\r\n--b"
    return b"\r\n".join(lines) + end, "multipart/form-data; boundary=b"


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=pytest.mark.night)])
def test_no_body_causes_a_server_error(idle_server, photos, count):  # noqa: F811
    rng, statuses = random.Random(count), Counter()
    with requests.Session() as session:
        for _ in range(count):
            data, kind = document(rng) if rng.random() < 0.5 else form(rng, photos)
            path = rng.choice(PATHS)
            answer = session.post(idle_server.url + path, data=data, headers={"content-type": kind}, timeout=30)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (path, kind, data[:300], answer.text[:300])
            answer.json()
    print("\nanswers:", dict(sorted(statuses.items())))
    assert statuses[400] > count // 4
    for path in ("/v1/videos?limit=100", "/healthz"):
        assert requests.get(idle_server.url + path, timeout=20).status_code == 200


@given(
    pairs=st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=20),
    step=st.sampled_from([4, 5, 2**18]),
)
def test_any_url_encoded_form_is_decoded(pairs, step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "_STEP", step)
        assert forms._split_pairs(bytearray(urlencode(pairs).encode()), 20) == pairs


def sent_form(server, head, content=b"a", kind="multipart/form-data; boundary=b"):
    """POST a multipart form of one part; returns the status and the error's message."""
    body = b"--b\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n--b--\r\n"
    answer = requests.post(f"{server.url}/v1/videos", data=body, headers={"content-type": kind}, timeout=30)
    return answer.status_code, answer.json()["error"]["message"]


def test_headers_that_take_long_to_parse_are_refused(idle_server):  # noqa: F811
    photo = b'name="input_reference[]"; filename="a.jpg"'
    for head in (photo + b';"' * 40, photo + b";" * 40, photo + b"; x=" + b"y" * 4100):
        status, message = sent_form(idle_server, head)
        assert status == 400 and "Content-Disposition" in message, message
    status, message = sent_form(idle_server, photo, kind='multipart/form-data; boundary=b;"' + ';"' * 40)
    assert status == 400 and "Content-Type" in message, message


def test_the_longest_file_names_are_read(idle_server):  # noqa: F811
    """255 characters of UTF-8, percent-encoded beside a plain name with semicolons."""
    head = b'name="input_reference[]"; filename="a;b;c.jpg"; filename*=UTF-8\'\'' + b"%E2%82%AC" * 251 + b"_045.jpg"
    status, message = sent_form(idle_server, head)
    assert status == 400 and "Content-Disposition" not in message, message


def test_a_long_text_is_refused_before_it_is_complete(idle_server, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bodies, "refuse_unusable", None)  # nothing looks at the text any more
    status, message = sent_form(idle_server, b'name="prompt"', b"x" * 5_000_000)
    assert status == 400 and "prompt holds more than 32000 characters" in message
