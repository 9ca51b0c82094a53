"""What a run leaves of its caller's settings, and actors that die, on a real Ray."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
import torch

import gapray
from gapray.batch.capacity import Capacity
from gapray.batch.pipeline import Stage
from gapray.batch.ray_data import apply_stage, read_manifest
from gapray.batch.render import estimate
from gapray.catalog.import_package import import_package
from gapray.catalog.storage import Folder
from gapray.errors import ModelError, ResourceError
from gapray.profile import RunSettings, load_profile
from gapray.ray_session import unwrapped_ray_errors
from tests import make
from tests.conftest import ONE_THREAD, ROOT
from tests.make import write_products

NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model", "run.products_per_part=2"]
ROWS = 12
IDS = pa.schema([("id", pa.int64())])
FIXED, GROWING = Capacity({"CPU": 2.0}), Capacity({"CPU": 2.0}, {"CPU": 3.0})


@pytest.fixture
def manifest(tmp_path):
    pq.write_table(pa.table({"id": range(ROWS)}), tmp_path / "manifest.parquet")
    return str(tmp_path / "manifest.parquet"), Folder.at(str(tmp_path))


def levels():
    return {name: logging.getLogger(name).level for name in ("", "ray", "ray.data", "ray._private.authentication")}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stops", [False, True])
def test_a_run_preserves_the_callers_data_context(ray_cluster, tmp_path, stops):
    """On a cluster that may grow, where a run limits what Ray Data plans with; an error on the way makes no difference."""
    write_products(tmp_path / "shoot", 1)
    profile = load_profile("classic", overrides=[*NULL, "run.max_gpus=1"], environment=ONE_THREAD)
    context = ray.data.DataContext.get_current()
    before = context.copy(), levels(), dict(os.environ)

    def on_progress(summary):
        if stops and summary.done:
            raise Stopped

    try:
        gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=profile, on_progress=on_progress)
        assert not stops
    except Stopped:
        assert stops
    assert ray.data.DataContext.get_current() is context
    assert (context, levels(), dict(os.environ)) == before
    assert gapray.open_catalog(str(tmp_path / "c")).products().num_rows == 1


OWN_RAY = """
import json, logging, os
from gapray.ray_session import connected
from gapray.errors import InputError
logging.getLogger("ray").setLevel(logging.INFO)
before = dict(os.environ), logging.getLogger("ray").level
seen = {}
for fails in (False, True):
    try:
        with connected(None):
            seen["inside"] = dict(os.environ) == before[0]
            if fails:
                raise InputError("image.empty", "nothing in it")
    except InputError:
        seen["raised"] = True
seen["outside"] = (dict(os.environ), logging.getLogger("ray").level) == before
print(json.dumps(seen))
"""


@pytest.mark.long
def test_a_local_ray_preserves_environment_and_loggers(tmp_path):
    done = subprocess.run([sys.executable, "-c", OWN_RAY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"inside": True, "raised": True, "outside": True}


def test_an_estimate_preserves_thread_counts(tmp_path):
    """Stages set the threads of their process, which here is the caller's."""
    import_package(Folder.at(str(tmp_path)), make.package(), uri="x")
    small = [
        "orbit.size=64",
        "orbit.voxels=32",
        "orbit.frames=4",
        "orbit.flow=false",
        "orbit.refine_camera=false",
        "orbit.engine=morph",
    ]
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        torch.set_num_threads(3)
        cv2.setNumThreads(2)
        found = estimate(
            tmp_path, profile=load_profile("classic", overrides=small, environment=ONE_THREAD), preset="webp"
        )
        assert (torch.get_num_threads(), cv2.getNumThreads(), found.measured) == (3, 2, 1)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.parametrize(
    ("given", "timeout_s"), [({}, 14_400), ({"no_progress_s": 7}, 7), ({"no_progress_s": None}, -1)]
)
def test_a_run_may_stall_as_long_as_the_setting_allows(ray_cluster, manifest, given, timeout_s):
    rows = read_manifest(*manifest, RunSettings(**given), FIXED).repartition(target_num_rows_per_block=1)
    assert rows.context.execution_no_progress_timeout_s == timeout_s
    assert rows.context.execution_options.resource_limits.cpu == float("inf")
    assert read_manifest(*manifest, RunSettings(), GROWING).context.execution_options.resource_limits.cpu == 3


class Dies:
    """Kills its process when it meets rows 4 and 8, the first time each; says when it was born."""

    def __init__(self, folder, *, idle, starts):
        self._folder, self._idle = folder, idle
        born = len(list(folder.glob("born-*")))
        (folder / f"born-{born}").touch()
        if born >= starts:
            raise ModelError("model.failed", "the network cannot be loaded a second time")

    def __call__(self, table):
        [row] = table["id"].to_pylist()
        mark = self._folder / f"died-{row}"
        if row in (4, 8) and not mark.exists():
            mark.touch()
            if not self._idle:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return table


def in_pauses(table, *, folder):
    """Row 5 when the actor that met row 4 was started again, row 9 when that of row 8 was: both die with nothing to do."""
    [row] = table["id"].to_pylist()
    born = 1 + (row > 4) + (row > 8)
    end = time.monotonic() + 200
    while row > 4 and len(list(folder.glob("born-*"))) < born and time.monotonic() < end:
        time.sleep(0.1)
    return table


def through(manifest, work, settings, capacity=FIXED, no_progress_s=240.0, *, lasts=True):
    """What comes out of a pool of one actor; its rows come one by one, with pauses in which it has nothing to do."""
    rows = read_manifest(*manifest, RunSettings(no_progress_s=no_progress_s), capacity)
    rows = rows.repartition(target_num_rows_per_block=1)
    if settings["idle"]:
        pauses = Stage("package.decode", in_pauses, IDS, IDS, {"folder": settings["folder"]}, 1, 0.25)
        rows = apply_stage(rows, pauses, 1, capacity)
    if lasts:
        rows = apply_stage(rows, Stage("package.mask", work, IDS, IDS, settings, 1), 1, capacity)
    else:
        shape = {"batch_format": "pyarrow", "batch_size": 1, "num_cpus": 0.125}
        rows = rows.map_batches(work, fn_constructor_kwargs=settings, compute=capacity.pool(1), **shape)
    batches = rows.iter_batches(batch_size=None, batch_format="pyarrow")
    return sorted(value for batch in batches for value in batch["id"].to_pylist())


@pytest.mark.long
@pytest.mark.parametrize("idle", [False, True], ids=["at work", "idle"])
@pytest.mark.parametrize("capacity", [FIXED, GROWING], ids=["fixed", "growing"])
def test_a_pool_whose_actor_dies_twice_recovers(ray_cluster, manifest, tmp_path, idle, capacity):
    settings = {"folder": tmp_path, "idle": idle, "starts": 9}
    assert through(manifest, Dies, settings, capacity) == list(range(ROWS))
    assert len(list(tmp_path.glob("born-*"))) >= 3 and len(list(tmp_path.glob("died-*"))) == 2


def test_an_error_in_a_stage_keeps_its_code(ray_cluster, manifest, tmp_path):
    def refuse(table):
        raise ModelError("model.failed", "of a worker")

    rows = read_manifest(*manifest, RunSettings(), FIXED)
    with pytest.raises(ModelError, match="of a worker"), unwrapped_ray_errors():
        rows.map_batches(refuse, batch_format="pyarrow", num_cpus=0.125).take_all()


@pytest.mark.long
@pytest.mark.parametrize("idle", [pytest.param(False, marks=pytest.mark.night), True], ids=["at work", "idle"])
def test_an_actor_that_cannot_restart_fails_the_run_with_its_error(ray_cluster, manifest, tmp_path, idle):
    """Ray Data kept an idle one in its pool, without work and without a successor, until its patience was at its end."""
    settings = {"folder": tmp_path, "idle": idle, "starts": 1}
    with pytest.raises(ModelError, match="a second time"), unwrapped_ray_errors():
        through(manifest, Dies, settings)


@pytest.mark.long
def test_an_actor_that_starts_on_the_second_attempt_continues(ray_cluster, manifest, tmp_path):
    class Late(Dies):
        def __init__(self, folder, **settings):
            super().__init__(folder, **settings)
            if len(list(folder.glob("born-*"))) == 2:
                raise ModelError("model.out_of_memory", "the dead process still holds the GPU's memory")

    assert through(manifest, Late, {"folder": tmp_path, "idle": True, "starts": 9}) == list(range(ROWS))


@pytest.mark.long
def test_a_stalled_run_ends_with_a_code(ray_cluster, manifest, tmp_path):
    """Told by a stage that Ray Data itself would let stand still: its actor is not one of ours."""
    with pytest.raises(ResourceError) as caught, unwrapped_ray_errors():
        through(manifest, Dies, {"folder": tmp_path, "idle": True, "starts": 1}, no_progress_s=8.0, lasts=False)
    assert caught.value.code == "cluster.stalled" and "run.no_progress_s" in caught.value.remedy
