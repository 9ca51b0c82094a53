"""The job store in SQLite and in a real PostgreSQL: jobs are accepted once, leased to one worker, and finished once."""

import threading
import time
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gapray.errors import ConfigError, InputError, ServeError
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.store import JobStore
from gapray.serve.tables import connect, webhooks


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    if request.param == "sqlite":
        yield JobStore(f"sqlite:///{tmp_path}/jobs.db")
        return
    found = JobStore(request.getfixturevalue("postgres"))
    yield found
    found.engine.dispose()


def new(owner="me", **more):
    return NewJob(
        owner=owner, api="openai", kind="video", making=GenerationParams(), input=JobInput(capture="x"), **more
    )


def submit(store, job=None, **more):
    return store.submit(job or new(), **({"max_queued": 100, "keep_s": 60} | more))


def lease(store, worker="w", most=10, lease_s=30, attempts=3):
    return store.lease(worker, max_jobs=most, lease_s=lease_s, attempts=attempts)


def test_a_job_goes_from_queue_to_result(store):
    job = submit(store)
    assert (job.status, job.attempt) == ("queued", 0)
    [taken] = lease(store)
    assert (taken.id, taken.status, taken.attempt) == (job.id, "running", 1)
    assert lease(store, "other") == []
    assert store.progress(job.id, 1, "render", 30)
    assert store.get(job.id, "me").progress == 30
    assert store.complete(job.id, 1, {"files": {}})
    done = store.get(job.id, "me")
    assert (done.status, done.progress, done.result) == ("completed", 100, {"files": {}})
    assert not store.complete(job.id, 1, {"files": {"again": 1}}), "a second result is not published"
    assert store.get(job.id, "me").result == {"files": {}}


def test_a_lost_worker_s_job_is_leased_again_and_its_late_result_dropped(store):
    job = submit(store)
    lease(store, "first", lease_s=0.01)
    time.sleep(0.05)
    [again] = lease(store, "second")
    assert again.attempt == 2
    assert store.heartbeat("first", {job.id: 1}, 30) == {job.id}
    assert store.heartbeat("second", {job.id: 2}, 30) == set()
    assert not store.complete(job.id, 1, {"from": "first"})
    assert not store.fail(job.id, 1, "internal.error", "late")
    assert not store.progress(job.id, 1, "render", 99)
    assert store.complete(job.id, 2, {"from": "second"})
    assert store.get(job.id, None).result == {"from": "second"}


def test_leases_expire_although_the_clock_is_set_back(store, monkeypatch):
    """Leases then end hours in the future by every clock; a live worker renews its lease and keeps its job."""
    dead, alive = submit(store), submit(store)
    lease(store, "first")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 3600)
    taken = []
    for _ in range(12):
        taken += [(job.id, job.attempt) for job in lease(store, "second", lease_s=0.3)]
        store.heartbeat("first", {alive.id: 1}, 30)
        time.sleep(0.05)
    assert taken[:1] == [(dead.id, 2)]
    assert {job for job, _ in taken} == {dead.id}
    assert store.complete(alive.id, 1, {})


def test_attempts_run_out(store):
    job = submit(store)
    for attempt in (1, 2, 3):
        [taken] = lease(store)
        assert taken.attempt == attempt
        store.release(job.id, attempt)
    assert lease(store) == []
    failed = store.get(job.id, None)
    assert (failed.status, failed.error_code) == ("failed", "job.attempts_exhausted")
    store.retry(job.id, None)
    [taken] = lease(store)
    assert taken.attempt == 4, "attempt numbers continue, so that an earlier worker cannot be mistaken for a later one"
    store.release(job.id, 4)
    assert lease(store)[0].attempt == 5, "a retry has all its attempts"


def test_only_failed_jobs_can_be_retried(store):
    job = submit(store)
    with pytest.raises(InputError) as error:
        store.retry(job.id, None)
    assert error.value.code == "job.not_failed"


def test_workers_never_share_a_job(store):
    for _ in range(40):
        submit(store)
    seen, errors = [], []

    def work(worker):
        try:
            for _ in range(20):
                seen.extend(job.id for job in lease(store, worker, most=3))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(seen) == len(set(seen)) == 40


def test_concurrent_requests_with_one_idempotency_key_make_one_job(store):
    found, errors = [], []

    def ask():
        try:
            found.append(submit(store, new(idempotency_key="k", digest="same")).id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(found) == 8 and len(set(found)) == 1
    with pytest.raises(InputError) as error:
        submit(store, new(idempotency_key="k", digest="other"))
    assert error.value.code == "request.idempotency_mismatch"
    assert submit(store, new("another", idempotency_key="k", digest="other")).id not in found


def test_a_full_queue_and_a_busy_key_are_refused(store):
    submit(store)
    with pytest.raises(ServeError) as error:
        submit(store, max_queued=1)
    assert error.value.code == "queue.full"
    with pytest.raises(ServeError) as error:
        submit(store, concurrent=1)
    assert error.value.code == "rate.exceeded"
    submit(store, new("another"), concurrent=1)


def test_jobs_are_visible_to_their_owner_only(store):
    job = submit(store)
    for act in (store.get, store.cancel, store.retry):
        with pytest.raises(InputError) as error:
            act(job.id, "another")
        assert error.value.code == "job.not_found"
    assert store.page("another") == ([], False)
    assert store.get(job.id, None).id == job.id


def test_pages_go_through_all_jobs_in_both_orders(store):
    ids = [submit(store).id for _ in range(7)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        found, after = [], None
        while True:
            page, more = store.page("me", after=after, limit=3, order=order)
            found += [job.id for job in page]
            if not more:
                break
            after = page[-1].id
        assert found == expected


def test_cancelling_reaches_the_worker_and_is_final(store):
    waiting = submit(store)
    [running] = lease(store)
    assert running.id == waiting.id
    assert store.cancel(waiting.id, "me").status == "cancelled"
    assert store.heartbeat("w", {waiting.id: 1}, 30) == {waiting.id}
    assert not store.complete(waiting.id, 1, {})
    assert store.cancel(waiting.id, "me").error_code == "job.cancelled"
    submit(store)
    submit(store)
    assert store.purge("me") == 2
    assert store.counts("me") == {"queued": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 3, "retried": 0}


def test_a_job_that_waited_too_long_fails(store):
    job = submit(store, new(wait_until=time.time() - 1))
    assert lease(store) == []
    assert store.get(job.id, None).error_code == "job.timed_out"


def test_a_job_has_one_webhook_with_one_id_for_all_tries(store):
    job = submit(store, new(webhook="https://shop.example/done"))
    lease(store, lease_s=0.01)
    time.sleep(0.05)
    lease(store)
    assert store.due_webhooks() == []
    assert not store.complete(job.id, 1, {})
    assert store.complete(job.id, 2, {})
    [first] = store.due_webhooks()
    assert store.due_webhooks() == [], "no other process tries it meanwhile"
    store.record_delivery(first.id, error="answered 500", retry_in_s=0)
    [second] = store.due_webhooks()
    assert (second.id, second.tries) == (first.id, 2)
    store.record_delivery(second.id)
    assert store.due_webhooks() == []
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(webhooks)).scalar_one() == 1


def test_old_final_jobs_expire(store):
    kept, old = submit(store), submit(store, keep_s=-1)
    running = submit(store, keep_s=-1)
    for job in lease(store):
        if job.id != running.id:
            store.complete(job.id, 1, {})
    assert store.due_for_removal() == [old.id]
    store.mark_deleted(old.id)
    assert store.due_for_removal() == [old.id], "until its files are gone"
    store.erase(old.id)
    assert store.due_for_removal() == [] and store.get(kept.id, None)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:////nowhere/at/all/jobs.db"])
def test_an_unusable_database_is_reported(url):
    with pytest.raises(ConfigError) as error:
        connect(url)
    assert error.value.code == "jobs.store_unusable"


class Life(RuleBasedStateMachine):
    """Any order of submissions, leases, deaths, late results and cancellations leads to one final state per job."""

    def __init__(self):
        super().__init__()
        self.store = JobStore(f"sqlite:///file:{uuid.uuid4().hex}?mode=memory&cache=shared&uri=true")
        self._held_open = self.store.engine.connect()
        self.held, self.final, self.published = [], {}, {}

    def teardown(self):
        self._held_open.close()
        self.store.engine.dispose()

    @rule()
    def submit(self):
        submit(self.store)

    @rule(most=st.integers(1, 3))
    def lease(self, most):
        self.held += [(job.id, job.attempt) for job in lease(self.store, most=most, attempts=2)]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def die(self, data):
        self.store.release(*data.draw(st.sampled_from(self.held)))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish(self, data):
        job_id, attempt = data.draw(st.sampled_from(self.held))
        if self.store.complete(job_id, attempt, {"attempt": attempt}):
            assert job_id not in self.published
            self.published[job_id] = attempt

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def cancel(self, data):
        self.store.cancel(data.draw(st.sampled_from(self.held))[0], None)

    @invariant()
    def final_stays_final(self):
        found, _ = self.store.page(None, limit=100)
        for job in found:
            if job.id in self.final:
                assert (job.status, job.result) == self.final[job.id]
            if job.final:
                self.final[job.id] = (job.status, job.result)
                assert (job.status == "completed") == (job.id in self.published)


def test_any_history_publishes_each_job_at_most_once():
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
