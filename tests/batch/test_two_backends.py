"""`gapray run`, `render` with a second backend, `score`: each verdict under its own video, by SQL over the catalogue."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gapray.cli.main import app
from gapray.models.cards import card_named
from gapray.models.store import locate
from tests.batch.test_score import smaller
from tests.video import tiny

pytestmark = [pytest.mark.usefixtures("lpips_alex"), pytest.mark.timeout(900), pytest.mark.long]
SMALL = [
    "orbit.size=64",
    "orbit.voxels=48",
    "orbit.frames=16",
    "orbit.flow=false",
    "orbit.refine_camera=false",
    "orbit.engine=morph",
    "run.generators_on_cpu=true",
]
SCORES = ["fidelity.size=64", "fidelity.native=false", "fidelity.leave_out=1", "fidelity.baselines=false"]
DIFFUSION = [*SMALL, "video.animatediff.steps=2", "video.animatediff.start=noise", "video.animatediff.composite=false"]
COMMANDS = """
import json, sys, tempfile
import ray
from gapray.cli.main import app

ray.init(num_cpus=2, object_store_memory=300 * 2**20, include_dashboard=False, log_to_driver=False,
         _temp_dir=tempfile.mkdtemp(prefix="ray-"))
for arguments in json.loads(sys.argv[1]):
    app(arguments, standalone_mode=False)
"""


def options(*settings):
    return [argument for setting in settings for argument in ("--set", setting)]


def run(*arguments):
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def verdicts(catalog):
    rows = run(
        "catalog",
        "sql",
        str(catalog),
        "SELECT v.product_id, v.backend, d.lpips, d.key_lpips, d.gate, d.protocol FROM videos v JOIN verdicts d "
        "ON d.video_key = v.key AND d.product_id = v.product_id WHERE d.label = 'gapray'",
    )
    return {(row["product_id"], row["backend"]): row for row in rows}


@pytest.mark.night
def test_verdicts_belong_to_their_own_videos(samples, classic_weights, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    tiny.write_mirror(mirror)
    real = {"u2netp": classic_weights.parent}
    for card in ("lpips-alexnet", "lpips-alexnet-flax"):
        try:
            real[card] = next(iter(locate(card_named(card), fetch=False).files.values())).parent
        except Exception:
            continue
    for card, folder in real.items():
        (mirror / card).symlink_to(folder)
    monkeypatch.setenv("GAPRAY_MODELS", str(mirror))
    monkeypatch.setenv("GAPRAY_CACHE", str(tmp_path / "cache"))
    for product in ("mug", "supplement"):
        smaller(samples / "captures" / product, tmp_path / "photos" / product, 192)
    catalog = tmp_path / "catalog"
    commands = [
        ["run", str(tmp_path / "photos"), "--out", str(catalog), *options(*SMALL, *SCORES)],
        ["render", str(catalog), "--profile", "sd15", *options(*DIFFUSION)],
        ["score", str(catalog), *options(*SMALL[-1:], *SCORES)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = verdicts(catalog)
    assert set(found) == {
        (product, backend) for product in ("mug", "supplement") for backend in ("morph", "animatediff")
    }
    for product in ("mug", "supplement"):
        drawn, morphed = found[product, "animatediff"], found[product, "morph"]
        # What a random network draws between the photos is nothing like the product; the morph is.
        assert drawn["lpips"] > 1.5 * morphed["lpips"], product
        assert json.loads(drawn["protocol"])["truth"] == "leave-one-out"
    # How it is computed is in no key, and a gate is judged by stored numbers: no Ray is started for any of this.
    again = run("render", str(catalog), "--profile", "sd15", *options(*DIFFUSION, "video.animatediff.decode_chunk=4"))
    assert (again["finished"], again["rendered"]) == (2, 0)
    gate = "fidelity.gate.max_lpips=0.00001"
    judged = run("score", str(catalog), *options(*SCORES, gate))
    assert (judged["finished"], judged["pairs"]) == (4, 0)
    assert {row["gate"] for row in verdicts(catalog).values()} == {"fail"}
    assert {key: row["lpips"] for key, row in verdicts(catalog).items()} == {
        key: row["lpips"] for key, row in found.items()
    }
