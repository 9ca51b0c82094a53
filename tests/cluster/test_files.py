"""The files that start clusters, checked offline."""

import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"
UP = sorted(CLUSTER.glob("[ag]*.yaml"))
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))


@pytest.mark.parametrize("path", UP, ids=lambda path: path.stem)
def test_ray_up_files_fit_ray_s_schema(path):
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load(path.read_text())
    schema = json.loads((resources.files("ray.autoscaler") / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(config)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}, "the head does no work"
    for name, node in types.items():
        if name != config["head_node_type"]:
            assert node["min_workers"] == 0 < node["max_workers"], f"{name} costs nothing while nothing waits"
    assert any("GPU" in node["resources"] for node in types.values())
    commands = json.dumps(config)
    assert "--dashboard-host=127.0.0.1" in commands and "0.0.0.0" not in commands
    assert "RAY_AUTH_MODE=token" in commands and any(name.endswith("auth_token") for name in config["file_mounts"])
    assert config["idle_timeout_minutes"] > 0
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert command.startswith(("ray stop", "ulimit"))


def test_both_clouds_are_there():
    assert {path.stem for path in UP} == {"aws", "gcp"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_manifests_are_whole(path):
    for document in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)
        text = json.dumps(document)
        assert '"mode": "token"' in text or not document["apiVersion"].startswith("ray.io"), (
            "no cluster without a token"
        )
        for cluster in clusters(document["spec"]):
            for group in cluster.get("workerGroupSpecs", []):
                assert {"groupName", "minReplicas", "maxReplicas", "template"} <= set(group)
                assert group["minReplicas"] <= group["maxReplicas"]
            assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
            for pod in re.findall(r'"nvidia.com/gpu": (\d+)', text):
                assert int(pod) >= 1, "pods ask for whole GPUs; shares live inside Ray"


def clusters(spec):
    if "headGroupSpec" in spec:
        return [spec]
    return [spec[name] for name in ("rayClusterSpec", "rayClusterConfig") if name in spec]


def test_the_ray_service_s_config_is_one_that_serve_takes():
    from ray.serve.schema import ServeDeploySchema

    from gapray.serve.settings import serve_settings

    document = yaml.safe_load((CLUSTER / "kuberay" / "rayservice.yaml").read_text())
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(document["spec"]["serveConfigV2"]))
    [application] = deployed.applications
    assert serve_settings(application.args).profile == "sd15"
    ours = yaml.safe_load((ROOT / "serve_configs" / "sd15-1gpu.yaml").read_text())
    assert application.args == ours["applications"][0]["args"], "one size, one set of figures"


def test_the_job_goes_on_by_itself():
    job = yaml.safe_load((CLUSTER / "kuberay" / "rayjob.yaml").read_text())["spec"]
    assert job["backoffLimit"] > 0 and job["shutdownAfterJobFinishes"]
    script = job["entrypoint"].split()[1].removeprefix("/app/")
    assert (ROOT / script).exists()


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    files = sorted(map(str, CLUSTER.glob("Dockerfile*")))
    done = subprocess.run([hadolint, *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_images_are_lean_and_run_as_nobody_special(name):
    text = (CLUSTER / name).read_text()
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line and not line.startswith("#")]
    assert len([line for line in lines if line.startswith("FROM ")]) == 2, "what builds does not ship"
    assert all(":" in line.split()[1] for line in lines if line.startswith("FROM ")), "a tag, not latest"
    assert lines.index("USER 1000:1000") < next(index for index, line in enumerate(lines) if line.startswith("CMD"))
    assert "--require-hashes" in text and f"requirements-{'gpu' if name.endswith('gpu') else 'cpu'}.lock" in text
    for line in lines:
        if "apt-get install" in line:
            assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists" in line
        if line.startswith("COPY") and "--from" not in line:
            for source in [part for part in line.split()[1:-1] if not part.startswith("--")]:
                assert (ROOT / source).exists(), source
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in [part for part in line.split()[1:-1] if not part.startswith("--")]:
                top = source.removeprefix("./")
                assert any(
                    rule == f"!{top}" or (rule.endswith("*.lock") and top.endswith(".lock")) for rule in ignored
                ), top
    for place in ("/cache/hf", "/cache/torch", "/app/models/Motion_Module"):
        assert place in text


def test_skypilot_asks_for_what_runpod_has():
    task = yaml.safe_load((CLUSTER / "skypilot-runpod.yaml").read_text())
    assert task["num_nodes"] == 1 and task["resources"]["infra"] == "runpod"
    assert task["resources"]["autostop"]["down"], "RunPod cannot stop a node, only give it back"
