"""A zip that lies at a URL is fetched when its job begins, and is told of like one that was sent."""

import http.server
import io
import threading
import time
import zipfile

import pytest
import requests

from tests.serve.conftest import served

SOURCES = {
    "photos alone": ({}, []),
    "notes and a system's folder": (
        {"mug/notes.txt": b"as shot", "__MACOSX/mug/._a.png": b"x", "readme.md": b"read"},
        ["ignored: 3 (1 .md, 1 .txt, 1 system)"],
    ),
}


@pytest.fixture(scope="module")
def archives(photos):
    """URL of a host of one zip a source, below its number."""
    content = []
    for beside, _ in SOURCES.values():
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            for name, data in ({f"mug/{name}": data for name, data in photos.items()} | beside).items():
                archive.writestr(name, data)
        content.append(sink.getvalue())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content[int(self.path.strip("/").removesuffix(".zip"))])

        def log_message(self, *_):
            pass

    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("fetching"), worker="pipeline", urls={"private": ["127.0.0.0/8"]}) as found:
        yield found


@pytest.mark.parametrize("source", SOURCES)
def test_what_lies_beside_the_photos_is_told(server, archives, source):
    _, told = SOURCES[source]
    sent = {
        "views": [{"url": f"{archives}/{list(SOURCES).index(source)}.zip"}],
        "prompt": "a mug",
        "scene": "marble-kitchen",
    }
    answer = requests.post(f"{server.url}/v1/images/generations?wait=0", json=sent, timeout=20).json()
    assert "id" in answer, answer
    deadline = time.monotonic() + 120
    while answer["status"] not in ("completed", "failed") and time.monotonic() < deadline:
        time.sleep(0.1)
        answer = requests.get(f"{server.url}/v1/images/{answer['id']}", timeout=20).json()
    assert answer["status"] == "completed", answer
    assert [one for one in answer["gap"]["warnings"] if one.startswith("ignored")] == told
