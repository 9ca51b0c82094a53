"""The queue decides how many generators there are."""

from types import SimpleNamespace

from ray.serve.config import AutoscalingPolicy

from gapray.serve import autoscale
from gapray.serve.jobs import JobInput, Making, NewJob
from gapray.serve.store import JobStore


def submit(store, kind="video"):
    job = NewJob(owner="me", api="openai", kind=kind, making=Making(), input=JobInput(capture="x"))
    return store.submit(job, max_queued=100, keep_s=60)


def test_replicas_follow_what_waits_and_what_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(autoscale, "_ASK_S", -1)
    url = f"sqlite:///{tmp_path}/jobs.db"
    store, policy = JobStore(url), autoscale.QueuePolicy(url, 2)
    ctx = SimpleNamespace(target_num_replicas=3)
    assert policy(ctx) == (0, {})
    submit(store, "package"), submit(store, "score")
    assert policy(ctx) == (0, {}), "only videos need a generator"
    jobs = [submit(store) for _ in range(5)]
    assert policy(ctx) == (3, {})
    store.lease("w", most=4, lease_s=30, attempts=3)
    assert policy(ctx) == (3, {}), "what is at work keeps its replica"
    for job in jobs:
        store.cancel(job.id, None)
    assert policy(ctx) == (0, {})


def test_a_database_that_is_away_takes_no_worker_down(tmp_path, monkeypatch):
    monkeypatch.setattr(autoscale, "_ASK_S", -1)
    policy = autoscale.QueuePolicy(f"sqlite:///{tmp_path}/jobs.db", 1)
    monkeypatch.setattr(policy._store, "counts", lambda **_: 1 / 0)
    assert policy(SimpleNamespace(target_num_replicas=4)) == (4, {})


def test_serve_makes_the_policy_with_its_arguments(tmp_path):
    """Serve 2.60 gives `policy_kwargs` to classes only: a function with arguments would fail in the controller."""
    from ray.serve._private.autoscaling_state import _resolve_policy_callable

    kwargs = {"jobs_url": f"sqlite:///{tmp_path}/jobs.db", "ongoing": 1}
    found = _resolve_policy_callable(
        AutoscalingPolicy(policy_function="gapray.serve.autoscale:QueuePolicy", policy_kwargs=kwargs)
    )
    assert found(SimpleNamespace(target_num_replicas=0)) == (0, {})
