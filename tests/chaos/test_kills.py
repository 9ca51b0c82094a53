"""kill -9 of the driver, of workers and of actors; two runs at once; a writer that sleeps through the next run.

After each, the current rows must hold every product exactly once, with the content of an undisturbed run.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gapray.catalog.reader import Catalog
from gapray.catalog.storage import Folder
from tests.make import write_products

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

PRODUCTS = 12
KILLS = int(os.environ.get("GAPRAY_CHAOS_KILLS", "2"))
"""How often a test kills; ten times for `make test-night`."""
RENDERED = 4
SEED = int(os.environ.get("GAPRAY_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


@pytest.fixture(scope="module")
def chaos(tmp_path_factory):
    """A Ray cluster of its own; each of its processes loads the sitecustomize beside this file."""
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("chaos")
    before = dict(os.environ)
    os.environ["GAPRAY_CHAOS_FOLDER"] = str(folder)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 400 * 2**20, "include_dashboard": False},
    )
    write_products(folder / "shoot", PRODUCTS)
    print(f"\nchaos seed {SEED}: GAPRAY_CHAOS_SEED={SEED} repeats it")
    yield Chaos(folder, cluster)
    cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)


class Chaos:
    def __init__(self, folder, cluster):
        self.folder, self.cluster = folder, cluster
        self.random = random.Random(SEED)
        self._reference = None

    def start(self, catalog, *, own_ray=False) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "gapray",
            "package",
            str(self.folder / "shoot"),
            "--out",
            str(self.folder / catalog),
        ]
        # Masks without a network: a package takes a fifth of the time, and everything of it still comes from its photos.
        settings = ("run.products_per_part=2", "run.products_per_block=1", "mask.model=null-model")
        command += ["--json", *(f"--set={setting}" for setting in settings)]
        command += [] if own_ray else ["--address", self.cluster.address]
        log = (self.folder / f"{catalog}.log").open("ab")
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)

    def finish(self, process) -> dict:
        out, _ = process.communicate(timeout=400)
        assert process.returncode == 0, out.decode()[-2000:]
        return json.loads(out)

    def done(self, catalog) -> int:
        folder = Folder.at(str(self.folder / catalog))
        return Catalog(folder).products().num_rows if folder.parts("products") else 0

    def content(self, catalog) -> dict[str, str]:
        """Product -> hash of everything a reader decodes; and that there is each product once."""
        opened = Catalog(Folder.at(str(self.folder / catalog)))
        names = opened.products()["product_id"].to_pylist()
        assert names == sorted(set(names))
        found = {}
        for name in names:
            package = opened.package(name)
            digest = hashlib.sha256(package.key.encode())
            for view in package.views:
                digest.update(str(view.azimuth_deg).encode())
                for image in (view.reference, view.mask, view.depth, view.canny, view.identity):
                    digest.update(image.tobytes())
            found[name] = digest.hexdigest()
        return found

    def reference(self) -> dict[str, str]:
        if self._reference is None:
            summary = self.finish(self.start("undisturbed"))
            assert summary["packaged"] == PRODUCTS
            self._reference = self.content("undisturbed")
        return self._reference

    def processes(self, *, actors: bool) -> list[psutil.Process]:
        """Worker processes of the cluster that run our stages: actors, or the tasks between them."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            ours = "ray::MapWorker" in title if actors else title.startswith("ray::MapBatches")
            if ours:
                found.append(process)
        return found

    def kill_one(self, *, actors: bool) -> int:
        """Kill one of them at random, if there is one: tasks live for fractions of a second."""
        victims = self.processes(actors=actors)
        if not victims:
            return 0
        victim = self.random.choice(victims)
        try:
            print(f"kill {' '.join(victim.cmdline())[:60]}")
            victim.kill()
        except psutil.Error:
            return 0
        return 1

    def wait_for(self, condition, process, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            if condition():
                return True
            time.sleep(0.05)
        return False


def test_the_driver_is_killed(chaos):
    reference = chaos.reference()
    done = []
    for kill in range(KILLS):
        process = chaos.start("driver")
        # Half of the kills at any time from start-up on, half when parts are being written.
        if kill % 2:
            before = chaos.done("driver")
            chaos.wait_for(lambda: chaos.done("driver") > before, process)  # noqa: B023
            time.sleep(chaos.random.uniform(0, 1.5))
        else:
            time.sleep(chaos.random.uniform(3, 18))
        process.kill()
        process.communicate()
        done.append(chaos.done("driver"))
    assert done == sorted(done)
    print(f"products after each kill: {done}")
    summary = chaos.finish(chaos.start("driver"))
    # Finished products were not computed again: the counter says what this run did.
    assert summary["finished"] >= done[-1]
    assert summary["packaged"] == PRODUCTS - summary["finished"]
    assert chaos.content("driver") == reference
    assert chaos.finish(chaos.start("driver"))["finished"] == PRODUCTS


@pytest.mark.parametrize("kind", ["worker", pytest.param("actor", marks=pytest.mark.night)])
def test_workers_and_actors_are_killed(chaos, kind):
    reference = chaos.reference()
    kills, runs, died_in_rename = 0, 0, False
    while kills < KILLS and runs < 5:
        catalog = f"{kind}-{runs}"
        runs += 1
        armed = chaos.folder / "die-before-rename"
        if kind == "worker" and runs == 1:
            armed.touch()
        process = chaos.start(catalog)
        while process.poll() is None and kills < KILLS:
            time.sleep(chaos.random.uniform(0.2, 4.0))
            chaos.wait_for(lambda: chaos.processes(actors=kind == "actor"), process)
            kills += chaos.kill_one(actors=kind == "actor")
        summary = chaos.finish(process)
        assert summary["rejected"] == 0
        assert chaos.content(catalog) == reference
        if kind == "worker" and runs == 1:
            died_in_rename = not armed.exists()
            left = list((chaos.folder / catalog).rglob("*.tmp"))
            assert died_in_rename
            assert left, "the killed writer left its temporary file"
    assert kills >= KILLS


def test_two_runs_at_once(chaos):
    first, second = chaos.start("both"), chaos.start("both", own_ray=True)
    for summary in (chaos.finish(first), chaos.finish(second)):
        assert summary["rejected"] == 0
        assert summary["finished"] + summary["packaged"] == PRODUCTS
    assert chaos.content("both") == chaos.reference()


def test_a_writer_that_sleeps_through_the_next_run(chaos):
    sleeper = chaos.start("asleep", own_ray=True)
    assert chaos.wait_for(lambda: chaos.done("asleep") >= 2, sleeper)
    tree = [psutil.Process(sleeper.pid), *psutil.Process(sleeper.pid).children(recursive=True)]
    try:
        for process in tree:
            process.send_signal(signal.SIGSTOP)
        before = chaos.done("asleep")
        summary = chaos.finish(chaos.start("asleep"))
        assert summary["finished"] == before
        assert chaos.content("asleep") == chaos.reference()
    finally:
        for process in tree:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
    sleeper.communicate(timeout=300)  # it may finish or notice that its cluster lost it; both must do no harm
    assert chaos.content("asleep") == chaos.reference()


@pytest.mark.night
def test_render_actors_and_the_driver_are_killed(chaos):
    """Videos: every product once, the frames of an undisturbed run."""
    source = chaos.folder / "undisturbed"
    chaos.reference()

    def start(catalog):
        target = chaos.folder / catalog
        if not target.exists():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("videos"))
        command = [sys.executable, "-m", "gapray", "render", str(target), "--json", "--address", chaos.cluster.address]
        command += ["--limit", str(RENDERED), "--preset", "webp"]
        for item in (
            "orbit.size=64",
            "orbit.voxels=40",
            "orbit.frames=8",
            "orbit.engine=morph",
            "run.videos_per_part=1",
        ):
            command += ["--set", item]
        log = (chaos.folder / f"{catalog}.log").open("ab")
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)

    def frames(catalog):
        opened = Catalog(Folder.at(str(chaos.folder / catalog)))
        rows = opened.videos().to_pylist()
        names = [row["product_id"] for row in rows]
        assert names == sorted(set(names)) and len(names) == RENDERED
        return {row["product_id"]: hashlib.sha256(opened.folder.read(row["files"][0])).hexdigest() for row in rows}

    assert chaos.finish(start("render-calm"))["rendered"] == RENDERED
    process = start("render-hurt")
    kills = 0
    while process.poll() is None and kills < 2:
        chaos.wait_for(lambda: chaos.processes(actors=True), process)
        time.sleep(chaos.random.uniform(1, 4))
        kills += chaos.kill_one(actors=True)
    time.sleep(chaos.random.uniform(0, 4))
    process.kill()
    process.communicate()
    summary = chaos.finish(start("render-hurt"))
    assert kills and summary["rejected"] == 0
    assert summary["finished"] + summary["rendered"] == RENDERED
    assert frames("render-hurt") == frames("render-calm")
