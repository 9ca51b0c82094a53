"""Ray's own autoscaler over fake nodes: groups grow under the backlog that needs them, alone, and shrink to their minimum.

The head has no CPU and every group begins at nothing, as in `cluster/`. "GPUs" are numbers to Ray here: no process uses one.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress

import pytest
import requests

import gapray
from tests.chaos.fake_cloud import FakeCloud, free_ports
from tests.conftest import ROOT
from tests.make import write_products
from tests.serve.conftest import TINY, photos, postgres, postgres_server  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
TYPES = {
    "cpu": {"resources": {"CPU": 2}, "max_workers": 3},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2},
}
NONE = {"cpu": 0, "gpu": 0}
PRODUCTS = 16
NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model"]


@pytest.fixture(scope="module")
def cloud():
    with FakeCloud({"CPU": 0}, TYPES) as found:
        yield found
    assert not found.processes()


class Watch:
    """What the nodes were while something ran."""

    def __init__(self, cloud):
        self.seen = [cloud.nodes()]
        self._cloud, self._stop = cloud, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        began = time.monotonic()
        while not self._stop.wait(0.3):
            with suppress(Exception):
                now = self._cloud.nodes()
                if now != self.seen[-1]:
                    print(f"  {time.monotonic() - began:5.1f} s {now}")
                    self.seen.append(now)

    def most(self, group):
        return max(now[group] for now in self.seen)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(20)


@contextmanager
def driver(cloud, program, *words):
    """A program in a process of its own: a lost head ends its drivers, and that must not be pytest."""
    log = cloud.folder / f"driver-{time.monotonic_ns()}.log"
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "1"}
    environment.pop("RAY_ADDRESS", None)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
        )
    process.said = lambda: log.read_text(errors="replace")[-3000:]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process, seconds=400) -> str:
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, out.decode()[-2000:] + process.said()
    return out.decode()


BACKLOG = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=float(sys.argv[2]), num_gpus=float(sys.argv[3]))
def work():
    time.sleep(5)

ray.get([work.remote() for _ in range(int(sys.argv[4]))])
"""


@pytest.mark.night
@pytest.mark.parametrize("version", ["v2"])
def test_each_group_grows_for_its_own_backlog_and_shrinks_to_nothing(request, version):
    """Plain Ray: proves the fake cloud."""
    mine = request.getfixturevalue("cloud") if version == "v2" else FakeCloud({"CPU": 0}, TYPES, autoscaler_v2=False)
    try:
        if version == "v1":
            mine.__enter__()
        assert mine.nodes() == NONE
        for group, cpus, gpus, tasks, most in (("cpu", 1, 0, 6, 3), ("gpu", 0, 1, 2, 2)):
            [other] = {"cpu", "gpu"} - {group}
            with Watch(mine) as watch, driver(mine, ["-c", BACKLOG], mine.address, cpus, gpus, tasks) as process:
                finish(process)
                mine.wait_for(lambda now: now == NONE, 60)
            assert watch.most(group) == most and watch.most(other) == 0, watch.seen
    finally:
        if version == "v1":
            mine.stop()
            assert not mine.processes()


@pytest.fixture(scope="module")
def shoot(tmp_path_factory):
    return write_products(tmp_path_factory.mktemp("shoot") / "shoot", PRODUCTS, size=256)


def packaged(process, target):
    summary = json.loads(finish(process))
    assert (summary["packaged"], summary["rejected"]) == (PRODUCTS, 0)
    names = gapray.open_catalog(str(target)).products()["product_id"].to_pylist()
    assert len(names) == len(set(names)) == PRODUCTS
    return summary


def words_of(cloud, shoot, target, *more):
    items = [*NULL, "run.products_per_part=2", "run.products_per_block=1", "run.max_cpus=6", *more]
    words = ["package", shoot, "--out", target, "--address", cloud.address, "--json"]
    return words + [word for item in items for word in ("--set", item)]


# The command, with a null model that takes seconds a product and no CPU: a backlog that is the same on every machine. `describe` comes
# after stages that start slowly, and takes two products at once: it is so slow that they run ahead of it all the same. It also asks
# Ray for half a GPU a worker, of which it uses nothing.
SLOW = """
import dataclasses, sys, time
import ray.cloudpickle
from gapray.batch import package
from gapray.cli.main import app

@dataclasses.dataclass(frozen=True)
class Share:
    num_gpus: float = 0.5

    def cap_this_process(self):
        pass

def slow(stage, seconds):
    class Slow(stage):
        def __call__(self, table):
            time.sleep(seconds)
            return super().__call__(table)

    return Slow

ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
plan = package.plan_stages
if sys.argv.pop(1) == "mask":
    package.Mask = slow(package.Mask, 2)
else:
    package.Describe = slow(package.Describe, 8)
    package.plan_stages = lambda *given: dataclasses.replace(plan(*given), describe_gpu=Share())
app()
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    program = tmp_path_factory.mktemp("slow") / "slow.py"
    program.write_text(SLOW)
    return program


@pytest.mark.night
def test_the_batch_pipeline_grows_with_its_backlog(cloud, shoot, slow, tmp_path):
    """From no node at all to the whole CPU group; a run without networks starts no GPU node, though those have CPUs too."""
    cloud.wait_for(lambda now: now == NONE, 60)
    words = words_of(cloud, shoot, tmp_path / "catalog")
    with Watch(cloud) as watch, driver(cloud, [slow], "mask", *words) as process:
        packaged(process, tmp_path / "catalog")
        cloud.wait_for(lambda now: now == NONE, 60)
    assert watch.most("cpu") == 3, watch.seen
    assert watch.most("gpu") == 0, watch.seen


def test_the_batch_pipeline_starts_gpu_nodes_for_the_stage_that_needs_them(cloud, shoot, slow, tmp_path):
    cloud.wait_for(lambda now: now == NONE, 60)
    words = words_of(cloud, shoot, tmp_path / "catalog", "run.max_gpus=2", "run.describe_workers=4")
    with Watch(cloud) as watch, driver(cloud, [slow], "describe", *words) as process:
        packaged(process, tmp_path / "catalog")
        cloud.wait_for(lambda now: now == NONE, 60)
    # The CPU group may grow to its end as well: its own pool is planned to fill it, and asks while its first actors import.
    assert watch.most("gpu") == 2 and watch.most("cpu") > 0, watch.seen


# `gapray serve --address`, with the delays of minutes that keep real replicas from flapping cut to seconds.
SERVER = """
import json, sys
import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from gapray.serve import deployments

def hasty(**options):
    short = {"downscale_delay_s": 4, "upscale_delay_s": 1, "look_back_period_s": 3, "metrics_interval_s": 1}
    return AutoscalingConfig(**options | short)

deployments.AutoscalingConfig = hasty
ray.init(address=sys.argv[1], log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
serve.run(deployments.build(json.loads(sys.argv[3])), name="gapray", route_prefix="/")

def replicas():
    found = serve.status().applications["gapray"].deployments
    return {name: one.replica_states.get("RUNNING", 0) for name, one in found.items()}

for line in sys.stdin:
    print(json.dumps(replicas()), flush=True)
serve.shutdown()
"""


def replicas(process) -> dict[str, int]:
    process.stdin.write(b"\n")
    process.stdin.flush()
    while True:
        line = process.stdout.readline()
        assert line, process.said()
        if line.startswith(b"{"):
            return json.loads(line)


def submit(url, kind, views, count):
    form = [("input_reference[]", (name, data, "image/png")) for name, data in views.items()]
    ids = []
    for number in range(count):
        headers = {"idempotency-key": f"{kind}-{number}"}
        answer = requests.post(f"{url}/v1/{kind}", files=form, headers=headers, timeout=30)
        assert answer.status_code in (200, 202), answer.text
        ids.append(answer.json()["id"])
    return ids


def completed(url, kind, ids, seconds):
    end = time.monotonic() + seconds
    states = Counter()
    while time.monotonic() < end:
        found = [requests.get(f"{url}/v1/{kind}/{one}", timeout=10).json() for one in ids]
        states = Counter(one["status"] for one in found)
        if states == {"completed": len(ids)}:
            return
        assert not states["failed"], found
        time.sleep(1)
    raise AssertionError(f"{kind}: {states}")


def settled(cloud, process, wanted, nodes, seconds=90):
    """Replicas first, then the nodes that they were on."""
    end = time.monotonic() + seconds
    while (now := replicas(process)) | wanted != now:
        assert time.monotonic() < end, f"still {now}\n{cloud.log()}"
        time.sleep(0.5)
    cloud.wait_for(lambda found: found == nodes, seconds)


def test_a_server_scales_its_groups_apart(cloud, tmp_path, photos, postgres, lpips_alex):  # noqa: F811
    """gapray's own application and policy. Packages need CPUs only; videos wake the generators, and those the GPU nodes."""
    del lpips_alex
    cloud.wait_for(lambda now: now == NONE, 60)
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "overrides": [*TINY, "depth.model=hull"],
        "jobs_url": postgres,
        "artifacts": str(tmp_path / "artifacts"),
        "shared_artifacts": True,
        "open": True,
        "jobs": {"running": 6},
        "ingress": {"ongoing": 100, "cpus": 0.25},
        "packager": {"min": 1, "max": 3, "cpus": 1},
        "generator": {"min": 0, "max": 2, "cpus": 0.5, "gpus": 1},
        "scorer": {"ongoing": 4, "cpus": 0.25},
        "stylist": None,
    }
    rest = {"packager": 1, "generator": 0}
    asleep = {"cpu": 1, "gpu": 0}
    with driver(cloud, ["-c", SERVER], cloud.address, port, json.dumps(settings)) as process:
        with Watch(cloud) as watch:
            assert replicas(process) | rest == replicas(process)
            cloud.wait_for(lambda now: now == asleep, 60)
            ids = submit(url, "packages", photos, 40)
            cloud.wait_for(lambda now: now["cpu"] > 1, 90)
            completed(url, "packages", ids, 120)
            settled(cloud, process, rest, asleep)
        assert watch.most("gpu") == 0, watch.seen
        with Watch(cloud) as watch:
            ids = submit(url, "videos", photos, 2)
            cloud.wait_for(lambda now: now["gpu"] == 2, 90)
            completed(url, "videos", ids, 200)
            settled(cloud, process, rest, asleep)
        finish(process, 60)
    cloud.wait_for(lambda now: now == NONE, 90)
