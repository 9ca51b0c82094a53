"""Stills over HTTP: OpenAI's Images API and the prototype's image endpoint, with real clients and the real engine."""

import base64
import io
import json
import time

import cv2
import numpy as np
import pytest
import requests
from PIL import Image

from tests.serve.conftest import served


def uri(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def decode_image(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.fixture
def client(real_server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=real_server.url + "/v1", api_key="none", max_retries=0)


def files(photos):
    return [(name, data, "image/png") for name, data in photos.items()]


def test_openai_edits_put_the_photographed_product_into_a_scene(client, photos):
    found = client.images.edit(
        image=files(photos), prompt="a mug at home", n=2, size="256x192", extra_body={"scene": "wooden-desk", "seed": 5}
    )
    assert found.size == "256x192" and len(found.data) == 2
    first, second = (np.asarray(decode_image(image.b64_json)) for image in found.data)
    assert first.shape == (192, 256, 3) and (first != second).any()
    gap = found.model_extra["gap"]
    assert [image["seed"] for image in gap["images"]] == [5, 6] and gap["backend"] == "composite"
    assert all(image["pasted"] and image["gate"] == "pass" for image in gap["images"]), gap["images"]
    assert gap["scene"] == "wooden-desk" and "the prompt is not read" in gap["warnings"][0]


def test_one_photo_is_enough_and_pictures_can_be_fetched(client, photos, real_server):
    [first, *_] = files(photos)
    found = client.images.edit(
        image=first, prompt="a mug", response_format="url", extra_body={"output_format": "webp", "colour": "red"}
    )
    assert found.model_extra["gap"]["ignored"] == ["colour"]
    answer = requests.get(found.data[0].url, timeout=10)
    assert answer.headers["content-type"] == "image/webp"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.format == "WEBP" and max(picture.size) > 64
    place = f"{real_server.url}/v1/images/{found.model_extra['id']}"
    again = requests.get(place, timeout=10).json()
    assert again["status"] == "completed" and again["data"] == [{"url": found.data[0].url}]
    assert requests.get(place + "/content/1", timeout=10).json()["error"]["code"] == "job.no_such_file"
    assert requests.delete(place, timeout=10).json()["deleted"]
    assert requests.get(place, timeout=10).json()["error"]["code"] == "job.not_found"


def test_a_finished_package_can_be_used_repeatedly(client, photos, real_server, form):
    package = requests.post(real_server.url + "/v1/packages?wait=60", files=form, timeout=70).json()
    assert package["status"] == "completed"
    drawn = {}
    for azimuth in (0, 90):
        found = client.images.generate(
            prompt="{product} on stone", extra_body={"package": package["id"], "azimuth_deg": azimuth}
        )
        assert found.model_extra["gap"]["azimuth_deg"] == azimuth
        drawn[azimuth] = np.asarray(decode_image(found.data[0].b64_json))
    assert (drawn[0] != drawn[90]).any()
    inline = client.images.generate(prompt="x", extra_body={"views": [uri(photo) for photo in photos.values()]})
    assert (np.asarray(decode_image(inline.data[0].b64_json)) == drawn[0]).all()
    unread = {"direction": "cw", "front": 2, "names": "index", "azimuths": "0,90,180,270"}
    found = client.images.generate(prompt="x", extra_body={"package": package["id"]} | unread)
    assert found.model_extra["gap"]["ignored"] == sorted(unread)


def test_an_unfinished_request_is_answered_with_its_location(photos, real_server):
    form = [("image[]", photo) for photo in files(photos)]
    asked = requests.post(
        real_server.url + "/v1/images/edits",
        files=form,
        data={"prompt": "a mug"},
        headers={"prefer": "respond-async"},
        timeout=10,
    )
    assert asked.status_code == 202 and asked.json()["data"] == []
    for _ in range(300):
        response = requests.get(real_server.url + asked.headers["location"], timeout=10)
        if response.status_code == 200:
            break
        time.sleep(0.05)
    assert (
        response.json()["status"] == "completed"
        and decode_image(response.json()["data"][0]["b64_json"]).format == "PNG"
    )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "still.empty_prompt"),
        ({"prompt": "x" * 5000}, "request.invalid"),
        ({"prompt": "x", "scene": "../etc"}, "scene.unknown"),
        ({"prompt": "x", "n": 11}, "request.invalid"),
        ({"prompt": "x", "size": "4096x64"}, "request.invalid"),
        ({"prompt": "x", "size": "2048x512"}, "still.aspect"),
        ({"prompt": "x", "model": "gpt-image-2"}, "model.unknown"),
        ({"prompt": "x", "model": "gap-turntable"}, "model.unknown"),
        ({"prompt": "x", "stream": True}, "request.invalid"),
        ({"prompt": "x", "background": "transparent"}, "request.invalid"),
        ({"prompt": "x", "response_format": "svg"}, "request.invalid"),
        ({"prompt": "x", "package": "package_" + "0" * 32}, "job.not_found"),
        ({"prompt": "x", "views": []}, "request.no_photos"),
        ({"prompt": "x", "views": ["/etc/passwd"]}, "request.path_refused"),
        ({"prompt": "x", "views": [uri(b"no picture")]}, "image.unsupported"),
    ],
)
def test_bad_requests_have_codes(real_server, photos, fields, code):
    # Photos together with a package would be two sources.
    body = fields if "package" in fields else {"views": [uri(next(iter(photos.values())))]} | fields
    answer = requests.post(real_server.url + "/v1/images/generations", json=body, timeout=30)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["code"] == code


def test_scenes_and_models_are_listed(client, real_server):
    scenes = requests.get(real_server.url + "/v1/scenes", timeout=10).json()["data"]
    assert len(scenes) == 15 and {"marble-kitchen", "gym-studio"} <= {scene["name"] for scene in scenes}
    assert "gap-stills" in [model.id for model in client.models.list()]


def test_the_prototype_s_image_endpoint(real_server, photos):
    [photo, *_] = photos.values()
    depth = cv2.imencode(".png", np.pad(np.full((48, 40), 200, np.uint8), 24))[1].tobytes()
    given = {
        "depth_image": base64.b64encode(depth).decode(),
        "normal_image": base64.b64encode(photo).decode(),
        "reference_image": base64.b64encode(photo).decode(),
        "prompt": "a mug on marble",
        "negative_prompt": "text",
        "num_inference_steps": 30,
        "guidance_scale": 7.5,
        "controlnet_conditioning_scale": 0.8,
        "ip_adapter_scale": 0.7,
        "width": 128,
        "height": 128,
        "seed": 42,
    }
    body = requests.post(f"{real_server.url}/v2/image/runsync?wait=60000", json={"input": given}, timeout=70).json()
    assert body["status"] == "COMPLETED", body
    output = body["output"]
    assert (output["seed"], output["width"], output["height"]) == (42, 128, 128)
    assert decode_image(output["image"]).size == (128, 128)
    assert "the depth map's pose is not drawn" in output["warnings"][0]
    for wrong, code in (
        ({"depth_image": "/etc/passwd"}, "request.path_refused"),
        ({"prompt": ""}, "still.empty_prompt"),
    ):
        answer = requests.post(f"{real_server.url}/v2/image/run", json={"input": given | wrong}, timeout=30)
        assert answer.status_code == 400 and answer.json()["code"] == code, answer.text


def test_the_runpod_handler_draws_stills(photos, monkeypatch, tmp_path, lpips_alex):
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from gapray.serve import runpod_handler
    from gapray.serve.local import LocalWorkers
    from tests.serve.conftest import settings_in

    del lpips_alex
    settings = settings_in(tmp_path)
    workers = settings, LocalWorkers(settings, device="cpu")
    monkeypatch.setattr(runpod_handler, "_workers", lambda: workers)
    given = {"reference_image": base64.b64encode(next(iter(photos.values()))).decode(), "prompt": "a mug", "seed": 3}
    body = ThreadPoolExecutor(1).submit(asyncio.run, runpod_handler.handler({"input": given})).result()
    assert body["status"] == "ok" and body["seed"] == 3, body
    assert decode_image(body["image"]).size == (body["width"], body["height"])


def test_a_pose_and_every_parameter_reach_the_diffusion_backend(photos, tmp_path, monkeypatch, lpips_alex):
    """The tiny SDXL stack behind the real server: each field of a request changes the picture."""
    from tests.stills.tiny_xl import write_mirror

    del lpips_alex
    write_mirror(tmp_path / "models")
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("GAPRAY_CACHE", str(tmp_path / "cache"))
    from tests.serve.conftest import TINY

    tiny = (*TINY, "stills.backend=sdxl", "stills.megapixels=0.00391", "stills.sdxl.steps=2")
    rng = np.random.default_rng(1)
    shape = np.zeros((64, 64), np.uint16)
    shape[16:50, 20:44] = 40_000
    depth = cv2.imencode(".png", shape)[1].tobytes()
    normals = cv2.imencode(".png", rng.integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    base = {
        "reference_image": base64.b64encode(next(iter(photos.values()))).decode(),
        "depth_image": base64.b64encode(depth).decode(),
        "prompt": "a mug",
        "width": 64,
        "height": 64,
    }
    changes = [
        {},
        {"prompt": "a lamp"},
        {"negative_prompt": "blue"},
        {"normal_image": base64.b64encode(normals).decode()},
        {"depth_image": None, "reference_image": base["reference_image"]},
        {"num_inference_steps": 3},
        {"guidance_scale": 2.0},
        {"controlnet_scale": 1.5},
        {"ip_adapter_scale": 0.05},
        {"seed": 1},
    ]
    pictures = []
    with served(tmp_path, worker="pipeline", overrides=tiny) as server:
        for change in changes:
            body = {"input": {name: value for name, value in (base | change).items() if value is not None}}
            content = requests.post(f"{server.url}/v2/image/runsync?wait=60000", json=body, timeout=70).json()
            assert content["status"] == "COMPLETED", json.dumps(content)[:500]
            assert content["output"]["warnings"] == []
            pictures.append(np.asarray(decode_image(content["output"]["image"])).astype(int))
    assert all(picture.shape == (64, 64, 3) for picture in pictures)
    same = [index for index, picture in enumerate(pictures[1:], 1) if np.array_equal(picture, pictures[0])]
    assert same == [], [changes[index] for index in same]


def test_a_server_without_a_stylist_refuses_stills(tmp_path, photos):
    with served(tmp_path, worker="none", stylist=None) as server:
        body = {"prompt": "x", "views": [uri(next(iter(photos.values())))]}
        answer = requests.post(server.url + "/v1/images/generations", json=body, timeout=10)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "request.unsupported"
        names = [model["id"] for model in requests.get(server.url + "/v1/models", timeout=10).json()["data"]]
    assert names == ["gap-turntable", "gap-turntable-classic"]
