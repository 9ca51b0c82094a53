"""Deletion despite failures, delays and crashes: nothing of a deleted job remains, and no other job loses a file."""

import threading
import time
from dataclasses import replace

import pytest
import requests
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from gapray.catalog.storage import Folder
from gapray.errors import InputError, ServeError
from gapray.serve.artifacts import Artifacts
from gapray.serve.deletion import Sweeper, delete_job
from gapray.serve.http.app import build_app
from gapray.serve.http.context import Context
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.store import JobStore
from gapray.serve.work import run_null_engine
from tests.serve.conftest import listening, running, served, settings_in


class Bucket(MemoryFileSystem):
    """An in-memory bucket that fails or waits when a test demands it."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]
        self.failing = set()
        self.before_write = lambda path: None
        self.before_removal = lambda path: None

    def pipe_file(self, path, value, **options):
        self.before_write(path)
        if "write" in self.failing or path.rpartition("/")[2] in self.failing:
            raise PermissionError("the bucket does not answer")
        super().pipe_file(path, value, **options)

    def rm(self, path, recursive=False, maxdepth=None):
        self.before_removal(path)
        if "remove" in self.failing:
            raise PermissionError("the bucket does not answer")
        super().rm(path, recursive=recursive, maxdepth=maxdepth)

    def files(self):
        return sorted(name for name in self.store if not name.startswith("/files/owner/"))


@pytest.fixture
def bucket():
    return Bucket()


@pytest.fixture
def store(tmp_path):
    return JobStore(f"sqlite:///{tmp_path}/jobs.db")


@pytest.fixture
def artifacts(bucket, store):
    return Artifacts(Folder(bucket, "/files"), store.is_current)


def accepted(store, artifacts, **more):
    new = NewJob(owner="me", api="openai", kind="video", making=GenerationParams(), input=JobInput(), **more)
    artifacts.put(f"uploads/{new.id}/capture.zip", b"photos")
    return store.submit(new, max_queued=100, keep_s=60)


def begun(store, artifacts):
    accepted(store, artifacts)
    [job] = store.lease("w", max_jobs=1, lease_s=30, attempts=3)
    return job


def test_deletion_marks_the_job_then_removes_files_then_the_row(store, artifacts, bucket):
    job = begun(store, artifacts)
    artifacts.put(f"{job.folder}/turntable.mp4", b"video")
    seen = []

    def look(path):
        with pytest.raises(InputError, match="there is no job"):
            store.get(job.id, None)
        seen.append(store.existing([job.id]))

    bucket.before_removal = look
    assert delete_job(store, artifacts, job.id)
    assert seen and all(known == {job.id} for known in seen)
    assert bucket.files() == [] and store.existing([job.id]) == set()


def test_a_failing_storage_loses_no_deletion(store, artifacts, bucket, tmp_path):
    job = accepted(store, artifacts, idempotency_key="k", digest="d", webhook="https://client.example/hook")
    [job] = store.lease("w", max_jobs=1, lease_s=30, attempts=3)
    artifacts.put(f"{job.folder}/turntable.mp4", b"video")
    bucket.failing.add("remove")
    assert not delete_job(store, artifacts, job.id)
    with pytest.raises(InputError):
        store.get(job.id, "me")
    assert store.page("me") == ([], False) and sum(store.counts().values()) == 0
    assert not store.complete(job.id, job.attempt, {"files": {}}) and store.due_webhooks() == []
    assert store.lease("other", max_jobs=9, lease_s=30, attempts=3) == []
    assert accepted(store, artifacts, idempotency_key="k", digest="other").status == "queued", "the key is free again"
    assert len(bucket.files()) == 3 and store.due_for_removal() == [], "it is tried again after a while"
    # The server is restarted, the bucket is available again, and the pause is over.
    bucket.failing.clear()
    store.postpone(job.id, -1)
    assert store.due_for_removal() == [job.id]
    context = replace(Context.of(settings_in(tmp_path)), artifacts=artifacts)
    with running(context, lambda job, report: run_null_engine(job, artifacts, report)):
        until(lambda: store.existing([job.id]) == set())
    assert not [name for name in bucket.files() if job.id in name]


def test_files_that_cannot_be_removed_block_no_other_deletion(store, artifacts, bucket, tmp_path):
    first, second = accepted(store, artifacts), accepted(store, artifacts)
    for job in (first, second):
        store.cancel(job.id, None), store.mark_deleted(job.id)

    def first_fails(path):
        if first.id in path:
            raise PermissionError("locked")

    bucket.before_removal = first_fails
    context = replace(Context.of(settings_in(tmp_path)), artifacts=artifacts)
    with running(context, lambda job, report: run_null_engine(job, artifacts, report)):
        until(lambda: store.existing([second.id]) == set())
    assert store.existing([first.id]) == {first.id} and bucket.files() == [f"/files/uploads/{first.id}/capture.zip"]


def test_a_slow_write_that_ends_after_the_deletion_leaves_nothing(store, artifacts, bucket):
    job = begun(store, artifacts)
    writing, go_on, failed = threading.Event(), threading.Event(), []

    def wait(path):
        writing.set()
        assert go_on.wait(60)

    def work():
        try:
            artifacts.put(f"{job.folder}/turntable.mp4", b"video")
        except InputError as error:
            failed.append(error.code)

    bucket.before_write = wait
    worker = threading.Thread(target=work)
    worker.start()
    assert writing.wait(60)
    assert delete_job(store, artifacts, job.id) and store.existing([job.id]) == set()
    go_on.set()
    worker.join(60)
    assert failed == ["job.cancelled"] and bucket.files() == []
    bucket.before_write = lambda path: pytest.fail("nothing more is written for a job that is gone")
    with pytest.raises(InputError, match="no longer wanted"):
        artifacts.put(f"{job.folder}/poster.jpg", b"poster")


def test_a_write_that_fails_after_the_deletion_leaves_no_folder(store, tmp_path):
    artifacts = Artifacts.at(str(tmp_path / "files"), store.is_current)
    job = begun(store, artifacts)
    artifacts.put(f"{job.folder}/turntable.mp4", b"video")
    assert delete_job(store, artifacts, job.id)
    with pytest.raises(InputError):
        artifacts.put(f"{job.folder}/poster.jpg", b"poster")
    assert artifacts.names("uploads") == artifacts.names("results") == []


def test_a_superseded_attempt_writes_nothing(store, artifacts, bucket):
    first = begun(store, artifacts)
    artifacts.put(f"{first.folder}/turntable.mp4", b"slow")
    store.release(first.id, 1)
    [second] = store.lease("other", max_jobs=1, lease_s=30, attempts=3)
    artifacts.put(f"{second.folder}/turntable.mp4", b"video")
    with pytest.raises(InputError, match="attempt 1"):
        artifacts.put(f"{first.folder}/poster.jpg", b"poster")
    assert [name for name in bucket.files() if "results" in name] == [f"/files/results/{first.id}/2/turntable.mp4"]


def test_a_folder_is_removed_while_files_in_it_are_renamed(tmp_path):
    """`rmtree` stops at the first file that vanished after the listing, as temporary files do when they are renamed."""

    class Busy(LocalFileSystem):
        cachable = False
        busy = True

        def rm(self, path, recursive=False, maxdepth=None):
            if self.busy:
                self.busy = False
                raise FileNotFoundError(f"{path}/.turntable.mp4.tmp")
            super().rm(path, recursive=recursive, maxdepth=maxdepth)

    artifacts = Artifacts(Folder(Busy(), str(tmp_path)))
    artifacts.put("results/x/1/turntable.mp4", b"video")
    artifacts.remove("results/x")
    assert artifacts.names("results") == []
    artifacts.remove("results/x")


def test_the_sweeper_removes_only_files_without_a_job(store, artifacts, bucket):
    living, due_for_removal = accepted(store, artifacts), accepted(store, artifacts)
    store.mark_deleted(due_for_removal.id)
    lost = ["f" * 32, "e" * 32]
    artifacts.put(f"uploads/{lost[0]}/capture.zip", b"photos of a request that was never accepted")
    Artifacts(artifacts.folder).put(f"results/{lost[1]}/1/turntable.mp4", b"of a worker that was killed")
    artifacts.put("uploads/readme.txt/x", b"not ours")
    patient = Sweeper(store, artifacts, 3600)
    assert patient.sweep() == patient.sweep() == [], "an upload comes before its job"
    assert Sweeper(store, artifacts, 0).sweep() == [f"uploads/{lost[0]}", f"results/{lost[1]}"]
    left = [
        f"/files/uploads/{name}"
        for name in (f"{living.id}/capture.zip", f"{due_for_removal.id}/capture.zip", "readme.txt/x")
    ]
    assert bucket.files() == sorted(left)


def test_the_sweeper_continues_after_a_folder_that_cannot_be_removed(store, artifacts, bucket):
    for letter in "ab":
        artifacts.put(f"uploads/{letter * 32}/capture.zip", b"photos")

    def fails(path):
        if "a" * 32 in path:
            raise PermissionError("locked")

    bucket.before_removal = fails
    sweeper = Sweeper(store, artifacts, 0)
    assert sweeper.sweep() == [f"uploads/{'b' * 32}"]
    bucket.before_removal = lambda path: None
    assert sweeper.sweep() == [f"uploads/{'a' * 32}"] and bucket.files() == []


def test_the_files_of_another_database_are_left_alone(store, artifacts, bucket, tmp_path):
    """Two servers share one folder: to each of them the other's files look like orphans."""
    job = accepted(store, artifacts)
    assert Sweeper(store, artifacts, 0).sweep() == []
    other = JobStore(f"sqlite:///{tmp_path}/other.db")
    assert Sweeper(other, artifacts, 0).sweep() == []
    assert bucket.files() == [f"/files/uploads/{job.id}/capture.zip"]


def test_a_bucket_that_cannot_be_listed_sweeps_nothing(store, artifacts, bucket):
    artifacts.put(f"uploads/{'a' * 32}/capture.zip", b"photos")
    bucket.failing.add("write")
    with pytest.raises(ServeError):
        Sweeper(store, artifacts, 0).sweep()
    assert len(bucket.files()) == 1


def test_over_http_a_failing_bucket_hides_the_job_and_keeps_no_upload(tmp_path, bucket, photos):
    context = Context.of(settings_in(tmp_path, limits={"queued": 1}))
    context = replace(context, artifacts=Artifacts(Folder(bucket, "/files")))
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    with listening(build_app(context)) as url:
        video = requests.post(f"{url}/v1/videos", files=form, timeout=30).json()["id"]
        bucket.failing.add("remove")
        assert requests.delete(f"{url}/v1/videos/{video}", timeout=30).json()["deleted"]
        assert requests.get(f"{url}/v1/videos/{video}", timeout=30).status_code == 404
        bucket.failing = {"video"}
        response = requests.post(f"{url}/v1/scores", files=[*form, ("video", ("a.mp4", b"video"))], timeout=30)
        assert response.status_code == 503 and response.json()["error"]["code"] == "artifacts.failed"
        assert not [name for name in bucket.files() if video.removeprefix("video_") not in name], (
            "no photos without a job"
        )


def test_a_running_packager_restores_no_deleted_files(tmp_path, photos, lpips_alex):
    del lpips_alex
    form = [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
    with served(tmp_path, worker="pipeline") as server:
        artifacts = server.context.artifacts

        def post():
            made = requests.post(f"{server.url}/v1/videos", files=form, data={"score": "false"}, timeout=30)
            return made.json()["id"].removeprefix("video_")

        gone = post()
        until(lambda: artifacts.names(f"results/{gone}/1/views"))
        assert requests.delete(f"{server.url}/v1/videos/video_{gone}", timeout=30).json()["deleted"]
        # Each worker handles one call at a time: once this job is done, the calls of the deleted one have ended.
        kept = post()
        until(lambda: server.context.store.get(kept, None).status == "completed")
        assert artifacts.names("results") == artifacts.names("uploads") == [kept]


def until(ready, seconds=120):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
