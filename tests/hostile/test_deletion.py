"""Deletions at any moment, on storages that are slow and fail, and on a full disk: nothing of a deleted job remains."""

import asyncio
import contextlib
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import fsspec
import numpy as np
import pytest
import requests
from sqlalchemy.exc import OperationalError

from gapray.serve import deletion, dispatcher
from gapray.serve.http.app import build_app
from gapray.serve.http.context import Context
from gapray.serve.local import LocalWorkers
from gapray.serve.scratch import clear_scratch
from gapray.serve.work import run_job
from gapray.video.encode import encode_mp4
from tests.hostile import troubled
from tests.kinds.test_places import mounted
from tests.make import photo
from tests.serve.conftest import listening, running, settings_in
from tests.serve.test_deletion import accepted, until

KEPT_OF = 16
"""One in this number of jobs is not deleted."""
STAGES = ("accepted", "package", "render", "encode", "score", "final")
KINDS = ("video", "video", "package", "score", "image")
GRACE_S = 5.0


@pytest.fixture
def s3():
    """A bucket on a server that implements Amazon S3's protocol: its file system and path."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = fsspec.filesystem(
        "s3", endpoint_url=f"http://{host}:{port}", key="key", secret="secret", skip_instance_cache=True
    )
    found.mkdir("gapray")
    yield found, "gapray/files"
    server.stop()


class RandomClients:
    """Clients who submit jobs of all kinds and delete them at random moments."""

    def __init__(self, url, context, photos, clip, jobs):
        self._url, self._context, self.jobs = url, context, jobs
        self._stages, self._changed = {}, threading.Condition()
        self._form = [("input_reference[]", (name, data, "image/png")) for name, data in list(photos.items())[::2]]
        self._clip = clip
        self.deleted: list[str] = []
        self.kept: list[str] = []
        self.moments: Counter[str] = Counter()

    def submit(self, number):
        kind = KINDS[number % len(KINDS)]
        path, files, data = f"/v1/{kind}s", self._form, {"score": str(number % 2 == 0).lower()}
        if kind == "score":
            files = [*files, ("video", ("turn.mp4", self._clip, "video/mp4"))]
        if kind == "image":
            path, files = "/v1/images/edits", [("image[]", photo) for _, photo in files]
            data = {"prompt": "a mug"}
        while True:
            answer = requests.post(
                self._url + path, files=files, data=data, headers={"prefer": "respond-async"}, timeout=120
            )
            if answer.status_code in (200, 202):
                return answer.headers["location"]
            assert answer.status_code == 503, answer.text
            time.sleep(0.1)

    def submit_and_delete(self, number):
        rng = random.Random(f"22-{number}")
        place = self.submit(number)
        job_id = place.rpartition("_")[2]
        if number % KEPT_OF == 0:
            self.kept.append(job_id)
            return
        wanted, more_s = STAGES.index(rng.choice(STAGES)), rng.random() * 0.1
        with self._changed:
            assert self._changed.wait_for(lambda: STAGES.index(self._stages.get(job_id, "accepted")) >= wanted, 300)
        time.sleep(more_s)
        self.moments[self._stages.get(job_id, "accepted")] += 1
        answer = requests.delete(self._url + place, timeout=120)
        assert answer.status_code == 200 and answer.json()["deleted"], answer.text
        assert requests.get(self._url + place, timeout=120).status_code == 404
        self.deleted.append(job_id)

    def _record_stage(self, job_id, stage):
        with self._changed:
            self._stages[job_id] = stage
            self._changed.notify_all()

    def recording(self, workers):
        """Return a function that runs jobs and records their progress."""

        async def run(job, report):
            async def report_and_record(stage, percent):
                await report(stage, percent)
                self._record_stage(job.id, stage)

            try:
                return await run_job(job, workers, report_and_record)
            finally:
                self._record_stage(job.id, "final")

        return run


def run_clients(settings, photos, clip, weather, jobs):
    """Submit and delete jobs, and replace the dispatcher and its workers half way.

    Returns:
        The context, and the clients.
    """
    context = Context.of(settings)
    clients = RandomClients("", context, photos, clip, jobs)

    def workers():
        return clients.recording(LocalWorkers(context.settings, device="cpu", is_current=context.store.is_current))

    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        clients._url = stack.enter_context(listening(build_app(context)))
        half = jobs // 2
        with running(context, workers()):
            list(pool.map(clients.submit_and_delete, range(half)))
            rest = [pool.submit(clients.submit_and_delete, number) for number in range(half, jobs)]
            until(lambda: len(clients.deleted) > half + jobs // 10, 300)
        # Threads of the replaced workers are still running their jobs, like a worker that was presumed dead.
        with running(context, workers()):
            for one in rest:
                one.result()
            until(lambda: all(context.store.get(job_id, None).final for job_id in clients.kept), 300)
            assert weather.failures > jobs // 4
            until(lambda: not context.store.existing(clients.deleted), 300)
            # Neither files of deleted jobs remain, nor those of requests that were refused half way.
            until(lambda: listed(context) <= set(clients.kept), 300)
            time.sleep(2 * GRACE_S)
            until(lambda: listed(context) <= set(clients.kept), 60)  # files restored by a slow writer are found as well
    return context, clients


def listed(context):
    """Return the jobs that have files or folders in the store, as its own file system lists them."""
    filesystem, path = context.artifacts.folder.filesystem, context.artifacts.folder.path
    real = getattr(filesystem, "inner", None) or fsspec.filesystem("file")
    real.invalidate_cache()
    inner = [name.removeprefix(path).strip("/").split("/") for name in real.find(path, withdirs=True)]
    return {words[1] for words in inner if len(words) > 1 and words[0] != "owner"}


@pytest.fixture
def quick(monkeypatch):
    """Shorten pauses of a minute to half a second."""
    monkeypatch.setattr(dispatcher, "_TIDY_S", 0.5)
    monkeypatch.setattr(deletion, "_RETRY_S", 0.5)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder of this process's temporary files."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture(scope="session")
def clip():
    """A turntable video of the product in the photos."""
    return encode_mp4(np.stack([photo(angle) for angle in range(0, 360, 15)]), fps=12)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("place", "jobs"),
    [
        ("folder and SQLite", 50),
        ("bucket and PostgreSQL", 30),
        pytest.param("folder and SQLite", 200, marks=pytest.mark.night),
    ],
)
def test_jobs_can_be_deleted_at_any_moment(tmp_path, photos, clip, place, jobs, quick, scratch, monkeypatch, request):
    weather = troubled.Weather(seed=22)
    more = {}
    if place == "folder and SQLite":
        more["artifacts"] = f"{troubled.folder(weather, monkeypatch)}://{tmp_path}/artifacts"
    else:
        filesystem, path = request.getfixturevalue("s3")
        more["artifacts"] = f"{troubled.bucket(filesystem, weather)}://{path}"
        more["jobs_url"] = request.getfixturevalue("postgres")
    rules = {"poll_s": 0.02, "lease_s": 20, "running": 4, "orphan_s": GRACE_S}
    settings = settings_in(tmp_path, jobs=rules, **more)
    context, clients = run_clients(settings, photos, clip, weather, jobs)
    print("\ndeleted in:", dict(clients.moments), "failures of the storage:", weather.failures)
    assert len(clients.deleted) + len(clients.kept) == jobs
    assert sum(clients.moments[stage] for stage in STAGES[1:-1]) > jobs // 10, (
        "most were deleted before or after the work"
    )
    weather.calm()
    assert listed(context) <= set(clients.kept)
    for job_id in clients.kept:  # and no file of another job was removed
        job = context.store.get(job_id, None)
        assert job.status == "completed" or job.error_code == "artifacts.failed", (job.error_code, job.error_message)
        assert f"uploads/{job_id}/capture.zip" == job.input.capture and context.artifacts.get(job.input.capture)
        for name, told in (job.result or {}).get("files", {}).items():
            assert len(context.artifacts.get(f"{job.folder}/{name}")) == told["bytes"]
    until(lambda: not list(scratch.glob("gapray-*")), 120)


@pytest.fixture
def small_disk():
    """A disk of 24 MB that holds the job database and the files, like the state folder of a single machine."""
    with mounted("size=24m") as disk:
        yield disk


def fill(disk, left):
    """Fill a disk except for some bytes; returns the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - left)
    return filler


def test_jobs_can_be_deleted_on_a_full_disk(small_disk):
    context = Context.of(settings_in(small_disk))
    store, artifacts = context.store, context.artifacts
    jobs = [accepted(store, artifacts) for _ in range(3)]
    for job in jobs:
        artifacts.put(f"results/{job.id}/1/turntable.mp4", bytes(200_000))
    fill(small_disk, 0)
    with pytest.raises(OperationalError, match="full"):
        store.mark_deleted(jobs[0].id)
    for job in jobs:
        assert deletion.delete_job(store, artifacts, job.id)
    assert not listed(context) and not store.existing([job.id for job in jobs])
    assert shutil.disk_usage(small_disk).free > 400_000


def test_a_disk_that_fills_up_leaves_no_orphans(small_disk, photos, quick):
    """An interrupted job and a request that finds no room have error codes, and all of their files can be deleted."""
    settings = settings_in(small_disk, jobs={"poll_s": 0.02, "lease_s": 20, "orphan_s": 1.0})
    context = Context.of(settings)
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    workers = LocalWorkers(settings, device="cpu", is_current=context.store.is_current)
    full = threading.Event()

    async def run(job, report):
        await asyncio.to_thread(full.wait, 60)
        return await run_job(job, workers, report)

    with listening(build_app(context)) as url, running(context, run):

        def post():
            return requests.post(f"{url}/v1/videos", files=form, data={"score": "false"}, timeout=60)

        video = post().json()["id"]
        job_id = video.removeprefix("video_")
        until(lambda: context.store.get(job_id, None).status == "running")
        filler = fill(small_disk, 40_000)  # room for some of the previews that are written first
        full.set()
        until(lambda: shutil.disk_usage(small_disk).free < 4096)
        refused = post()
        assert refused.status_code == 503, refused.text
        filler.unlink()  # until then the database cannot record the outcome
        until(lambda: context.store.get(job_id, None).final)
        job = context.store.get(job_id, None)
        assert (job.status, job.error_code) == ("failed", "artifacts.failed"), job.error_message
        until(lambda: listed(context) <= {job_id}, 60)
        assert requests.delete(f"{url}/v1/videos/{video}", timeout=30).json()["deleted"]
        until(lambda: not listed(context), 60)
        assert not list(small_disk.rglob("*.tmp"))


WORKER = """
import signal, time
from gapray.serve.scratch import scratch
with scratch() as folder:
    (folder / "capture.zip").write_bytes(b"photos")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_files_of_killed_workers_are_removed_but_not_those_of_living_ones(scratch):
    def begun():
        environment = os.environ | {"TMPDIR": str(scratch)}
        worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True, env=environment)
        return worker, Path(worker.stdout.readline().strip())

    (killed, left), (living, kept) = begun(), begun()
    try:
        killed.kill()
        killed.wait(20)
        assert (left / "capture.zip").exists()
        assert clear_scratch() == [left]
        assert not left.exists() and (kept / "capture.zip").exists()
    finally:
        living.kill()
        living.wait(20)
    assert clear_scratch() == [kept] and not list(scratch.iterdir())


def test_a_job_survives_a_disk_on_which_progress_cannot_be_recorded(small_disk):
    context = Context.of(settings_in(small_disk))

    async def run(job, report):
        filler = fill(small_disk, 0)
        with pytest.raises(OperationalError, match="full"):
            context.store.progress(job.id, job.attempt, "render", 40)
        await report("render", 50)
        filler.unlink()
        return {"files": {}}

    with running(context, run):
        job = accepted(context.store, context.artifacts)
        until(lambda: context.store.get(job.id, None).final)
    assert context.store.get(job.id, None).status == "completed"
