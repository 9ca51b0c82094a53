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
