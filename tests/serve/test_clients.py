"""Unmodified third-party clients against a server in this process."""

import base64
import http.server
import os
import subprocess
import sys
import threading
import warnings

import cv2
import pytest
import requests
from typer.testing import CliRunner

from gapray.cli.main import app
from tests.gap import prototype
from tests.serve.conftest import served

MODELS = ["gap-turntable", "gap-turntable-classic", "gap-stills", "gap-stills-classic"]


@pytest.fixture
def client(guarded_server):
    openai = pytest.importorskip("openai")
    warnings.simplefilter("ignore", DeprecationWarning)
    return openai.OpenAI(base_url=guarded_server.url + "/v1", api_key=guarded_server.secrets["writer"], max_retries=0)


@pytest.fixture
def zipped(photos, tmp_path):
    import io
    import zipfile

    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in photos.items():
            archive.writestr(name, data)
    return sink.getvalue()


def test_openai_create_poll_list_download_delete(client, zipped):
    video = client.videos.create_and_poll(
        prompt="a mug", model="gap-turntable", size="512x512", seconds="3", input_reference=("v.zip", zipped)
    )
    assert video.status == "completed" and video.progress == 100
    assert video.model_extra["gap"]["video"]["backend"] == "null"
    data = client.videos.download_content(video.id)
    assert data.read()[4:8] == b"ftyp"
    assert client.videos.retrieve(video.id).id == video.id
    pages = client.videos.list(limit=1)
    assert video.id in [item.id for item in pages]
    assert client.videos.delete(video.id).deleted
    assert [model.id for model in client.models.list()] == MODELS


def test_openai_many_files_and_extra_body(client, photos):
    files = [(name, data, "image/png") for name, data in photos.items()]
    video = client.videos.create(prompt="p", model="gap-turntable", input_reference=files)
    assert client.videos.poll(video.id).status == "completed"
    views = ["data:image/png;base64," + base64.b64encode(data).decode() for data in photos.values()]
    video = client.videos.create(
        prompt="p", model="gap-turntable", extra_body={"views": views, "num_frames": 8, "gap": {"x": 1}}
    )
    assert client.videos.poll(video.id).status == "completed"


def test_openai_errors_are_typed(client, guarded_server, zipped):
    import openai

    with pytest.raises(openai.NotFoundError) as error:
        client.videos.retrieve("video_" + "0" * 32)
    assert error.value.code == "job.not_found" and error.value.request_id
    with pytest.raises(openai.BadRequestError) as error:
        client.videos.create(prompt="p", model="gap-turntable")
    assert error.value.code == "request.no_photos"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=guarded_server.url + "/v1", api_key="gap_x_y").videos.list()
    with pytest.raises(openai.NotFoundError) as error:
        client.videos.remix("video_" + "0" * 32, prompt="p")
    assert error.value.code == "request.unsupported"


def test_webhooks_are_verified_by_openai_and_retried_with_one_id(tmp_path, photos):
    """Delivered to a real listener that fails at first; `client.webhooks` checks the signature."""
    import openai

    heard = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            heard.append((dict(self.headers), body))
            self.send_response(500 if len(heard) == 1 else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    with served(tmp_path, worker="null", urls={"private": ["127.0.0.0/8"]}) as server:
        form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
        url = f"http://127.0.0.1:{listener.server_port}/done"
        content = requests.post(server.url + "/v1/videos", files=form, data={"webhook": url}, timeout=10).json()
        for _ in range(200):
            if len(heard) == 2:
                break
            threading.Event().wait(0.05)
        secret = server.context.settings.webhook_secret
    listener.shutdown()
    assert len(heard) == 2
    assert len({headers["webhook-id"] for headers, _ in heard}) == 1
    client = openai.OpenAI(api_key="x", webhook_secret=secret)
    headers, body = heard[1]
    event = client.webhooks.unwrap(body, headers)
    assert event.type == "video.completed" and event.data.id == content["id"]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body + b" ", headers)


LITELLM = """
import litellm, os, sys, time
patience = float(os.environ.get("PATIENCE", "10"))
base, key, *paths = sys.argv[1:]
litellm.suppress_debug_info = True
for model in ("openai/gap-turntable", "hosted_vllm/gap-turntable"):
    video = litellm.video_generation(
        model=model, prompt="p", api_base=base, api_key=key, input_reference=open(paths[0], "rb"), seconds="3"
    )
    for _ in range(int(10 * patience)):
        found = litellm.video_status(video.id, api_base=base, api_key=key)
        if found.status in ("completed", "failed"):
            break
        time.sleep(0.1)
    assert found.status == "completed", found
    data = litellm.video_content(video.id, api_base=base, api_key=key)
    assert data[4:8] == b"ftyp", data[:20]
    print(model, "ok")
"""


def test_litellm(guarded_server, zipped, tmp_path):
    """In a separate process, because litellm looks for a price list on the network when it is imported."""
    pytest.importorskip("litellm")
    path = tmp_path / "views.zip"
    path.write_bytes(zipped)
    done = subprocess.run(
        [sys.executable, "-c", LITELLM, guarded_server.url + "/v1", guarded_server.secrets["writer"], str(path)],
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.count(" ok") == 2, done.stdout + done.stderr[-2000:]


RUNPOD = """
import base64, json, os, sys, time
url, key = sys.argv[1:]
manifest = open(os.environ["GAP_MANIFEST"], "rb").read()
patience = int(os.environ.get("PATIENCE", "30"))
os.environ["RUNPOD_API_BASE_URL"] = url
os.environ["RUNPOD_ENDPOINT_BASE_URL"] = url + "/v2"
import runpod
runpod.api_key = key
[endpoint] = [one for one in runpod.get_endpoints() if one["name"] == "gap-animatediff-video-sd15"]
assert endpoint["status"] == "RUNNING" and endpoint["workers"][0]["status"] == "RUNNING"
given = {"input": {"manifest_b64": base64.b64encode(manifest).decode(), "frames": 8, "steps": 25, "guidance": 7.5,
         "controlnet_scale": 0.6, "fps": 8, "format": "mp4", "reference_strength": 0.85, "prompt": "a mug"}}
client = runpod.Endpoint(endpoint["id"])
job = client.run(given)
assert job.output(timeout=patience)["status"] == "ok" and job.status() == "COMPLETED"
assert base64.b64decode(job.output()["video_b64"])[4:8] == b"ftyp"
assert client.run_sync(given, timeout=patience)["status"] == "ok"
streamed = list(client.run(given).stream())
assert streamed[-1]["status"] == "ok"
health = client.health()
assert health["jobs"]["completed"] >= 3, health
cancelled = client.run(given)
print(cancelled.cancel())
print(client.purge_queue())
print("runpod ok")
"""


@pytest.fixture
def manifest(photos, tmp_path):
    """A manifest written by `gapray export --inline`, from a catalogue with an imported folder of the prototype."""
    gap = prototype.write_package(tmp_path / "gap")
    for angle, photo in zip(range(0, 360, 45), photos.values(), strict=True):
        view = gap / f"view_{angle:03d}"
        (view / "canonical" / "reference.png").write_bytes(photo)
        for name in ("depth_000.png", "mask_000.png"):
            large = cv2.resize(cv2.imread(str(view / "geometry" / name), cv2.IMREAD_GRAYSCALE), (96, 96))
            cv2.imwrite(str(view / "geometry" / name), large)
    catalog = str(tmp_path / "catalog")
    for command in (
        ["import-gap", str(gap), "--out", catalog],
        ["export", catalog, "supplement_mv", "--to", str(tmp_path / "export"), "--inline"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    return tmp_path / "export" / "multiview_manifest.json"


def test_runpod(guarded_server, manifest):
    """A script that posts the bytes of the file GAP_MANIFEST with the real client."""
    pytest.importorskip("runpod")
    done = subprocess.run(
        [sys.executable, "-c", RUNPOD, guarded_server.url, guarded_server.secrets["writer"]],
        env=os.environ | {"GAP_MANIFEST": str(manifest)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "runpod ok" in done.stdout, done.stdout + done.stderr[-3000:]


def test_an_exported_manifest_makes_a_video(real_server, manifest):
    sent = {"manifest_b64": base64.b64encode(manifest.read_bytes()).decode(), "format": "mp4", "frames": 8}
    body = requests.post(f"{real_server.url}/v2/e/runsync?wait=60000", json={"input": sent}, timeout=70).json()
    assert body["status"] == "COMPLETED", body
    assert base64.b64decode(body["output"]["video_b64"])[4:8] == b"ftyp"


def test_runpod_reports_why_a_job_failed(real_server):
    """The SDK drops the top-level error, so it is in the output as well, as the prototype's clients expect."""
    import numpy as np

    blank = base64.b64encode(cv2.imencode(".png", np.full((96, 96, 3), 255, np.uint8))[1].tobytes()).decode()
    given = {"input": {"views": [blank] * 8}}
    body = requests.post(f"{real_server.url}/v2/e/runsync?wait=60000", json=given, timeout=70).json()
    assert body["status"] == "FAILED" and body["error"] == body["output"]["message"]
    assert body["output"]["status"] == "error" and body["output"]["code"] == "image.blank"


def test_the_runpod_handler(photos, monkeypatch, tmp_path):
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from gapray.serve import runpod_handler
    from gapray.serve.local import LocalWorkers
    from tests.serve.conftest import settings_in

    settings = settings_in(tmp_path)
    workers = settings, LocalWorkers(settings, device="cpu")
    monkeypatch.setattr(runpod_handler, "_workers", lambda: workers)
    given = {"views": [base64.b64encode(data).decode() for data in photos.values()], "frames": 8, "score": False}

    def aside(coroutine):  # the browser driver may run an event loop in this thread
        return ThreadPoolExecutor(1).submit(asyncio.run, coroutine).result()

    body = aside(runpod_handler.handler({"input": given}))
    assert (body["status"], body["format"]) == ("ok", "gif")
    assert base64.b64decode(body["video_b64"])[:6] == b"GIF89a"
    assert aside(runpod_handler.handler({"input": {"views": ["/etc/passwd"]}}))["code"] == "request.path_refused"
    assert aside(runpod_handler.handler({}))["status"] == "error"
