"""A cluster whose machines hold different weights under one name: no row may say that it was made by the driver's."""

import json
import os
import subprocess
import sys

import pytest

from gapray.batch.render_stages import Draw, VideoFacts
from gapray.batch.score_stages import Compare, ScoreFacts
from gapray.batch.stages import Describe, Mask
from gapray.batch.stills_stages import DrawStills, StillFacts
from gapray.catalog.rows import RunFacts
from gapray.errors import ModelError
from gapray.models.cards import card_named
from gapray.models.load import require
from gapray.models.store import locate
from gapray.profile import load_profile
from tests.conftest import ONE_THREAD, ROOT
from tests.make import write_products

CARD = "clip-vit-b-32-openai"
"""A card without a hash: each machine believes what its first pull brought."""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go to a machine whose mirror holds a file of its own for the card."""

    def go_to(name):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "open_clip_model.safetensors").write_bytes(b"weights of " + name.encode())
        environment = {"GAPRAY_MODELS": str(folder), "GAPRAY_CACHE": str(folder / "cache")}
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        return environment

    return go_to


def stages(named):
    """Every kind of worker whose rows are keyed by a hash of weights, as it is made on its machine."""
    name, _, revision = named.partition("@")
    profile = load_profile("classic", environment=ONE_THREAD)
    package = RunFacts("r", "s", "classic", dict.fromkeys(("mask", "depth", "identity", "canny"), named))
    shared = {"settings": profile.packaging, "facts": package, "gpu": None}
    return {
        "mask": lambda: Mask(threads=1, **shared),
        "describe": lambda: Describe(batch=1, **shared),
        "draw": lambda: Draw(facts=VideoFacts("r", "c", profile, "web", {name: revision}), gpu=None, threads=1),
        "compare": lambda: Compare(facts=ScoreFacts("r", "c", profile, named, "", ""), threads=1),
        "stills": lambda: DrawStills(facts=StillFacts("r", "c", profile, {name: revision}, ""), gpu=None, threads=1),
    }


@pytest.mark.parametrize("stage", ["mask", "describe", "draw", "compare", "stills"])
def test_a_worker_whose_weights_differ_from_the_drivers_fails(machine, stage):
    machine("driver")
    named = f"{CARD}@{locate(card_named(CARD)).revision[:12]}"
    require(named)
    machine("worker")
    with pytest.raises(ModelError, match=CARD) as error:
        stages(named)[stage]()
    assert error.value.code == "model.mixed"


def test_a_worker_with_a_different_model_version_fails():
    require("hull@2", "null-model@2")
    with pytest.raises(ModelError) as error:
        require("hull@1")
    assert error.value.code == "model.mixed"


RUN = """
import json, sys
import ray
from gapray.batch.package import package
from gapray.profile import load_profile
from gapray.errors import GaprayError
source, out, card, workers = sys.argv[1:]
ray.init("local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False,
         runtime_env={"env_vars": json.loads(workers)})
names = ["mask.model=null-model", "depth.model=null-model", f"identity.model={card}"]
try:
    package(source, out=out, profile=load_profile("classic", overrides=names))
except GaprayError as error:
    print(json.dumps([error.code, error.message]))
"""


@pytest.mark.long
def test_a_run_on_a_mixed_cluster_fails_and_commits_nothing(machine, tmp_path):
    source = write_products(tmp_path / "shoot", 1)
    workers = machine("worker")
    machine("driver")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(source), str(tmp_path / "catalog"), CARD, json.dumps(workers)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    code, message = json.loads(done.stdout.splitlines()[-1])
    assert code == "model.mixed" and CARD in message
    assert not list((tmp_path / "catalog").glob("products/*")) + list((tmp_path / "catalog").glob("views/*"))
