"""The same photos sent by many clients: however each transmits file names, a photo gets the azimuth in its name."""

import asyncio
import base64
import io
import json
import random
import shutil
import subprocess
import warnings
import zipfile
from urllib.parse import quote

import cv2
import numpy as np
import pytest
import requests

from gapray.serve.shapes import ORDER_WARNING
from tests.conftest import need
from tests.serve.conftest import served

EIGHT = [45.0 * step for step in range(8)]
PHOTOS = [cv2.imencode(".png", np.full((64, 64, 3), 30 * step, np.uint8))[1].tobytes() for step in range(8)]
FIELD = "input_reference[]"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("clients"), worker="none", limits={"queued": 100_000}) as found:
        yield found


# ---- clients: (server's URL, folder with the files, paths in order) -> JSON of the answer


def by_curl(url, paths):
    need("curl", shutil.which("curl") is not None, "no curl on this machine")
    quoted = ['@"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"' for path in paths]
    form = [part for path in quoted for part in ("-F", f"{FIELD}={path}")]
    done = subprocess.run(["curl", "-s", f"{url}/v1/videos", *form], capture_output=True, check=True)
    return json.loads(done.stdout)


def by_requests(url, paths):
    files = [(FIELD, path.open("rb")) for path in paths]
    return requests.post(f"{url}/v1/videos", files=files, timeout=20).json()


def by_httpx(url, paths):
    httpx = pytest.importorskip("httpx")
    files = [(FIELD, path.open("rb")) for path in paths]
    return httpx.post(f"{url}/v1/videos", files=files, timeout=20).json()


def by_aiohttp(url, paths, **form):
    aiohttp = pytest.importorskip("aiohttp")

    async def send():
        async with aiohttp.ClientSession() as session:
            data = aiohttp.FormData(**form)
            for path in paths:
                data.add_field(FIELD, path.read_bytes(), filename=path.name, content_type="image/png")
            async with session.post(f"{url}/v1/videos", data=data) as answer:
                return await answer.json()

    return in_a_thread(send)


def by_aiohttp_unquoted(url, paths):
    return by_aiohttp(url, paths, quote_fields=False)


def by_openai(url, paths):
    openai = pytest.importorskip("openai")
    warnings.simplefilter("ignore", DeprecationWarning)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    try:
        files = [path.open("rb") for path in paths]
        return client.videos.create(prompt="p", model="gap-turntable", input_reference=files).model_dump()
    except openai.APIStatusError as error:
        return {"error": error.body}


NODE = """
const [url, ...paths] = process.argv.slice(1);
const fs = require("fs"), path = require("path");
const form = new FormData();
for (const file of paths) form.append("input_reference[]", new File([fs.readFileSync(file)], path.basename(file)));
fetch(url + "/v1/videos", {method: "POST", body: form}).then(answer => answer.text()).then(text => process.stdout.write(text));
"""


def by_node(url, paths):
    need("node", shutil.which("node") is not None, "no node on this machine")
    done = subprocess.run(["node", "-e", NODE, url, *map(str, paths)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


CLIENTS = [by_curl, by_requests, by_httpx, by_aiohttp, by_aiohttp_unquoted, by_openai, by_node]

NAMES = {
    "degrees": lambda step: f"mug_{45 * step:03d}.png",
    "a blank": lambda step: f"mug {45 * step:03d}.png",
    "Windows' counter": lambda step: f"mug ({step + 1}).png",
    "macOS' counter": lambda step: f"mug {step + 1}.png",
    "letters of elsewhere": lambda step: f"Größe ü 杯-{45 * step}.png",
    "encoded on disk": lambda step: f"mug%20{45 * step:03d}.png",
    "half degrees": lambda step: f"mug_{45 * step + 22.5:.1f}°.png",
    "quotation marks": lambda step: f'24" mug; {45 * step:03d}.png',
    "no ending": lambda step: f"mug-{45 * step:03d}",
}
CAMERA = [f"IMG_{1204 + step}.png" for step in range(8)]


def written(folder, names, seed=3):
    """The photos under these names, in an arbitrary order."""
    paths = []
    for name, data in zip(names, PHOTOS, strict=True):
        (folder / name).write_bytes(data)
        paths.append(folder / name)
    random.Random(seed).shuffle(paths)
    return paths


def placed(server, answer):
    """Index of each photo -> azimuth in the accepted job."""
    assert "error" not in answer or answer["error"] is None, answer
    job = server.context.store.get(answer["id"].removeprefix("video_"), None)
    archive = zipfile.ZipFile(io.BytesIO(server.context.artifacts.get(job.input.capture)))
    rows = dict(line.split(",") for line in archive.read("capture.csv").decode().split()[1:])
    found = {PHOTOS.index(archive.read(file)): float(azimuth) for file, azimuth in rows.items()}
    return [found[index] for index in sorted(found)]


def in_a_thread(make):
    """A coroutine's result: the browser's driver may have a loop running in this thread."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1).submit(lambda: asyncio.run(make())).result()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("kind", NAMES)
def test_a_photo_stands_where_its_name_says(server, client, kind, tmp_path):
    answer = client(server.url, written(tmp_path, [NAMES[kind](step) for step in range(8)]))
    offset = 22.5 if kind == "half degrees" else 0.0
    assert placed(server, answer) == [azimuth + offset for azimuth in EIGHT], answer
    assert answer["gap"]["azimuths_by"] == ("frames" if "counter" in kind else "degrees")
    assert answer["gap"]["warnings"] == []


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_numbers_that_could_be_anything_are_refused(server, client, tmp_path):
    answer = client(server.url, written(tmp_path, CAMERA))
    assert answer["error"]["code"] == "capture.ambiguous_azimuths" and "names=index" in answer["error"]["message"]


BROWSER = """
async ([photos, names]) => {
  const form = new FormData();
  photos.forEach((photo, index) => {
    const bytes = Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0));
    if (names) form.append("input_reference[]", new File([bytes], names[index], {type: "image/png"}));
    else form.append("input_reference[]", new Blob([bytes], {type: "image/png"}));
  });
  return (await fetch("/v1/videos", {method: "POST", body: form})).json();
}
"""


def test_form_data_of_a_browser(server, chromium):
    page = chromium.new_page()
    page.goto(server.url)
    order = random.Random(3).sample(range(8), 8)
    photos = [base64.b64encode(PHOTOS[index]).decode() for index in order]
    for kind, name in NAMES.items():
        answer = page.evaluate(BROWSER, [photos, [name(index) for index in order]])
        offset = 22.5 if kind == "half degrees" else 0.0
        assert placed(server, answer) == [azimuth + offset for azimuth in EIGHT], kind
    answer = page.evaluate(BROWSER, [photos, [CAMERA[index] for index in order]])
    assert answer["error"]["code"] == "capture.ambiguous_azimuths"
    answer = page.evaluate(BROWSER, [photos, None])
    assert answer["gap"]["azimuths_by"] == "order" and answer["gap"]["warnings"] == [ORDER_WARNING]
    assert placed(server, answer) == [EIGHT[order.index(index)] for index in range(8)]
    page.close()


# ---- multipart bodies as written by clients in other languages


def in_words(name):
    return "=?utf-8?B?" + base64.b64encode(name.encode()).decode() + "?="


PARTS = {
    "filename* alone": lambda name: f"; filename*=UTF-8''{quote(name)}",
    "filename* alone, in lower case and with a language": lambda name: f"; filename*=utf-8'en'{quote(name)}",
    "filename* beside a poorer one": lambda name: f"; filename=\"photo.png\"; filename*=UTF-8''{quote(name)}",
    "filename* before a poorer one": lambda name: f"; filename*=UTF-8''{quote(name)}; filename=photo.png",
    ".NET: encoded words and filename*": lambda name: (
        f"; filename=\"{in_words(name)}\"; filename*=utf-8''{quote(name)}"
    ),
    "encoded words alone": lambda name: f'; filename="{in_words(name)}"',
    "without quotation marks": lambda name: f"; filename={quote(name)}",
    "a path of Windows": lambda name: f'; filename="C:\\shoot\\mug\\{name}"',
    "a path": lambda name: f'; filename="shoot/45/{name}"',
    "continued (RFC 2231)": lambda name: f"; filename*0*=UTF-8''{quote(name[:4])}; filename*1*={quote(name[4:])}",
}


def posted(server, parts, path="/v1/videos", **fields):
    """A multipart body of hand-written parts: (rest of the disposition, other headers, content)."""
    body = b""
    for rest, headers, data in parts:
        lines = [f'Content-Disposition: form-data; name="{FIELD}"{rest}', *headers]
        body += b"--b\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + data + b"\r\n"
    for name, value in fields.items():
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    kind = {"content-type": "multipart/form-data; boundary=b"}
    return requests.post(server.url + path, data=body + b"--b--\r\n", headers=kind, timeout=20).json()


@pytest.mark.parametrize("kind", ["degrees", "a blank", "Windows' counter", "letters of elsewhere"])
@pytest.mark.parametrize("disposition", PARTS)
def test_parts_of_any_client(server, disposition, kind):
    order = random.Random(3).sample(range(8), 8)
    parts = [(PARTS[disposition](NAMES[kind](index)), ["Content-Type: image/png"], PHOTOS[index]) for index in order]
    answer = posted(server, parts)
    assert placed(server, answer) == EIGHT, answer
    assert answer["gap"]["azimuths_by"] == ("frames" if "counter" in kind else "degrees")


@pytest.mark.parametrize("headers", [[], ["Content-Type: image/png"], ["Content-Type: application/octet-stream"]])
def test_parts_that_nobody_named_are_photos_all_the_same(server, headers):
    answer = posted(server, [("", headers, data) for data in PHOTOS])
    assert placed(server, answer) == EIGHT and answer["gap"]["azimuths_by"] == "order"


def test_parts_in_base64(server):
    headers = ["Content-Transfer-Encoding: base64"]
    parts = [
        (f'; filename="mug_{45 * step:03d}.png"', headers, base64.encodebytes(data)) for step, data in enumerate(PHOTOS)
    ]
    assert placed(server, posted(server, parts[::-1])) == EIGHT


def test_photos_in_another_field_are_named(server):
    for files, expected in (
        ([("file", (f"mug_{45 * step:03d}.png", data)) for step, data in enumerate(PHOTOS)], "'file' (8 files)"),
        ([("pictures[]", ("mug_000.png", PHOTOS[0]))], "'pictures[]' (1 file)"),
    ):
        for path in ("videos", "packages", "images/edits"):
            form = {"prompt": "a mug", "scene": "marble-kitchen"}
            error = requests.post(f"{server.url}/v1/{path}", files=files, data=form, timeout=20).json()["error"]
            assert error["code"] == "request.no_photos" and expected in error["message"], path
            assert "'prompt'" in error["message"]
    answer = requests.post(f"{server.url}/v2/e/run", json={"input": {"pics": ["x"], "fps": 8}}, timeout=20).json()
    assert answer["code"] == "request.no_photos" and "'pics'" in answer["error"]
    error = requests.post(f"{server.url}/v1/videos", json={}, timeout=20).json()["error"]
    assert error["code"] == "request.no_photos" and "no field came" in error["message"]


# ---- every protocol states where azimuths come from


def views(by):
    texts = [base64.b64encode(data).decode() for data in PHOTOS]
    if by == "order":
        return texts
    if by == "table":
        return [{"azimuth_deg": azimuth, "b64": text} for azimuth, text in zip(EIGHT, texts, strict=True)]
    number = "mug_{:03.0f}.png" if by == "degrees" else "mug ({:.0f}).png"
    values = EIGHT if by == "degrees" else range(1, 9)
    return [{"name": number.format(value), "b64": text} for value, text in zip(values, texts, strict=True)]


PROTOCOLS = {
    "/v1/videos": "/v1/videos/{}",
    "/v1/images/edits?wait=0": "/v1/images/{}",
    "/v1/images/generations?wait=0": "/v1/images/{}",
    "/v1/packages": "/v1/packages/{}",
    "/v2/any/run": "/v2/any/status/{}",
}
"""URL to which photos are sent -> URL of the job."""


@pytest.mark.parametrize("by", ["degrees", "frames", "table", "order"])
@pytest.mark.parametrize("path", PROTOCOLS)
def test_every_protocol_states_where_azimuths_come_from(server, path, by):
    given = {"views": views(by), "prompt": "a mug on a table"}
    answer = requests.post(server.url + path, json={"input": given} if "run" in path else given, timeout=20).json()
    again = requests.get(server.url + PROTOCOLS[path].format(answer["id"]), timeout=20).json()
    for shown in (answer, again):
        shown = shown.get("gap", shown)
        assert shown["azimuths_by"] == by, answer
        assert shown["warnings"] == ([ORDER_WARNING] if by == "order" else [])


@pytest.mark.parametrize("path", PROTOCOLS)
def test_every_protocol_says_what_a_zip_holds_beside_its_photos(server, path):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for azimuth, view in zip(EIGHT, views("degrees"), strict=True):
            archive.writestr(f"mug_{azimuth:03.0f}.png", base64.b64decode(view["b64"]))
        archive.writestr("mug_000.aae", "edits")
    given = {"views": [{"b64": base64.b64encode(sink.getvalue()).decode()}], "prompt": "a mug on a table"}
    answer = requests.post(server.url + path, json={"input": given} if "run" in path else given, timeout=20).json()
    assert answer.get("gap", answer)["warnings"] == ["ignored: 1 (1 .aae)"], answer
