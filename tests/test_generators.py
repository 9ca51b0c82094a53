"""A generator of an installed package, as docs/generators.md describes it: in both executors and over HTTP."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
import requests

from gapray.capture.decode import decode_photo
from gapray.errors import ConfigError
from gapray.generators import GeneratorSpec
from gapray.models.cards import generator_vram_gb
from gapray.profile import load_profile
from gapray.stills.generators import STILL_GENERATORS
from gapray.video.decode import read_frames
from gapray.video.generators import VIDEO_GENERATORS
from tests.conftest import ROOT
from tests.make import write_product, write_products
from tests.serve.conftest import TINY, served

SETS = [word for item in TINY for word in ("--set", item)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder in which the package of docs/generators.md is installed."""
    text = (ROOT / "docs" / "generators.md").read_text()
    folder = tmp_path_factory.mktemp("site-packages")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        [name] = re.findall(r'^"""(\w+\.py):', code)
        (folder / name).write_text(code)
    first, second = map(tomllib.loads, re.findall(r"```toml\n(.*?)```", text, re.DOTALL))
    project = first["project"]
    facts = folder / "toy_generator-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"] | second["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    ]
    (facts / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def installed(toy, monkeypatch):
    """The package in this process."""
    monkeypatch.syspath_prepend(str(toy))
    for registry in (VIDEO_GENERATORS, STILL_GENERATORS):
        registry.find.cache_clear()
    yield
    for registry in (VIDEO_GENERATORS, STILL_GENERATORS):
        registry.find.cache_clear()


def profile(*overrides):
    return load_profile("classic", overrides=list(overrides), environment={})


def key(video):
    return video.digests(profile().orbit, "web", {}, ["0" * 64], 0)[0]


def gapray(toy, *words):
    environment = os.environ | {"PYTHONPATH": f"{toy}{os.pathsep}{ROOT}", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-m", "gapray", *map(str, words), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.returncode, json.loads(done.stdout)


def test_its_settings_are_a_group_of_their_own(installed):
    assert "toy" in VIDEO_GENERATORS.names()
    video = profile("video.backend=toy", "video.toy.strength=0.5").video
    assert video.chosen.strength == 0.5 and video.chosen.prompt == "candle"
    assert type(video).model_validate_json(video.model_dump_json()) == video
    assert video.results()["toy"] == {"prompt": "candle", "strength": 0.5}
    assert generator_vram_gb(video) is None
    wrong = {
        "video.toy.strength=2": "video.toy.strength",
        "video.toy.colour=red": "video.toy.colour",
        "video.toys.strength=1": "video.toys",
        "video.backend=toys": "generators: animatediff, morph, toy",
    }
    for override, name in wrong.items():
        with pytest.raises(ConfigError, match=re.escape(name)) as error:
            profile(override)
        assert error.value.code == "config.invalid"


def test_its_videos_have_keys_of_their_own(installed, monkeypatch):
    chosen = profile("video.backend=toy").video
    assert key(chosen) == key(profile("video.backend=toy", "video.toy.strength=1.0").video)
    assert key(chosen) != key(profile("video.backend=toy", "video.toy.strength=0.5").video)
    assert key(profile().video) == key(profile("video.toy.strength=0.5").video), (
        "another generator's settings do not count"
    )
    newer = GeneratorSpec(chosen.generator.settings, chosen.generator.load, version="2")
    before = key(chosen)
    with monkeypatch.context() as patched:
        patched.setattr(VIDEO_GENERATORS, "find", {"toy": newer}.get)
        assert key(chosen) != before, "a new version draws other frames"


def test_a_package_that_cannot_be_imported_is_named(toy, tmp_path, monkeypatch):
    facts = tmp_path / "broken-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[gapray.generators]\nbroken = no_such_module:GENERATOR\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert profile().video.backend == "morph", "a broken package harms only those who use it"
    with pytest.raises(ConfigError, match=r"'broken' cannot be imported: ModuleNotFoundError.*no_such_module"):
        profile("video.backend=broken")


@pytest.fixture(scope="module")
def drawn(toy, tmp_path_factory):
    """Catalogue with videos by the toy and by the morph, all made without Ray."""
    folder = tmp_path_factory.mktemp("toy")
    write_products(folder / "shoot", 1)
    local = [*SETS, "--set", "run.executor=local"]
    assert gapray(toy, "package", folder / "shoot", "--out", folder / "catalog", *local)[0] == 0
    for words in (["--backend", "toy", "--set", "video.toy.strength=0.5"], []):
        code, done = gapray(toy, "render", folder / "catalog", *local, *words)
        assert (code, done["rendered"]) == (0, 1), done
    return folder


def frames_by(folder, backend):
    from gapray import open_catalog

    rows = open_catalog(str(folder / "catalog")).table("videos").to_pylist()
    [row] = [row for row in rows if row["backend"] == backend and row["seed"] == 0]
    [name] = [path for path in row["files"] if path.endswith(".mp4")]
    return np.array(read_frames(folder / "catalog" / name)).astype(float)


def test_the_local_executor_draws_with_it(drawn):
    plain, tinted = frames_by(drawn, "morph"), frames_by(drawn, "toy")
    ratio = tinted.mean((0, 1, 2)) / plain.mean((0, 1, 2))
    assert np.abs(ratio - (1.0, 0.925, 0.8)).max() < 0.02, "half of the candle's (1, .85, .6)"


def test_without_the_package_its_videos_are_refused_by_name(drawn, tmp_path):
    code, done = gapray(tmp_path, "render", drawn / "catalog", *SETS, "--backend", "toy")
    assert code != 0 and done["error"]["code"] == "config.invalid" and "video.backend" in done["error"]["message"]


@pytest.mark.long
def test_ray_draws_the_same(toy, drawn):
    before = frames_by(drawn, "toy")
    words = ["--backend", "toy", "--set", "video.toy.strength=0.5", "--seeds", "2", *SETS]
    code, done = gapray(toy, "render", drawn / "catalog", *words)
    assert (code, done["rendered"]) == (0, 1), "that of the other seed"
    from gapray import open_catalog

    rows = open_catalog(str(drawn / "catalog")).table("videos").to_pylist()
    again = {row["seed"]: row["files"] for row in rows if row["backend"] == "toy" and row["product_id"] == "sku-0000"}
    assert sorted(again) == [0, 1]
    assert np.array_equal(before, frames_by(drawn, "toy"))


def test_a_server_draws_with_it(installed, toy, tmp_path, lpips_alex):
    folder = write_product(tmp_path / "mug")
    form = [("input_reference[]", (path.name, path.read_bytes(), "image/png")) for path in sorted(folder.iterdir())]
    overrides = (*TINY, "video.backend=toy")
    with served(tmp_path, worker="pipeline", overrides=overrides) as server:
        body = {"prompt": "moon", "steps": "3", "score": "false"}
        job = requests.post(f"{server.url}/v1/videos", data=body, files=form, timeout=30).json()
        end = time.monotonic() + 120
        while job["status"] not in ("completed", "failed") and time.monotonic() < end:
            time.sleep(0.1)
            job = requests.get(f"{server.url}/v1/videos/{job['id']}", timeout=30).json()
    assert job["status"] == "completed", job
    assert "toy does not read steps" in job["gap"]["warnings"]


def test_stills_are_drawn_by_an_installed_generator(toy, drawn, lpips_alex):
    words = ["--scenes", "white-studio", "--set", "stills.megapixels=0.05", "--set", "run.executor=local", *SETS]
    codes = {}
    for grey in (90, 200):
        code, done = gapray(
            toy, "stills", drawn / "catalog", "--backend", "toy-still", "--set", f"stills.toy-still.grey={grey}", *words
        )
        codes[grey] = code, done["stills"]
    assert codes == {90: (0, 1), 200: (0, 1)}, "another wall is another still"
    from gapray import open_catalog

    opened = open_catalog(str(drawn / "catalog"))
    [row] = opened.stills().to_pylist()
    assert row["backend"] == "toy-still" and row["pasted"]
    picture = decode_photo(opened.folder.read(row["file"]))
    assert np.abs(picture[:4, :4].astype(int) - 200).max() <= 3, "the newest is the current one"
