"""The number of generators follows the queue."""

import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from ray.serve.config import AutoscalingPolicy

from gapray.serve import autoscale
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.store import JobStore


def submit(store, kind="video"):
    job = NewJob(owner="me", api="openai", kind=kind, making=GenerationParams(), input=JobInput(capture="x"))
    return store.submit(job, max_queued=100, keep_s=60)


def wait_for_target(policy, ctx, wanted, seconds=60):
    """Call the policy repeatedly, like Serve's controller, until it returns `wanted`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while (answer := policy(ctx)) != (wanted, {}):
        assert time.monotonic() < end, answer
        time.sleep(0.01)
    return True


@pytest.fixture
def silent_database():
    """Accept connections without ever answering, and count them."""
    listener, taken = socket.create_server(("127.0.0.1", 0)), []

    def take():
        with suppress(OSError):
            while True:
                taken.append(listener.accept()[0])

    threading.Thread(target=take, daemon=True).start()
    yield f"postgresql://x@127.0.0.1:{listener.getsockname()[1]}/jobs", taken
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for connection in taken:
        connection.close()


def test_replicas_follow_queued_and_running_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(autoscale, "_POLL_S", 0)
    url = f"sqlite:///{tmp_path}/jobs.db"
    store, policy = JobStore(url), autoscale.QueuePolicy(url, 2)
    ctx = SimpleNamespace(target_num_replicas=7)
    assert wait_for_target(policy, ctx, 0)
    submit(store, "package"), submit(store, "score")
    jobs = [submit(store) for _ in range(3)]
    assert wait_for_target(policy, ctx, 2), "only videos need a generator"
    jobs += [submit(store), submit(store)]
    assert wait_for_target(policy, ctx, 3)
    for job in store.lease("w", max_jobs=4, lease_s=30, attempts=3):
        if job.kind != "video":
            store.complete(job.id, job.attempt, {})
    jobs.append(submit(store)), jobs.append(submit(store))
    assert wait_for_target(policy, ctx, 4), "running jobs keep their replicas"
    for job in jobs:
        store.cancel(job.id, None)
    assert wait_for_target(policy, ctx, 0)


def test_a_hanging_database_does_not_block_the_controller(silent_database):
    url, taken = silent_database
    said = []

    def tick():
        policy = autoscale.QueuePolicy(url, 1)
        said.extend(policy(SimpleNamespace(target_num_replicas=4)) for _ in range(50))

    controller = threading.Thread(target=tick, daemon=True)
    controller.start()
    controller.join(60)
    assert said == [(4, {})] * 50, "no worker is taken down, none is asked for"
    assert len(taken) <= 1


def test_a_failing_database_is_queried_with_growing_pauses():
    listener, asked = socket.create_server(("127.0.0.1", 0)), []

    def refuse():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                asked.append(connection)
                connection.close()

    threading.Thread(target=refuse, daemon=True).start()
    policy = autoscale.QueuePolicy(f"postgresql://x@127.0.0.1:{listener.getsockname()[1]}/jobs", 1)
    ticks = 0
    while not asked or ticks < 200:
        assert policy(SimpleNamespace(target_num_replicas=4)) == (4, {})
        ticks += 1
        time.sleep(0.005)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert len(asked) < ticks / 10


def test_polling_resumes_when_the_database_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(autoscale, "_POLL_S", 0)
    folder = tmp_path / "mount"
    policy, ctx = autoscale.QueuePolicy(f"sqlite:///{folder}/jobs.db", 1), SimpleNamespace(target_num_replicas=4)
    assert policy(ctx) == (4, {})
    folder.mkdir()
    submit(JobStore(f"sqlite:///{folder}/jobs.db"))
    assert wait_for_target(policy, ctx, 1)


def test_serve_creates_the_policy_with_its_arguments(tmp_path):
    """Serve 2.60 passes `policy_kwargs` to classes only: a function with arguments would fail in the controller."""
    from ray.serve._private.autoscaling_state import _resolve_policy_callable

    kwargs = {"jobs_url": f"sqlite:///{tmp_path}/jobs.db", "ongoing": 1}
    found = _resolve_policy_callable(
        AutoscalingPolicy(policy_function="gapray.serve.autoscale:QueuePolicy", policy_kwargs=kwargs)
    )
    assert wait_for_target(found, SimpleNamespace(target_num_replicas=3), 0)
