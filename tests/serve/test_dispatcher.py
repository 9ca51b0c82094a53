"""Bad jobs and bad results do not stop the dispatcher."""

import time

import sqlalchemy as sa

from gapray.serve.http.context import Context
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.tables import jobs
from tests.serve.conftest import running, settings_in


def submit(store):
    new = NewJob(owner="me", api="openai", kind="video", making=GenerationParams(), input=JobInput())
    return store.submit(new, max_queued=9, keep_s=60)


def final(store, job):
    end = time.monotonic() + 60
    while not (found := store.get(job.id, None)).final:
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def test_a_result_that_cannot_be_stored_fails_its_job(tmp_path):
    """If recording it were retried, the job would occupy a worker for ever."""
    context = Context.of(settings_in(tmp_path))

    async def do(job, report):
        del job, report
        return {"files": {}, "scores": object()}

    with running(context, do) as dispatcher:
        found = final(context.store, submit(context.store))
        assert (found.status, found.error_code) == ("failed", "internal.error")
        end = time.monotonic() + 60
        while dispatcher.running:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_an_unreadable_job_fails_without_blocking_others(tmp_path):
    context = Context.of(settings_in(tmp_path))
    unread, good = submit(context.store), submit(context.store)
    with context.store.engine.begin() as connection:
        connection.execute(jobs.update().where(jobs.c.id == unread.id).values(making={"of_another_release": 1}))

    async def do(job, report):
        del job, report
        return {"files": {}}

    with running(context, do):
        assert final(context.store, good).status == "completed"
    with context.store.engine.connect() as connection:
        row = connection.execute(sa.select(jobs.c.status, jobs.c.error_code).where(jobs.c.id == unread.id)).one()
    assert tuple(row) == ("failed", "job.unreadable")
