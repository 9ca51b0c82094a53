"""A zip at a URL is fetched when its job starts, and is treated like an uploaded one."""

import http.server
import io
import threading
import time
import zipfile

import cv2
import numpy as np
import pytest
import requests

from gapray.video.encode import encode_mp4
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
    """URL of a host that serves one zip per source, named by its index."""
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
            name = self.path.strip("/").removesuffix(".zip")
            self.wfile.write(content[int(name)] if name.isdigit() else next(iter(photos.values())))

        def log_message(self, *_):
            pass

    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("fetching"), worker="pipeline", urls={"private": ["127.0.0.0/8"]}) as server:
        yield server


@pytest.mark.parametrize("source", SOURCES)
def test_files_other_than_photos_are_reported(server, archives, source):
    _, expected = SOURCES[source]
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
    assert [warning for warning in answer["gap"]["warnings"] if warning.startswith("ignored")] == expected


def finished(server, kind, answer):
    assert "id" in answer, answer
    deadline = time.monotonic() + 120
    while answer["status"] not in ("completed", "failed") and time.monotonic() < deadline:
        time.sleep(0.1)
        answer = requests.get(f"{server.url}/v1/{kind}/{answer['id']}", timeout=20).json()
    return answer


@pytest.fixture(scope="module")
def clip(photos):
    turn = [cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for photo in photos.values()]
    return encode_mp4(np.stack(turn), fps=8)


@pytest.mark.parametrize("kind", ["videos", "packages", "scores"])
def test_a_zip_at_a_url_is_accepted_for_every_kind_of_job(server, archives, clip, lpips_alex, kind):
    sent = {"views": f"{archives}/1.zip", "direction": "cw", "score": "false"}
    files = {"video": ("turn.mp4", clip)} if kind == "scores" else {"x": ("", b"")}
    query = "" if kind == "videos" else "?wait=0"  # videos are always made in the background
    first = requests.post(f"{server.url}/v1/{kind}{query}", data=sent, files=files, timeout=20).json()
    answer = finished(server, kind, first)
    assert answer["status"] == "completed", answer
    facts = answer.get("gap", answer)
    assert facts["azimuths_by"] == "degrees" and "ignored: 3 (1 .md, 1 .txt, 1 system)" in facts["warnings"]
    if kind == "packages":
        hashes = {view["azimuth_deg"]: view["sha256"] for view in answer["package"]["views"]}
        plain = finished(
            server,
            kind,
            requests.post(f"{server.url}/v1/{kind}?wait=0", data=sent | {"direction": "ccw"}, timeout=20).json(),
        )
        mirrored = {-view["azimuth_deg"] % 360: view["sha256"] for view in plain["package"]["views"]}
        assert hashes == mirrored and len(hashes) == 8, "what the request says of names holds for names in the zip"


def test_a_url_of_a_single_photo_is_refused(server, archives):
    """A URL with a photo's file name is refused at once; any other may lead to a zip, so that only the job can fail."""
    refused = requests.post(f"{server.url}/v1/videos", data={"views": f"{archives}/mug_000.jpg"}, timeout=20)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "capture.missing_views")
    answer = requests.post(f"{server.url}/v1/videos", data={"views": f"{archives}/photo"}, timeout=20).json()
    answer = finished(server, "videos", answer)
    assert (answer["status"], answer["error"]["code"]) == ("failed", "capture.missing_views"), answer


def test_azimuths_are_refused_with_a_zip(server, archives, photos):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in photos.items():
            archive.writestr(name, data)
    sent = {"files": {"views": ("mug.zip", sink.getvalue())}, "data": {"azimuths": "0,45,90,135,180,225,270,315"}}
    answer = requests.post(f"{server.url}/v1/packages", **sent, timeout=20)
    assert answer.status_code == 400 and "`azimuths` says nothing of a zip" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["packages", "scores"])
def test_fields_without_effect_are_reported(server, photos, clip, kind):
    """Packages and scores render no video: a request for frames or a seed is a mistake."""
    files = [("views", (name, data)) for name, data in photos.items()]
    files += [("video", ("turn.mp4", clip))] * (kind == "scores")
    asked = {"num_frames": "36", "seed": "3", "size": "64x64", "product_id": "mug", "colour": "red"}
    answer = requests.post(f"{server.url}/v1/{kind}?wait=0", files=files, data=asked, timeout=20).json()
    assert answer["ignored"] == ["colour", "frames", "seed", "size"]


def test_two_different_videos_are_refused(server, photos, clip):
    files = [*(("views", (name, data)) for name, data in photos.items()), ("video", ("a.mp4", clip))]
    answer = requests.post(f"{server.url}/v1/scores", files=[*files, ("video", ("b.mp4", clip + b"0"))], timeout=20)
    assert answer.status_code == 400 and "2 videos came" in answer.json()["error"]["message"]
