"""Each key can only use its own share of the queue and of the workers."""

import threading

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapray.errors import ServeError
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.settings import Limits
from gapray.serve.store import JobStore
from tests.serve.conftest import served


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    if request.param == "postgresql":
        return JobStore(request.getfixturevalue("postgres"))
    return JobStore(f"sqlite:///{tmp_path}/jobs.db")


def submit(store, owner, **more):
    new = NewJob(owner, "openai", "video", GenerationParams(), JobInput())
    return store.submit(new, **({"max_queued": 1000, "keep_s": 60} | more))


def lease(store, most=1, worker="w"):
    return store.lease(worker, max_jobs=most, lease_s=60, attempts=3)


def served_by(store, slots, rounds):
    """Return owners in the order in which `slots` workers lease their jobs; jobs end in the order of their leases."""
    order, running = [], []
    for _ in range(rounds):
        taken = lease(store, slots - len(running))
        order += [job.owner for job in taken]
        running += taken
        if running:
            done = running.pop(0)
            assert store.complete(done.id, done.attempt, {"files": {}})
    return order


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_late_tenant_waits_for_one_turn_only(store, slots):
    for _ in range(12):
        submit(store, "first")
    assert served_by(store, slots, 2) == ["first"] * (slots + 1)
    for _ in range(3):
        submit(store, "second")
    order = served_by(store, slots, 8)
    assert order[0] == "second" and order[:6].count("second") == 3, order
    assert order[6:] == ["first"] * len(order[6:]), order


def test_the_oldest_job_of_a_key_comes_first(store):
    mine = [submit(store, "me").id for _ in range(5)]
    assert [job.id for job in lease(store, 5)] == mine


def test_many_free_workers_are_shared(store):
    for owner in ("a", "a", "a", "a", "a", "a", "b", "b", "c"):
        submit(store, owner)
    assert sorted(job.owner for job in lease(store, 5)) == ["a", "a", "b", "b", "c"]
    assert sorted(job.owner for job in lease(store, 5)) == ["a"] * 4


def test_deleting_jobs_gains_no_turn(store):
    """Once rows are deleted, the database does not show that a key has just been served."""
    for _ in range(6):
        submit(store, "victim")
    served_owners = []
    for _ in range(8):
        for _ in range(2):
            submit(store, "churner")
        [job] = lease(store)
        served_owners.append(job.owner)
        if job.owner == "churner":
            store.mark_deleted(job.id)
            store.erase(job.id)
        else:
            store.complete(job.id, job.attempt, {"files": {}})
    assert served_owners.count("victim") == 4, served_owners


def test_lost_jobs_take_their_turn_again(store):
    first = submit(store, "a")
    submit(store, "b")
    [job] = store.lease("dead", max_jobs=1, lease_s=0.0, attempts=3)
    assert job.id == first.id
    taken = lease(store, 5)
    assert sorted(leased.owner for leased in taken) == ["a", "b"] and {leased.attempt for leased in taken} == {1, 2}


def test_two_dispatchers_share_no_job_and_leave_none(store):
    expected = {submit(store, f"owner{index % 3}").id for index in range(30)}
    taken, lock = [], threading.Lock()

    def work(name):
        while found := lease(store, 2, name):
            with lock:
                taken.extend(job.id for job in found)

    threads = [threading.Thread(target=work, args=(f"w{index}",)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    taken += [job.id for job in lease(store, 30)]
    assert len(taken) == len(set(taken)) and set(taken) == expected


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(1, 3))
def test_no_tenant_is_more_than_a_turn_behind(tmp_path_factory, waiting, slots):
    store = JobStore(f"sqlite:///{tmp_path_factory.mktemp('fair')}/jobs.db")
    for owner, count in enumerate(waiting):
        for _ in range(count):
            submit(store, f"owner{owner}")
    order = served_by(store, slots, sum(waiting) + slots)
    assert len(order) == sum(waiting)
    for end in range(len(order)):
        got = [order[: end + 1].count(f"owner{owner}") for owner in range(len(waiting))]
        for owner, count in enumerate(got):
            if count < waiting[owner]:  # it still has queued jobs
                assert count >= max(got) - 1 - slots, (order, end)
    store.engine.dispose()


def test_a_key_has_a_share_of_the_queue(store):
    for _ in range(3):
        submit(store, "greedy", max_queued=5, max_per_owner=3)
    with pytest.raises(ServeError) as error:
        submit(store, "greedy", max_queued=5, max_per_owner=3)
    assert error.value.code == "queue.key_full"
    submit(store, "other", max_queued=5, max_per_owner=3)
    [job] = [leased for leased in lease(store, 4) if leased.owner == "greedy"][:1]
    submit(store, "greedy", max_queued=5, max_per_owner=3)
    assert store.fail(job.id, job.attempt, "job.failed", "x")
    for _ in range(2):
        submit(store, "greedy", max_queued=5, max_per_owner=3)
    with pytest.raises(ServeError) as error:
        store.retry(job.id, "greedy", max_queued=5, max_per_owner=3)
    assert error.value.code == "queue.key_full", "trying again is no way round it"
    assert store.get(job.id, None).status == "failed"


def test_concurrent_submissions_cannot_exceed_a_share(store):
    accepted, lock = [], threading.Lock()

    def ask():
        try:
            job = submit(store, "greedy", max_per_owner=3)
        except ServeError as error:
            assert error.code == "queue.key_full"
        else:
            with lock:
                accepted.append(job.id)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(accepted) == store.counts("greedy")["queued"] == 3


def test_the_share_of_a_key_follows_the_queue():
    assert Limits().waiting_per_key == 50
    assert Limits(queued=2000).waiting_per_key == 500
    assert Limits(queued=1).waiting_per_key == 1
    assert Limits(queued_per_key=7).waiting_per_key == 7


def test_a_full_share_has_its_own_error_code(tmp_path, form):
    with served(tmp_path, worker="none", open=False, limits={"queued": 4, "queued_per_key": 2}) as server:

        def ask(who):
            return requests.post(f"{server.url}/v1/videos", files=form, headers=server.headers(who), timeout=20)

        assert [ask("writer").status_code for _ in range(2)] == [200, 200]
        refused = ask("writer")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "queue.key_full" and refused.json()["error"]["remedy"]
        assert ask("other").status_code == 200, "another key still finds its place"
        assert ask("other").status_code == 200
        assert ask("admin").json()["error"]["code"] == "queue.full"


def test_an_open_server_has_one_tenant_with_the_whole_queue(tmp_path, form):
    with served(tmp_path, worker="none", limits={"queued": 5}) as server:
        asked = [requests.post(f"{server.url}/v1/videos", files=form, timeout=20) for _ in range(6)]
        assert [answer.status_code for answer in asked] == [200] * 5 + [429]
        assert asked[-1].json()["error"]["code"] == "queue.full"
