"""Servers without keys: foreign web pages can do nothing, and creating a key takes effect while the server runs."""

import http.server
import json
import threading
import time
from contextlib import contextmanager

import httpx
import openai
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from gapray.errors import InputError
from gapray.serve.http.browsers import refuse_host, refuse_origin
from gapray.serve.keys import create, revoke
from tests.serve.conftest import served

EVIL = "https://evil.example"
FOREIGN = [
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    {"referer": f"{EVIL}/page"},
    {"referer": "http://[broken"},
]
ASKED = [
    ("GET", "/v1/videos"),
    ("GET", "/v1/models"),
    ("GET", "/openapi.json"),
    ("GET", "/metrics"),
    ("GET", "/v2/any/health"),
    ("POST", "/v1/videos"),
    ("POST", "/v1/packages"),
    ("POST", "/v1/scores"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v2/any/run"),
    ("POST", "/v2/any/purge-queue"),
    ("POST", "/graphql"),
    ("POST", "/"),
    ("DELETE", f"/v1/videos/video_{'0' * 32}"),
    ("HEAD", "/v1/videos"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server as `gapray serve` starts it on the loopback before a key is created."""
    with served(tmp_path_factory.mktemp("keyless"), worker="none", open=False, open_until_keyed=True) as server:
        yield server


def ask(server, method, path, **headers):
    return requests.request(method, server.url + path, headers=headers, timeout=10)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_every_request_of_another_origin_is_refused(server, headers):
    for method, path in ASKED:
        answer = ask(server, method, path, **headers)
        assert answer.status_code == 403, (method, path)
        assert answer.headers["x-request-id"]
        if path.startswith("/v1") and method != "HEAD":
            assert answer.json()["error"]["code"] == "request.origin_refused" and answer.json()["error"]["remedy"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost.evil.example:{port}", "127.0.0.1.nip.io"]
)
def test_dns_rebinding_is_refused(server, host):
    port = server.url.rpartition(":")[2]
    for method, path in [*ASKED, ("GET", "/"), ("GET", "/assets/app.js")]:
        # A page of that name calls its own server: for the browser both have one origin.
        name = host.format(port=port)
        answer = ask(server, method, path, host=name, origin=f"http://{name}", **{"sec-fetch-site": "same-origin"})
        assert answer.status_code == 403, (method, path)
        if path.startswith("/v1") and method != "HEAD":
            assert answer.json()["error"]["code"] == "request.host_refused"


def test_a_refused_request_changes_nothing(server, form):
    before = server.context.store.counts()
    for headers in FOREIGN:
        assert requests.post(f"{server.url}/v1/videos", files=form, headers=headers, timeout=10).status_code == 403
    assert server.context.store.counts() == before


def test_programs_and_the_server_s_own_page_are_accepted(server, form):
    own = {"sec-fetch-site": "same-origin", "origin": server.url, "referer": server.url + "/"}
    for headers in ({}, own, {"sec-fetch-mode": "cors"}, {"sec-fetch-site": "none"}, {"referer": server.url + "/"}):
        assert requests.get(f"{server.url}/v1/videos", headers=headers, timeout=5).status_code == 200, headers
    assert requests.post(f"{server.url}/v1/videos", files=form, headers=own, timeout=10).status_code == 200
    port = server.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert ask(server, "GET", "/v1/videos", host=host).status_code == 200, host
    assert httpx.get(f"{server.url}/v1/videos").status_code == 200
    assert openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0).videos.list().data


def test_a_link_leads_to_the_page(server):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "referer": f"{EVIL}/"}
    assert ask(server, "GET", "/", **link).status_code == 200


def test_health_checks_are_answered_under_any_name(server):
    for path in ("/healthz", "/readyz"):
        assert ask(server, "GET", path, host="gapray.default.svc").status_code == 200


def test_named_origins_are_accepted_and_keys_replace_the_check(tmp_path):
    shop = "https://shop.example"
    with served(tmp_path, worker="none", open=False, open_until_keyed=True, cors_origins=(shop,)) as found:
        asked = {"origin": shop, "sec-fetch-site": "cross-site"}
        assert ask(found, "GET", "/v1/videos", **asked).headers["access-control-allow-origin"] == shop
        assert (
            ask(found, "GET", "/v1/videos", referer=f"{shop}/x", **{"sec-fetch-site": "cross-site"}).status_code == 200
        )
        refused = ask(found, "GET", "/v1/videos", origin=EVIL)
        assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers
        _, secret = create(found.context.store.engine, "proxy")
        wait_for(lambda: ask(found, "GET", "/v1/videos").status_code == 401)
        behind = ask(found, "GET", "/v1/videos", host="api.example", origin=EVIL, authorization=f"Bearer {secret}")
        assert behind.status_code == 200, "a reverse proxy has a name of its own, and the key protects"


@pytest.mark.parametrize(
    ("bound", "host", "taken"),
    [
        (("127.0.0.1", 8000), "localhost:8000", True),
        (("127.0.0.1", 8000), "LOCALHOST:8000", True),
        (("127.0.0.1", 8000), "127.0.0.1:8000", True),
        (("127.0.0.1", 8000), "[::1]:8000", True),
        (("127.0.0.1", 8000), "127.0.0.1:8001", False),
        (("127.0.0.1", 8000), "localhost", False),
        (("127.0.0.1", 80), "localhost", True),
        (("127.0.0.1", 8000), "10.0.0.4:8000", False),
        (("127.0.0.1", 8000), "0.0.0.0:8000", False),
        (("127.0.0.1", 8000), "2130706433:8000", False),
        (("127.0.0.1", 8000), "localhost.:8000", False),
        (("127.0.0.1", 8000), "evil@localhost:8000", False),
        (("127.0.0.1", 8000), "localhost:8000/evil", False),
        (("127.0.0.1", 8000), "render.lan:8000", True),
        (("0.0.0.0", 8000), "10.0.0.4:8000", True),
        (("0.0.0.0", 8000), "10.0.0.4:9000", True),  # a published port of a container
        (("0.0.0.0", 8000), "gapray:8000", True),  # a service of docker compose
        (("0.0.0.0", 8000), "2130706433:8000", False),
        (("127.0.0.1", 8000), "gapray:8000", False),
        (("0.0.0.0", 8000), "gpu.example:8000", False),
        (("gpu.example", 8000), "gpu.example:8000", True),
        (None, "localhost:1234", True),
        (None, "10.0.0.4", True),
        (None, "evil.example", False),
        (None, "", False),
    ],
)
def test_names_of_a_server(bound, host, taken):
    if taken:
        refuse_host([host], ["render.lan:8000"], bound)
        with pytest.raises(InputError):
            refuse_host([host, host], [], bound)
        return
    with pytest.raises(InputError) as error:
        refuse_host([host], ["render.lan:8000"], bound)
    assert error.value.code == "request.host_refused"


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.-]{1,20}(:[0-9]{1,6})?", fullmatch=True))
def test_no_domain_name_is_accepted(host):
    try:
        refuse_host([host], [], ("127.0.0.1", 8000))
    except InputError as error:
        assert error.code == "request.host_refused"
    else:
        assert host.lower() == "localhost:8000" or host.startswith(("127.", "[")), host


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_random_text_is_accepted_as_an_own_origin(origin, referer):
    headers = Headers(raw=[(b"host", b"localhost:8000"), (b"origin", origin.encode()), (b"referer", referer.encode())])
    said = headers["origin"] or headers["referer"]
    try:
        refuse_origin("GET", "/v1/videos", headers, ())
    except InputError as error:
        assert error.code == "request.origin_refused"
    else:
        assert not said or "localhost:8000" in said


# ---- a real browser


@contextmanager
def attacker(target):
    """Serve a page of another origin that tries to make, list and purge jobs at `target`."""
    script = f"""
      const form = new FormData(); form.append("prompt", "x");
      const asked = [
        fetch("{target}/v1/videos", {{ method: "POST", body: form, mode: "no-cors" }}),
        fetch("{target}/v2/any/purge-queue", {{ method: "POST", mode: "no-cors" }}),
        fetch("{target}/v2/any/run", {{ method: "POST", body: "{{}}", mode: "no-cors" }}),
        fetch("{target}/v1/videos").then((answer) => answer.text()),
      ];
      Promise.allSettled(asked).then((all) => {{ document.title = JSON.stringify(all.map((one) => one.status)); }});
    """
    page = f"<img src='{target}/v1/videos'><form id=f method=post action='{target}/v2/any/purge-queue'></form><script>{script}</script>"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()


def test_a_browser_can_only_use_the_server_s_own_page(server, form, chromium):
    video = requests.post(f"{server.url}/v1/videos", files=form, timeout=10).json()["id"]
    context = chromium.new_context()
    page = context.new_page()
    refused = []
    page.on("response", lambda answer: refused.append(answer.status) if answer.url.startswith(server.url) else None)
    with attacker(server.url) as url:
        page.goto(url)
        page.wait_for_function("document.title !== ''")
        assert json.loads(page.title())[-1] == "rejected", "what a page of another origin asked for was read"
        page.evaluate("document.getElementById('f').submit()")
        page.wait_for_url(f"{server.url}/**")
    assert len(refused) >= 4 and set(refused) == {403}
    assert requests.get(f"{server.url}/v1/videos/{video}", timeout=5).json()["status"] == "queued"
    page.goto(server.url)
    assert page.evaluate("fetch('/v1/videos').then((answer) => answer.status)") == 200
    assert page.evaluate("fetch('/v2/any/health').then((answer) => answer.status)") == 200
    made = page.evaluate("fetch('/v2/any/purge-queue', { method: 'POST' }).then((answer) => answer.status)")
    assert made == 200, "the page at / is the server's own"
    context.close()


# ---- keys on a running server


def wait_for(done, seconds=10.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_creating_a_key_ends_keyless_access_for_good(tmp_path):
    with served(tmp_path, worker="none", open=False, open_until_keyed=True) as found:
        assert ask(found, "GET", "/v1/videos").status_code == 200
        key, secret = create(found.context.store.engine, "first")
        wait_for(lambda: ask(found, "GET", "/v1/videos").status_code == 401)
        assert ask(found, "GET", "/v1/videos", authorization=f"Bearer {secret}").status_code == 200
        revoke(found.context.store.engine, key.id)
        wait_for(lambda: ask(found, "GET", "/v1/videos", authorization=f"Bearer {secret}").status_code == 401)
        assert ask(found, "GET", "/v1/videos").json()["error"]["code"] == "auth.missing"
    with served(tmp_path, worker="none", open=False, open_until_keyed=True) as found:
        assert ask(found, "GET", "/v1/videos").status_code == 401, "a restart opens nothing again"


@pytest.mark.parametrize("keyed", [True, False], ids=["a key is revoked", "the first key is made"])
def test_streams_and_waits_end_when_access_is_revoked(tmp_path, form, keyed):
    with served(tmp_path, worker="none", open=False, open_until_keyed=True) as found:
        engine, headers = found.context.store.engine, {}
        if keyed:
            key, secret = create(engine, "gone")
            headers = {"authorization": f"Bearer {secret}"}
            wait_for(lambda: ask(found, "GET", "/v1/videos").status_code == 401)
        video = requests.post(f"{found.url}/v1/videos", files=form, headers=headers, timeout=10).json()["id"]
        ended = {}

        def events():
            with requests.get(
                f"{found.url}/v1/videos/{video}/events", headers=headers, stream=True, timeout=60
            ) as told:
                ended["events"] = b"done" in b"".join(told.iter_content(None))

        def waits(name, path, **sent):
            ended[name] = requests.post(found.url + path, headers=headers, timeout=60, **sent).status_code

        job = video.removeprefix("video_")
        threads = [
            threading.Thread(target=events, daemon=True),
            threading.Thread(
                target=waits, args=("packages", "/v1/packages?wait=50"), kwargs={"files": form}, daemon=True
            ),
            threading.Thread(target=waits, args=("status-sync", f"/v2/any/status-sync/{job}?wait=50000"), daemon=True),
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: found.context.store.counts()["queued"] == 2)
        assert not ended
        revoke(engine, key.id) if keyed else create(engine, "first")
        for thread in threads:
            thread.join(20)  # far less than any of them would have lasted
        assert ended == {"events": False, "packages": 401, "status-sync": 401}
