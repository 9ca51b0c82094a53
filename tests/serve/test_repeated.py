"""Single-valued fields with two different values are refused, because it is unknown which one was meant."""

import base64
import gzip
import io
import json
import zipfile

import pytest
import requests


def post(server, **more):
    answer = requests.post(server.url + "/v1/videos", timeout=20, **more)
    return answer.status_code, answer.json()["error"]["message"] if answer.status_code >= 400 else None


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("seed", "1", "2"),
        ("seconds", "4", "5"),
        ("model", "gap-turntable", "sora-2"),
        ("direction", "cw", "ccw"),
        ("size", "256x256", "512x512"),
    ],
)
def test_a_field_with_two_values_is_refused(idle_server, form, name, first, second):
    status, message = post(idle_server, files=form, data=[(name, first), (name, second)])
    assert status == 400 and "twice" in message and name in message
    assert post(idle_server, files=form, data=[(name, first), (name, first)])[0] == 200


def test_two_names_of_one_field_must_agree(idle_server, form):
    assert post(idle_server, files=form, data=[("num_frames", "12"), ("frames", "16")])[0] == 400
    assert post(idle_server, files=form, data=[("num_frames", "12"), ("frames", "12")])[0] == 200


def views(photos):
    return {
        name.partition("_")[2].removesuffix(".png"): base64.b64encode(data).decode() for name, data in photos.items()
    }


def test_duplicate_json_members_are_refused(idle_server, photos):
    """Of two photos at one angle, Python's parser would keep the last."""
    found = views(photos)
    body = json.dumps({"views": found})
    json_type = {"content-type": "application/json"}
    assert post(idle_server, data=body, headers=json_type)[0] == 200
    again = body.replace('{"views": {', '{"views": {"045": "' + found["090"] + '", ', 1)
    for twice in (again, body.replace("{", '{"seed": 1, "seed": 2, ', 1)):
        status, message = post(idle_server, data=twice, headers=json_type)
        assert status == 400 and "comes twice" in message
    form = {"views": again.removeprefix('{"views": ')[:-1]}
    status, message = post(idle_server, data=form)
    assert status == 400 and "comes twice" in message


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_compressed_body_is_refused(idle_server, photos, encoding):
    body = gzip.compress(json.dumps({"views": views(photos)}).encode())
    headers = {"content-type": "application/json", "content-encoding": encoding}
    for path in ("/v1/videos", "/v2/gap/run"):
        answer = requests.post(idle_server.url + path, data=body, headers=headers, timeout=20)
        assert answer.status_code == 415 and encoding in answer.text and "uncompressed" in answer.text


CONTRADICTIONS = {
    "members of a view": {"azimuth_deg": 45, "azimuth": 315},
    "whole turns apart are one angle": {"azimuth_deg": 45, "angle": 405},
    "a truth value": {"azimuth_deg": True},
}


@pytest.mark.parametrize("said", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_azimuths_of_one_photo_must_agree(idle_server, photos, said):
    """In a list of views, in views by angle, and in a manifest."""
    found = views(photos)
    right = said.get("angle") == 405
    listed = [{"image": data, **(said if at == "045" else {"azimuth": int(at)})} for at, data in found.items()]
    status, message = post(idle_server, json={"views": listed})
    assert status == (200 if right else 400), message
    keyed = {at: {"image": data, **(said if at == "045" else {})} for at, data in found.items()}
    assert post(idle_server, json={"views": keyed})[0] == (200 if right else 400)
    manifest = {at: {"reference_b64": data, **(said if at == "045" else {})} for at, data in found.items()}
    answer = requests.post(f"{idle_server.url}/v2/e/run", json={"input": {"manifest": {"views": manifest}}}, timeout=20)
    assert answer.status_code == (200 if right else 400), answer.text
    if "azimuth" in said:
        assert "45 degrees" in message and "315 degrees" in message


@pytest.mark.parametrize("said", [{"azimuth_deg": 315}, {"angle": 46}])
def test_a_key_and_its_view_must_agree(idle_server, photos, said):
    found = views(photos)
    keyed = {at: {"reference_b64": data, **(said if at == "045" else {})} for at, data in found.items()}
    given = {"manifest_b64": base64.b64encode(json.dumps({"views": keyed}).encode()).decode()}
    answer = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20)
    assert answer.status_code == 400 and "045" in answer.json()["error"], answer.text
    named = {at: {"image": data, **(said if at == "045" else {})} for at, data in found.items()}
    status, message = post(idle_server, json={"views": named})
    assert status == 400 and "045" in message
    # The prototype's keys are whole degrees.
    keyed["045"]["azimuth_deg"] = 45.4
    keyed["045"].pop("angle", None)
    answer = requests.post(f"{idle_server.url}/v2/e/run", json={"input": {"manifest": {"views": keyed}}}, timeout=20)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("field", ["azimuths", "front", "frames", "seed", "guidance"])
def test_booleans_are_not_numbers(idle_server, photos, field):
    given = {"views": list(views(photos).values()), field: [True] * 8 if field == "azimuths" else True}
    assert post(idle_server, json=given)[0] == 400


SOURCES = ["manifest_url", "manifest_b64", "manifest", "views", "images[]", "reference_image"]


@pytest.mark.parametrize(
    ("first", "second"),
    [(a, b) for at, a in enumerate(SOURCES) for b in SOURCES[at + 1 :] if (a, b) != ("views", "images[]")],
)
def test_two_sources_of_photos_in_one_request_are_refused(idle_server, photos, first, second):
    found = views(photos)
    manifest = {"views": {at: {"reference_b64": data} for at, data in found.items()}}
    sources = {
        "manifest_url": "https://photos.example/m.json",
        "manifest_b64": base64.b64encode(json.dumps(manifest).encode()).decode(),
        "manifest": manifest,
        "views": found,
        "images[]": list(found.values()),
        "reference_image": found["000"],
    }
    given = {first: sources[first], second: sources[second], "prompt": "a mug"}
    answer = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20)
    assert answer.status_code == 400 and first in answer.json()["error"] and second in answer.json()["error"]


def test_runpod_reports_ignored_fields(idle_server, photos):
    given = {"views": views(photos), "Direction": "cw", "num_frame": 9, "num_frames": 9, "fps": 4, "prompt": "a mug"}
    body = {"input": given, "Webhook": "https://x.example", "policy": {"ttl": 60_000, "lowPriority": True}}
    for path in ("run", "runsync?wait=1000"):
        content = requests.post(f"{idle_server.url}/v2/e/{path}", json=body, timeout=20).json()
        later = requests.get(f"{idle_server.url}/v2/e/status/{content['id']}", timeout=20).json()
        for found in (content, later):
            assert found["gap"]["ignored"] == ["Webhook", "policy.lowPriority", "Direction", "num_frame"]
    content = requests.post(f"{idle_server.url}/v2/e/run", json={"input": {"views": given["views"]}}, timeout=20).json()
    assert "ignored" not in content["gap"]


@pytest.mark.parametrize(
    ("asked", "seconds", "message"),
    [
        ({"seconds": 4, "num_frames": 24, "fps": 24}, "4", "24 frames at 24 a second last 1 s, and 4 s were asked for"),
        ({"seconds": 4, "num_frames": 24, "fps": 24, "format": "gif"}, "1", "the video lasts 1 s"),
        ({"seconds": 1, "num_frames": 24, "fps": 12}, "2", "the video lasts 2 s"),
        ({"seconds": 1, "num_frames": 120}, "2", "the video lasts 2 s"),
        ({"seconds": 2, "num_frames": 24, "fps": 12}, "2", None),
        ({"seconds": 3, "num_frames": 24}, "3", None),
        ({"num_frames": 24, "fps": 24}, "1", None),
    ],
)
def test_contradicting_durations_are_reported(idle_server, photos, asked, seconds, message):
    given = {"views": views(photos), "prompt": "a mug"} | asked
    answer = requests.post(idle_server.url + "/v1/videos", json=given, timeout=20).json()
    assert answer["seconds"] == seconds and bool(answer["gap"]["warnings"]) == bool(message)
    assert message is None or message in answer["gap"]["warnings"][0]
    shown = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20).json()
    assert "format" not in asked or any(message in warning for warning in shown["gap"]["warnings"])


def test_a_duration_sets_the_frame_rate_for_runpod_too(idle_server, photos):
    given = {"views": views(photos), "seconds": 4, "frames": 24}
    body = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20).json()
    assert body["gap"]["warnings"] == []


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        ([f"mug_{number}.png" for number in range(1, 8)], {}, "Send names=index"),
        ([f"mug_{45 * number:03d}.png" for number in range(8)], {"front": "-1"}, "front=-1 names no photo"),
        (["left.png", *(f"mug_{number}.png" for number in range(7))], {}, "frame number. In a request"),
    ],
    ids=["names", "front", "sentences"],
)
def test_errors_name_fields_instead_of_flags(idle_server, photos, names, more, words):
    files = [("input_reference[]", (name, data)) for name, data in zip(names, photos.values(), strict=False)]
    status, message = post(idle_server, files=files, data=more)
    assert status == 400 and words in message and "--" not in message


QUERIES = ["/v1/videos?direction=cw&num_frames=12", "/v2/x/run?direction=cw", "/v2/x/runsync?wait=1000&direction=cw"]
QUERIES += [f"/v1/{kind}?wait=0&direction=cw" for kind in ("packages", "images/edits", "images/generations")]


@pytest.mark.parametrize("path", QUERIES)
def test_query_parameters_of_a_body_s_fields_are_refused(idle_server, photos, path):
    given = {"views": views(photos), "prompt": "a mug"}
    body = {"input": given} if "/v2/" in path else given
    answer = requests.post(idle_server.url + path, json=body, timeout=20)
    message = answer.json()["error"] if "/v2/" in path else answer.json()["error"]["message"]
    assert answer.status_code == 400 and "direction" in message and "wait" not in message and "in the body" in message
    known = path.partition("?")[0] + ("?wait=1000" if "runsync" in path else "?wait=0" if "wait" in path else "")
    assert requests.post(idle_server.url + known, json=body, timeout=20).status_code < 300


def test_unknown_filters_of_a_list_are_refused(idle_server):
    url = idle_server.url + "/v1/videos?limit=1&order=asc"
    assert requests.get(url, timeout=20).status_code == 200
    for name in ("status", "before"):
        answer = requests.get(f"{url}&{name}=x", timeout=20)
        assert answer.status_code == 400 and name in answer.text and "body" not in answer.text


def test_extra_body_in_a_form_is_read_as_in_json(idle_server, form, photos):
    extra = {"frames": 12, "fps": 6, "gap": 1}
    for sent in (
        {"files": form, "data": {"extra_body": json.dumps(extra)}},
        {"json": {"views": views(photos), "extra_body": extra}},
    ):
        content = requests.post(idle_server.url + "/v1/videos", timeout=20, **sent).json()
        assert content["seconds"] == "2" and content["gap"]["ignored"] == ["gap"]
    status, message = post(idle_server, files=form, data={"extra_body": json.dumps(extra), "num_frames": "16"})
    assert status == 400 and "frames comes twice" in message
    for wrong in ("frames=12", "[12]", "{", '{"seed": 1, "seed": 2}', '{"prompt": "\\u0000"}'):
        assert post(idle_server, files=form, data={"extra_body": wrong})[0] == 400
        assert post(idle_server, json={"views": views(photos), "extra_body": wrong})[0] == 400


def test_members_of_views_without_effect_are_reported(idle_server, photos):
    listed = [{"image": data, "azimuth": int(at), "rotate": 90} for at, data in views(photos).items()]
    ways = {
        "/v1/videos": {"views": listed},
        "/v2/e/run": {"input": {"views": listed}},
        "/v1/images/edits?wait=0": {"views": listed, "prompt": "a mug"},
    }
    for path, body in ways.items():
        content = requests.post(idle_server.url + path, json=body, timeout=20).json()
        assert content["gap"]["ignored"] == ["views.rotate"], path
    content = requests.post(idle_server.url + "/v1/packages", json={"views": listed}, timeout=20).json()
    assert content["ignored"] == ["views.rotate"]
    manifest = {"views": {at: {"reference_b64": data, "mask_b64": data} for at, data in views(photos).items()}}
    encoded = base64.b64encode(json.dumps(manifest).encode()).decode()
    content = requests.post(f"{idle_server.url}/v2/e/run", json={"input": {"manifest_b64": encoded}}, timeout=20).json()
    assert content["gap"]["ignored"] == ["manifest.mask_b64"]


def test_a_direction_in_a_manifest_is_not_passed_over(idle_server, photos):
    manifest = {"direction": "cw", "views": {at: {"reference_b64": data} for at, data in views(photos).items()}}
    for direction, status in (("cw", 200), ("CW", 200), ("ccw", 400), (None, 400)):
        given = {"manifest": manifest, "direction": direction}
        answer = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20)
        assert answer.status_code == status and (status == 200 or "direction=cw" in answer.json()["error"])


def test_two_names_of_one_field_must_agree_for_runpod_too(idle_server, photos):
    for second, status in ((12, 200), (16, 400)):
        given = {"views": views(photos), "frames": 12, "num_frames": second}
        answer = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20)
        assert answer.status_code == status, answer.text


def test_fields_in_brackets_without_effect_are_reported(idle_server, form):
    sent = {"num_frames[]": "12", "azimuths[]": ""}
    content = requests.post(idle_server.url + "/v1/videos", files=form, data=sent, timeout=20).json()
    assert content["gap"]["ignored"] == ["num_frames[]"]


def test_remedies_of_a_zip_and_of_an_id_are_ones_that_help(idle_server, photos):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in zip("abcdefgh", photos.values(), strict=True):
            archive.writestr(f"{name}.png", data)
    zipped = {"input_reference": ("x.zip", sink.getvalue())}
    answer = requests.post(idle_server.url + "/v1/videos", files=zipped, timeout=20).json()["error"]
    assert answer["code"] == "capture.ambiguous_azimuths" and "not in a zip" in answer["remedy"]
    form = {"product_id": "My Mug", "views": json.dumps(views(photos))}
    answer = requests.post(idle_server.url + "/v1/videos", data=form, timeout=20).json()["error"]
    assert answer["code"] == "capture.invalid_product_id" and "`product_id`" in answer["remedy"]
