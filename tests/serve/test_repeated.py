"""What comes twice and can only count once is refused: which of the two was meant nobody knows."""

import base64
import gzip
import json

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


def test_a_member_that_comes_twice_is_refused(idle_server, photos):
    """Python's parser would keep the last of two photos at one angle."""
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
def test_a_compressed_body_is_refused_as_one(idle_server, photos, encoding):
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
    """In a list of views, in views by their angles and in a manifest alike."""
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
def test_a_truth_value_is_no_number(idle_server, photos, field):
    given = {"views": list(views(photos).values()), field: [True] * 8 if field == "azimuths" else True}
    assert post(idle_server, json=given)[0] == 400


SOURCES = ["manifest_url", "manifest_b64", "manifest", "views", "images[]", "reference_image"]


@pytest.mark.parametrize(
    ("first", "second"),
    [(a, b) for at, a in enumerate(SOURCES) for b in SOURCES[at + 1 :] if (a, b) != ("views", "images[]")],
)
def test_photos_in_two_places_of_one_request_are_refused(idle_server, photos, first, second):
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


def test_runpod_says_what_it_ignored(idle_server, photos):
    given = {"views": views(photos), "Direction": "cw", "num_frame": 9, "num_frames": 9, "fps": 4, "prompt": "a mug"}
    body = {"input": given, "Webhook": "https://x.example", "policy": {"ttl": 60_000, "lowPriority": True}}
    for path in ("run", "runsync?wait=1000"):
        told = requests.post(f"{idle_server.url}/v2/e/{path}", json=body, timeout=20).json()
        assert told["gap"]["ignored"] == ["Webhook", "policy.lowPriority", "Direction", "num_frame"]
    told = requests.post(f"{idle_server.url}/v2/e/run", json={"input": {"views": given["views"]}}, timeout=20).json()
    assert "ignored" not in told["gap"]


@pytest.mark.parametrize(
    ("asked", "seconds", "told"),
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
def test_lengths_that_do_not_go_together_are_told(idle_server, photos, asked, seconds, told):
    given = {"views": views(photos), "prompt": "a mug"} | asked
    answer = requests.post(idle_server.url + "/v1/videos", json=given, timeout=20).json()
    assert answer["seconds"] == seconds and bool(answer["gap"]["warnings"]) == bool(told)
    assert told is None or told in answer["gap"]["warnings"][0]
    shown = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20).json()
    assert "format" not in asked or any(told in one for one in shown["gap"]["warnings"])


def test_a_length_sets_the_rate_for_runpod_s_clients_too(idle_server, photos):
    given = {"views": views(photos), "seconds": 4, "frames": 24}
    told = requests.post(f"{idle_server.url}/v2/e/run", json={"input": given}, timeout=20).json()
    assert told["gap"]["warnings"] == []


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        ([f"mug_{number}.png" for number in range(1, 8)], {}, "Send names=index"),
        ([f"mug_{45 * number:03d}.png" for number in range(8)], {"front": "-1"}, "front=-1 names no photo"),
        (["left.png", *(f"mug_{number}.png" for number in range(7))], {}, "frame number. In a request"),
    ],
    ids=["names", "front", "sentences"],
)
def test_errors_speak_of_fields_and_not_of_flags(idle_server, photos, names, more, words):
    files = [("input_reference[]", (name, data)) for name, data in zip(names, photos.values(), strict=False)]
    status, message = post(idle_server, files=files, data=more)
    assert status == 400 and words in message and "--" not in message
