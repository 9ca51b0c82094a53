"""The HTTP APIs over a real port: forms of answers, keys, limits, ranges, events."""

import base64
import io
import json
import re
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests

from gapray.errors import ConfigError
from gapray.serve.http.failures import STATUS
from tests.serve.conftest import TINY, listening, served, settings_in

TERMINAL = {"completed", "failed"}


def post(server, form, who="writer", path="/v1/videos", headers=None, **data):
    return requests.post(
        server.url + path, files=form, data=data, headers=server.headers(who) | (headers or {}), timeout=20
    )


def get(server, path, who="writer", **options):
    return requests.get(
        server.url + path, headers=server.headers(who) | options.pop("headers", {}), timeout=20, **options
    )


def done(server, path, who="writer", limit_s=60):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = get(server, path, who).json()
        if found["status"] in TERMINAL or found["status"] in {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not done: {found}")


def test_a_video_from_photos(real_server, form):
    answer = post(real_server, form, prompt="a mug", product_id="mug", size="80x64", seconds="2", wrong="1")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["object"], body["status"], body["size"], body["prompt"]) == ("video", "queued", "80x64", "a mug")
    assert body["gap"]["ignored"] == ["wrong"]
    assert answer.headers["location"] == f"/v1/videos/{body['id']}" and answer.headers["x-request-id"]
    found = done(real_server, f"/v1/videos/{body['id']}")
    assert (found["status"], found["progress"], found["error"]) == ("completed", 100, None)
    gap = found["gap"]
    assert gap["video"]["frames"] == 8 and gap["video"]["fps"] == 4
    assert gap["ignored"] == ["wrong"] and "morph does not read prompt" in gap["warnings"]
    assert {angle["kind"] for angle in gap["scores"]["angles"]} == {"key", "in-between"}
    assert gap["scores"]["lpips"] > 0 and gap["scores"]["protocol"]["net"] == "alex"
    views = get(real_server, f"/v1/videos/{body['id']}/views").json()["data"]
    assert [view["azimuth_deg"] for view in views] == [45 * step for step in range(8)]
    assert all(view["pictures"] == ["depth", "mask", "photo"] for view in views)
    for picture in ("photo", "mask", "depth"):
        answer = get(real_server, f"/v1/videos/{body['id']}/views/{views[1]['view']}/{picture}")
        assert cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR) is not None
    place = f"/v1/videos/{body['id']}/content"
    whole = get(real_server, place)
    assert whole.headers["content-type"] == "video/mp4" and whole.content[4:8] == b"ftyp"
    part = get(real_server, place, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"
    assert get(real_server, place, headers={"Range": "bytes=-4"}).content == whole.content[-4:]
    resumed = get(real_server, place, headers={"Range": "bytes=4-7", "If-Range": '"of an older file"'})
    assert (resumed.status_code, resumed.content) == (200, whole.content)
    assert get(real_server, place, headers={"Range": f"bytes={10**9}-"}).status_code == 416
    assert get(real_server, place, params={"variant": "thumbnail"}).content[:2] == b"\xff\xd8"
    sheet = get(real_server, place, params={"variant": "spritesheet"}).content
    assert cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR).shape == (128, 384, 3)


@pytest.mark.parametrize(
    ("asked", "format", "size"), [("81x65", "mp4", "82x66"), ("81x65", "gif", "81x65")]
)  # encoders of mp4 need even sides
def test_the_first_answer_states_the_final_size(idle_server, form, asked, format, size):
    answer = post(idle_server, form, prompt="a mug", size=asked, format=format)
    assert answer.status_code == 200 and answer.json()["size"] == size, answer.text


def test_one_side_makes_a_square(idle_server, form):
    for side in ("width", "height"):
        assert post(idle_server, form, **{side: "320"}).json()["size"] == "320x320"


def test_packages_report_misspelt_fields(idle_server, form):
    body = post(idle_server, form, path="/v1/packages", product_id="mug", colour="red", frmaes="12").json()
    assert body["ignored"] == ["colour", "frmaes"]
    assert requests.get(f"{idle_server.url}/v1/packages/{body['id']}", timeout=20).json()["ignored"] == body["ignored"]


@pytest.mark.parametrize(
    ("asked", "seconds"), [({"fps": 4, "frames": 8}, "2"), ({"fps": 2}, "12"), ({}, "2"), ({"seconds": 5}, "5")]
)
def test_the_first_answer_states_the_final_duration(idle_server, form, asked, seconds):
    answer = post(idle_server, form, prompt="a mug", **asked)
    assert answer.status_code == 200 and answer.json()["seconds"] == seconds, answer.text
    assert post(idle_server, form, fps="0.01").status_code == 400


def test_events_report_views_and_end(real_server, form):
    video = post(real_server, form, score="false").json()["id"]
    seen, kinds = [], []
    with get(real_server, f"/v1/videos/{video}/events", stream=True) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines(decode_unicode=True):
            if line.startswith("event:"):
                kinds.append(line[7:])
            if line.startswith("data:"):
                seen.append(json.loads(line[6:]))
    assert kinds[-1] == "done" and set(kinds[:-1]) <= {"progress"}
    assert seen[-1]["video"]["status"] == "completed" and len(seen[-1]["views"]) == 8
    assert "scores" not in seen[-1]["video"]["gap"]


def test_a_failing_job_reports_its_code(real_server):
    blank = cv2.imencode(".png", np.full((96, 96, 3), 255, np.uint8))[1].tobytes()
    same = [("input_reference[]", (f"m_{a:03d}.png", blank, "image/png")) for a in range(0, 360, 45)]
    found = done(real_server, f"/v1/videos/{post(real_server, same).json()['id']}")
    assert (found["status"], found["error"]["code"]) == ("failed", "image.blank")
    assert found["gap"]["remedy"]
    answer = get(real_server, f"/v1/videos/{found['id']}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "job.failed")


def test_packages_and_scores(real_server, form, photos):
    answer = post(real_server, form, path="/v1/packages?wait=30", product_id="mug")
    assert answer.status_code == 200, answer.text
    package = answer.json()
    assert package["status"] == "completed" and len(package["package"]["views"]) == 8
    assert len(package["package"]["views"][0]["identity"]) == 517
    data = get(real_server, f"/v1/packages/{package['id']}/content").content
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert "multiview_manifest.json" in names and "view_045/geometry/depth_000.png" in names
    from gapray.video.encode import encode_mp4

    turn = [cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for photo in photos.values()]
    clip = [("video", ("turn.mp4", encode_mp4(np.stack(turn), fps=8), "video/mp4"))]
    score = post(real_server, [*form, *clip], path="/v1/scores", headers={"Prefer": "wait=60"}).json()
    assert score["status"] == "completed", score
    assert len(score["scores"]["angles"]) == 8 and score["scores"]["protocol"]["aligned"]
    assert get(real_server, f"/v1/scores/{score['id']}").json() == score
    assert get(real_server, f"/v1/packages/{score['id']}").status_code == 404
    broken = [("video", ("turn.mp4", b"nonsense", "video/mp4"))]
    score = post(real_server, [*form, *broken], path="/v1/scores?wait=60").json()
    assert (score["status"], score["error"]["code"]) == ("failed", "video.unreadable")


def test_requests_without_a_valid_key_are_refused(guarded_server, form):
    paths = ["/v1/videos", "/v1/videos/x", "/v1/models", "/v2/e/health", "/v2/e/status/x", "/metrics", "/v1/packages/x"]
    for path in paths:
        assert requests.get(guarded_server.url + path, timeout=5).status_code == 401, path
        wrong = {"authorization": "Bearer gap_0123456789ab_wrong"}
        assert requests.get(guarded_server.url + path, headers=wrong, timeout=5).status_code == 401, path
    for path in (
        "/v1/videos",
        "/v1/packages",
        "/v1/scores",
        "/v2/e/run",
        "/v2/e/runsync",
        "/v2/e/purge-queue",
        "/graphql",
    ):
        assert requests.post(guarded_server.url + path, files=form, timeout=5).status_code == 401, path
    for path in ("/", "/healthz", "/readyz", "/openapi.json", "/assets/app.js"):
        assert requests.get(guarded_server.url + path, timeout=5).status_code == 200, path


def test_scopes_owners_and_limits_of_keys(guarded_server, form):
    assert post(guarded_server, form, "reader").status_code == 403
    video = post(guarded_server, form).json()["id"]
    assert get(guarded_server, f"/v1/videos/{video}", "other").status_code == 404
    assert get(guarded_server, f"/v1/videos/{video}", "admin").status_code == 200
    assert video not in [item["id"] for item in get(guarded_server, "/v1/videos", "other").json()["data"]]
    bare = {"authorization": guarded_server.secrets["writer"]}
    assert requests.get(f"{guarded_server.url}/v1/videos/{video}", headers=bare, timeout=5).status_code == 200
    assert get(guarded_server, "/metrics").status_code == 403
    body = get(guarded_server, "/metrics", "admin").text
    assert 'gapray_jobs{status="completed"}' in body and "gapray_http_request_seconds_bucket" in body
    codes = [get(guarded_server, "/v1/models", "slow").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    refused = get(guarded_server, "/v1/models", "slow")
    assert refused.headers["retry-after"] and refused.json()["error"]["code"] == "rate.exceeded"


def test_a_revoked_key_stops_working(guarded_server):
    from gapray.serve.keys import create, revoke

    key, secret = create(guarded_server.context.store.engine, "gone")
    headers = {"authorization": f"Bearer {secret}"}
    assert requests.get(guarded_server.url + "/v1/models", headers=headers, timeout=5).status_code == 200
    revoke(guarded_server.context.store.engine, key.id)
    end = time.monotonic() + 10
    while requests.get(guarded_server.url + "/v1/models", headers=headers, timeout=5).status_code == 200:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_database_holds_no_secret(guarded_server):
    folder = Path(guarded_server.context.store.engine.url.database).parent
    data = b"".join(path.read_bytes() for path in folder.glob("jobs.db*"))
    assert b"writer" in data
    for secret in guarded_server.secrets.values():
        assert secret.split("_", 2)[2].encode() not in data


def test_idempotency(idle_server, form):
    headers = {"idempotency-key": "order-7"}
    first = post(idle_server, form, headers=headers)
    again = post(idle_server, form, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    other = post(idle_server, form, headers=headers, prompt="something else")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "request.idempotency_mismatch")
    stored = idle_server.context.artifacts.names("uploads")
    assert len(stored) == len(set(stored))


def test_deleting_removes_everything(guarded_server, form):
    video = post(guarded_server, form).json()["id"]
    done(guarded_server, f"/v1/videos/{video}")
    body = requests.delete(
        f"{guarded_server.url}/v1/videos/{video}", headers=guarded_server.headers(), timeout=5
    ).json()
    assert body == {"id": video, "deleted": True, "object": "video.deleted"}
    assert get(guarded_server, f"/v1/videos/{video}").status_code == 404
    job = video.removeprefix("video_")
    assert not guarded_server.context.artifacts.names(f"uploads/{job}")
    assert not guarded_server.context.artifacts.names(f"results/{job}/1")


@pytest.mark.parametrize("kind", ["package", "score"])
def test_packages_and_scores_can_be_deleted(guarded_server, form, kind):
    files = [*form, ("video", ("turn.mp4", b"no video", "video/mp4"))] if kind == "score" else form
    job = post(guarded_server, files, path=f"/v1/{kind}s").json()["id"]
    place = f"{guarded_server.url}/v1/{kind}s/{job}"
    other = "score" if kind == "package" else "package"
    assert requests.delete(place, headers=guarded_server.headers("reader"), timeout=5).status_code == 403
    assert requests.delete(place, headers=guarded_server.headers("other"), timeout=5).status_code == 404
    wrong = f"{guarded_server.url}/v1/{other}s/{job}"
    assert requests.delete(wrong, headers=guarded_server.headers(), timeout=5).status_code == 404
    body = requests.delete(place, headers=guarded_server.headers(), timeout=5).json()
    assert body == {"id": job, "deleted": True, "object": f"{kind}.deleted"}
    assert get(guarded_server, f"/v1/{kind}s/{job}").status_code == 404
    assert not guarded_server.context.artifacts.names(f"uploads/{job.removeprefix(f'{kind}_')}")


def test_lists_and_models(guarded_server, form):
    ids = [post(guarded_server, form, "other").json()["id"] for _ in range(3)]
    page = get(guarded_server, "/v1/videos", "other", params={"limit": 2}).json()
    assert [item["id"] for item in page["data"]] == ids[:0:-1] and page["has_more"]
    rest = get(guarded_server, "/v1/videos", "other", params={"limit": 2, "after": page["last_id"]}).json()
    assert [job["id"] for job in rest["data"]] == ids[:1] and not rest["has_more"]
    models = get(guarded_server, "/v1/models").json()["data"]
    assert [model["id"] for model in models] == [
        "gap-turntable",
        "gap-turntable-classic",
        "gap-stills",
        "gap-stills-classic",
    ]
    assert get(guarded_server, "/v1/models/sora-2").status_code == 404
    assert post(guarded_server, form, model="sora-2").json()["error"]["code"] == "model.unknown"


def test_a_full_queue_is_reported_at_once(tmp_path, form):
    with served(tmp_path, worker="none", limits={"queued": 2}) as server:
        assert [post(server, form).status_code for _ in range(2)] == [200, 200]
        began = time.monotonic()
        refused = post(server, form)
        assert time.monotonic() - began < 2
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"frames": "0"}, 400, "request.invalid"),
        ({"num_frames": "1000"}, 400, "request.invalid"),
        ({"num_frames": "abc"}, 400, "request.invalid"),
        ({"size": "9999x9999"}, 400, "request.invalid"),
        ({"size": "big"}, 400, "request.invalid"),
        ({"fps": "nan"}, 400, "request.invalid"),
        ({"format": "avi"}, 400, "request.invalid"),
        ({"product_id": "../../etc"}, 400, "capture.invalid_product_id"),
        ({"prompt": "x" * 5000}, 400, "request.invalid"),
        ({"azimuths": "0,90"}, 400, "request.invalid"),
        ({"webhook": "http://169.254.169.254/"}, 400, "url.refused"),
        ({"seed": "-1"}, 400, "request.invalid"),
    ],
)
def test_parameters_beyond_the_limits_are_refused(idle_server, form, change, status, code):
    answer = post(idle_server, form, **change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["remedy"]


def test_malformed_bodies_are_refused(idle_server):
    url = idle_server.url + "/v1/videos"
    for body, kind, status in (
        (b"", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=y", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"views": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"hello", "text/plain", 415),
        (b"", "", 415),
    ):
        answer = requests.post(url, data=body, headers={"content-type": kind}, timeout=5)
        assert answer.status_code == status, (body[:20], kind, answer.text)
        assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}
    assert requests.put(url, timeout=5).status_code == 405
    assert requests.get(idle_server.url + "/v1/nothing", timeout=5).json()["error"]["code"] == "request.not_found"
    for path in ("/v1/videos/x/remix", "/v1/videos/edits", "/v1/videos/extensions", "/v1/videos/characters"):
        assert requests.post(idle_server.url + path, timeout=5).status_code == 404


def test_a_body_over_the_limit_is_cut_off(tmp_path, form):
    with served(tmp_path, worker="none", limits={"body_bytes": 100_000}) as server:
        fat = [("input_reference[]", ("a_000.png", b"x" * 200_000, "image/png"))]
        assert post(server, fat).status_code == 413

        def chunks():
            for _ in range(50):
                yield b"x" * 10_000

        kind = {"content-type": "application/json"}
        try:
            answer = requests.post(server.url + "/v1/videos", data=chunks(), headers=kind, timeout=10)
            assert answer.status_code == 413 and answer.json()["error"]["code"] == "request.too_large"
        except requests.ConnectionError:
            pass  # the server closed the connection while the body was being sent


def test_runpod_by_hand(guarded_server, photos):
    base = f"{guarded_server.url}/v2/gap-animatediff-video-sd15"
    views = {
        f"{45 * step:03d}": {"reference_b64": base64.b64encode(data).decode()}
        for step, data in enumerate(photos.values())
    }
    given = {"manifest_b64": base64.b64encode(json.dumps({"asset_name": "mug", "views": views}).encode()).decode()}
    headers = guarded_server.headers()
    job = requests.post(
        f"{base}/run", json={"input": given | {"frames": 8, "fps": 4, "format": "mp4"}}, headers=headers, timeout=10
    ).json()
    assert job["status"] == "IN_QUEUE" and job["id"].endswith("-u1")
    found = done(guarded_server, f"/v2/gap-animatediff-video-sd15/status/{job['id']}")
    assert found["status"] == "COMPLETED" and found["output"]["status"] == "ok"
    assert base64.b64decode(found["output"]["video_b64"])[4:8] == b"ftyp"
    assert set(found) >= {"delayTime", "executionTime", "id", "output", "status"}
    counts = get(guarded_server, "/v2/gap-animatediff-video-sd15/health").json()
    assert counts["jobs"]["completed"] >= 1 and set(counts["workers"]) == {"idle", "running"}
    sync = requests.post(f"{base}/runsync?wait=20000", json={"input": given}, headers=headers, timeout=30).json()
    assert sync["status"] == "COMPLETED"
    bad = requests.post(f"{base}/run", json={"input": {}}, headers=headers, timeout=5)
    assert bad.status_code == 400 and bad.json()["code"] == "request.invalid" and bad.json()["status"] == "FAILED"


@pytest.mark.parametrize(
    ("prompt", "status"), [("\\ud83d\\ude00", 200), ("<product>", 200), ("\\ud83d", 400), ("\\ude00\\ud83d", 400)]
)
def test_prompts_are_whole_characters(idle_server, photos, prompt, status):
    views = json.dumps([base64.b64encode(data).decode() for data in photos.values()])
    body = f'{{"input": {{"views": {views}, "prompt": "{prompt}"}}}}'
    kind = {"content-type": "application/json"}
    answer = requests.post(f"{idle_server.url}/v2/any/run", data=body.encode(), headers=kind, timeout=20)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["code"] == "request.invalid"


def test_runpod_cancel_purge_and_policy(idle_server, photos):
    base = f"{idle_server.url}/v2/any-name"
    given = {"views": [base64.b64encode(data).decode() for data in photos.values()]}
    ids = [requests.post(f"{base}/run", json={"input": given}, timeout=10).json()["id"] for _ in range(3)]
    assert requests.post(f"{base}/cancel/{ids[0]}", timeout=5).json() == {"id": ids[0], "status": "CANCELLED"}
    assert requests.get(f"{base}/status/{ids[0]}", timeout=5).json()["output"]["code"] == "job.cancelled"
    assert requests.post(f"{base}/purge-queue", timeout=5).json() == {"removed": 2, "status": "completed"}
    assert requests.post(f"{base}/retry/{ids[0]}", timeout=5).json()["code"] == "job.not_failed"
    for policy in ({"executionTimeout": 1}, {"ttl": "x"}, {"ttl": True}):
        answer = requests.post(f"{base}/run", json={"input": given, "policy": policy}, timeout=5)
        assert answer.status_code == 400, policy
    answer = requests.post(
        f"{base}/run", json={"input": given, "policy": {"ttl": 20_000, "executionTimeout": 6000}}, timeout=5
    )
    job = idle_server.context.store.get(answer.json()["id"].removesuffix("-u1"), None)
    assert job.timeout_s == 6
    assert requests.get(f"{base}/status/nonsense", timeout=5).status_code == 404


def test_errors_reveal_no_internals(idle_server, form, monkeypatch):
    monkeypatch.setattr(type(idle_server.context.store), "submit", lambda *_, **__: 1 / 0)
    answer = post(idle_server, form)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal.error")
    assert "ZeroDivision" not in answer.text and "Traceback" not in answer.text
    assert answer.headers["x-request-id"]


def test_every_http_status_belongs_to_a_known_code():
    from gapray.errors import REMEDIES

    assert set(STATUS) <= set(REMEDIES)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_another_products_video_gets_no_score(tmp_path, samples, classic_weights, lpips_alex):
    """The video fits these photos better than most products would (LPIPS below .5), but its own product's far better."""
    del classic_weights, lpips_alex
    from gapray.video.encode import encode_mp4

    def pictures(*folders):
        files = sorted(
            (file for folder in folders for file in (samples / folder).iterdir()), key=lambda one: one.stem[-3:]
        )
        return {
            file.stem: cv2.resize(cv2.imread(str(file)), (320, 320), interpolation=cv2.INTER_AREA) for file in files
        }

    turn = list(pictures("captures/mug", "held_out/mug").values())[::2]
    clip = [("video", ("turn.mp4", encode_mp4(np.stack(turn)[..., ::-1], fps=12), "video/mp4"))]
    overrides = ("mask.model=u2netp", "fidelity.size=128", *TINY[1:])
    with served(tmp_path, worker="pipeline", overrides=overrides) as server:

        def score(product):
            views = [
                ("input_reference[]", (f"{name}.png", cv2.imencode(".png", photo)[1].tobytes(), "image/png"))
                for name, photo in pictures(f"captures/{product}").items()
            ]
            name = post(server, [*views, *clip], path="/v1/scores").json()["id"]
            return done(server, f"/v1/scores/{name}", limit_s=250)

        # The mug is also one of the sample products; it must not be its own null.
        mine = score("mug")
        assert mine["status"] == "completed" and mine["scores"]["lpips"] < 0.2, mine
        theirs = score("supplement")
        assert (theirs["status"], theirs["error"]["code"]) == ("failed", "score.not_this_product"), theirs


def operations(server):
    """Return (path, methods) of the OpenAPI document, and of the routes that are not in it."""
    body = get(server, "/openapi.json").json()["paths"]
    known = {path: {method.upper() for method in methods} for path, methods in body.items()}
    for path in ("/", "/assets/app.js", "/assets/sample/mug_045.jpg", "/openapi.json"):
        known[path] = {"GET"}
    return known


def filled(path, video):
    """Fill in the parameters of a path."""
    for name, value in {"video_id": video, "shown": video, "name": "gap-turntable", "endpoint": "e"}.items():
        path = path.replace("{" + name + "}", value)
    return re.sub(r"\{\w+\}", "0", path) + ("?wait=1000" if "status-sync" in path else "")


def test_head_is_answered_like_get_without_a_body(guarded_server, form):
    video = post(guarded_server, form).json()["id"]
    done(guarded_server, f"/v1/videos/{video}")
    paths = [path for path, methods in operations(guarded_server).items() if "GET" in methods]
    assert len(paths) > 20
    for path in paths:
        place = filled(path, video)
        head = requests.head(guarded_server.url + place, headers=guarded_server.headers("admin"), timeout=20)
        whole = get(guarded_server, place, "admin", stream=True)
        assert head.status_code == whole.status_code != 405, path
        assert head.content == b"" and head.headers["content-type"] == whole.headers["content-type"], path
        if "/stream/" not in path and path != "/metrics":
            assert head.headers.get("content-length") == whole.headers.get("content-length"), path
        if "/stream/" in path:
            assert whole.json()["stream"], "HEAD has not taken what GET tells once"
        whole.close()
    content = requests.head(
        f"{guarded_server.url}/v1/videos/{video}/content", headers=guarded_server.headers(), timeout=5
    )
    assert content.headers["content-type"] == "video/mp4" and int(content.headers["content-length"]) > 100


def test_every_405_lists_the_allowed_methods(guarded_server):
    """The listed methods are exactly those that any route of the path answers."""
    for path, methods in operations(guarded_server).items():
        answers = {
            method: requests.request(method, guarded_server.url + filled(path, "x"), timeout=5)
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        }
        taken = {method for method, answer in answers.items() if answer.status_code != 405}
        assert methods <= taken < set(answers), path
        for method in answers.keys() - taken:
            assert {item.strip() for item in answers[method].headers["allow"].split(",")} == taken, (method, path)
            assert answers[method].headers["content-type"] == "application/json"


@pytest.mark.parametrize("sent", [None, "order-7.a_b", "a" * 500])
@pytest.mark.parametrize("path", ["/healthz", "/v1/videos/x", "/v1/nothing", "/v1/models"])
def test_a_response_has_one_request_id_even_behind_serve_s_proxy(tmp_path, path, sent):
    from ray.serve._private.http_util import RequestIdMiddleware

    from gapray.serve.http.app import build_app
    from gapray.serve.http.context import Context

    context = Context.of(settings_in(tmp_path))
    for app in (build_app(context), RequestIdMiddleware(build_app(context, adds_request_id=False))):
        with listening(app) as url:
            headers = {"x-request-id": sent} if sent else {}
            found = requests.get(url + path, headers=headers, timeout=5).raw.headers.getlist("x-request-id")
        assert len(found) == 1 and found[0]
        if sent and len(sent) < 128:
            assert found == [sent]


def test_only_named_origins_are_allowed(tmp_path, form):
    shop, other = "https://shop.example", "https://evil.example"
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,idempotency-key"}
    with served(tmp_path, worker="none") as server:
        answer = requests.get(f"{server.url}/healthz", headers={"origin": shop}, timeout=5)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert requests.options(f"{server.url}/v1/videos", headers=ask | {"origin": shop}, timeout=5).status_code == 405
    with served(tmp_path, worker="none", cors_origins=(shop, "http://localhost:3000")) as server:
        allowed = requests.options(f"{server.url}/v1/videos", headers=ask | {"origin": shop}, timeout=5)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == shop
        assert "idempotency-key" in allowed.headers["access-control-allow-headers"]
        assert "DELETE" in allowed.headers["access-control-allow-methods"]
        for answer in (
            requests.post(f"{server.url}/v1/videos", files=form, headers={"origin": shop}, timeout=10),
            requests.get(f"{server.url}/v1/videos/nothing", headers={"origin": shop}, timeout=5),
            requests.put(f"{server.url}/v1/videos", headers={"origin": shop}, timeout=5),
        ):
            assert answer.headers["access-control-allow-origin"] == shop, answer.status_code
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
        for answer in (
            requests.options(f"{server.url}/v1/videos", headers=ask | {"origin": other}, timeout=5),
            requests.get(f"{server.url}/healthz", headers={"origin": other}, timeout=5),
        ):
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://Shop.example", "https://a@b", ""])
def test_malformed_origins_are_refused_in_settings(origin):
    from gapray.serve.settings import serve_settings

    with pytest.raises(ConfigError, match="cors_origins"):
        serve_settings({"cors_origins": [origin]})
