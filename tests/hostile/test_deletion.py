"""Gone is gone: deletions in the middle of everything, on storages that are slow and fail, and on a disk that is full."""

import random
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

from gapray.errors import InputError
from gapray.serve import deletion, dispatcher
from gapray.serve.http.app import build_app
from gapray.serve.http.context import Context
from gapray.serve.local import LocalWorkers
from gapray.serve.work import make
from gapray.video.encode import encode_mp4
from tests.hostile import troubled
from tests.kinds.test_places import mounted
from tests.make import photo
from tests.serve.conftest import listening, running, settings_in
from tests.serve.test_deletion import until

JOBS, KEPT = 200, 12
STAGES = ("accepted", "package", "render", "encode", "score", "final")
KINDS = ("video", "video", "package", "score", "image")
GRACE_S = 5.0


@pytest.fixture
def s3():
    """A bucket on a server that speaks Amazon S3's protocol: file system, path."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = fsspec.filesystem(
        "s3", endpoint_url=f"http://{host}:{port}", key="key", secret="secret", skip_instance_cache=True
    )
    found.mkdir("gapray")
    yield found, "gapray/files"
    server.stop()


class Fire:
    """Clients who submit jobs of all kinds and delete them at random moments."""

    def __init__(self, url, context, photos, clip, seed):
        self._url, self._context, self._seed = url, context, seed
        self._form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
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
            path, files = "/v1/images/edits", [("image[]", one) for _, one in files]
            data = {"prompt": "a mug"}
        while True:
            answer = requests.post(
                self._url + path, files=files, data=data, headers={"prefer": "respond-async"}, timeout=120
            )
            if answer.status_code in (200, 202):
                return answer.headers["location"]
            assert answer.status_code == 503, answer.text
            time.sleep(0.1)

    def one(self, number):
        rng = random.Random(f"{self._seed}-{number}")
        place = self.submit(number)
        job_id = place.rpartition("_")[2]
        if number % (JOBS // KEPT) == 0:
            self.kept.append(job_id)
            return
        wanted, more_s = rng.choice(STAGES), rng.random() * 0.2
        until(lambda: self._reached(job_id, wanted), 240)
        time.sleep(more_s)
        self.moments[self._stage(job_id)] += 1
        answer = requests.delete(self._url + place, timeout=120)
        assert answer.status_code == 200 and answer.json()["deleted"], answer.text
        assert requests.get(self._url + place, timeout=120).status_code == 404
        self.deleted.append(job_id)

    def _stage(self, job_id):
        job = self._context.store.get(job_id, None)
        return "final" if job.final else job.stage or "accepted"

    def _reached(self, job_id, wanted):
        return STAGES.index(self._stage(job_id)) >= STAGES.index(wanted)


def fire(tmp_path, settings, photos, clip, weather, *, seed):
    """`JOBS` jobs under fire, the dispatcher and its workers replaced in the middle.

    Returns:
        The context, and the fire.
    """
    context = Context.of(settings)
    hers = Fire("", context, photos, clip, seed)

    def workers():
        found = LocalWorkers(context.settings, device="cpu", holds=context.store.holds)
        return lambda job, report: make(job, found, report)

    with ExitStack() as stack, ThreadPoolExecutor(8) as clients:
        hers._url = stack.enter_context(listening(build_app(context)))
        half = JOBS // 2
        with running(context, workers()):
            list(clients.map(hers.one, range(half)))
            rest = [clients.submit(hers.one, number) for number in range(half, JOBS)]
            until(lambda: len(hers.deleted) > half + JOBS // 10, 240)
        # Threads of the workers that were replaced are still at their jobs, as a worker is that was taken for dead.
        with running(context, workers()):
            for one in rest:
                one.result()
            until(lambda: all(context.store.get(job_id, None).final for job_id in hers.kept), 240)
            assert weather.failures > JOBS // 4
            until(lambda: not context.store.known(hers.deleted), 240)
            gone = set(hers.deleted)
            until(lambda: not gone & set(listed(context)), 240)
            time.sleep(2 * GRACE_S)  # what a slow writer brings back is found as well
            until(lambda: not gone & set(listed(context)), 60)
    return context, hers


def listed(context):
    """The job of each file and folder in the store, asked until the storage answers."""
    filesystem, path = context.artifacts.folder.filesystem, context.artifacts.folder.path
    real = getattr(filesystem, "inner", None) or fsspec.filesystem("file")
    real.invalidate_cache()
    return [name.removeprefix(path).split("/")[2] for name in real.find(path, withdirs=True) if name.count("/") > path.count("/") + 1]


@pytest.fixture
def quick(monkeypatch):
    """Pauses of a minute are seconds here."""
    monkeypatch.setattr(dispatcher, "_TIDY_S", 0.5)
    monkeypatch.setattr(deletion, "_AGAIN_S", 0.5)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where this process's temporary files are."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture(scope="session")
def clip():
    """A turntable video of the product whose photos are sent."""
    return encode_mp4(np.stack([photo(angle) for angle in range(0, 360, 15)]), fps=12)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("place", ["folder and SQLite", "bucket and PostgreSQL"])
def test_two_hundred_jobs_deleted_at_random_moments(
    tmp_path, photos, clip, place, quick, scratch, monkeypatch, request
):
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
    context, hers = fire(tmp_path, settings, photos, clip, weather, seed=22)
    print("\ndeleted in:", dict(hers.moments), "failures of the storage:", weather.failures)
    assert len(hers.deleted) + len(hers.kept) == JOBS and set(hers.moments) == set(STAGES)
    weather.calm()
    assert set(listed(context)) <= set(hers.kept)
    for job_id in hers.kept:  # and nothing of a living job was taken
        job = context.store.get(job_id, None)
        assert job.status == "completed" or job.error_code == "artifacts.failed", (job.error_code, job.error_message)
        assert f"uploads/{job_id}/capture.zip" == job.input.capture and context.artifacts.get(job.input.capture)
        for name, told in (job.result or {}).get("files", {}).items():
            assert len(context.artifacts.get(f"{job.folder}/{name}")) == told["bytes"]
    assert not list(scratch.iterdir())
