"""The job database of an older gapray is migrated with all its content, by any number of concurrent processes."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from gapray.errors import ConfigError
from gapray.serve import keys, migrations
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.store import JobStore
from gapray.serve.tables import api_keys, connect, jobs, metadata, webhooks
from tests.conftest import ROOT

OLD = Path(__file__).with_name("jobs_22cc0ee_sqlite.sql"), Path(__file__).with_name("jobs_22cc0ee_postgresql.sql")
"""Dumps of databases created and filled by the code of commit 22cc0ee: five jobs, two webhooks, an API key."""
SECRET = "gap_0123456789ab_frozen-secret-of-a-test"
PROCESSES = 4


class Database:
    """An empty database, and a function that fills it like the old gapray."""

    def __init__(self, url, dump, execute):
        self.url, self._dump, self._execute = url, dump, execute

    def fill(self):
        self._execute(self._dump.read_text())


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":

        def execute(text):
            with sqlite3.connect(tmp_path / "jobs.db") as connection:
                connection.executescript(text)

        yield Database(f"sqlite:///{tmp_path}/jobs.db", OLD[0], execute)
        return
    import psycopg

    url = request.getfixturevalue("postgres")

    def execute(text):
        with psycopg.connect(url) as connection:
            connection.execute(text)

    yield Database(url, OLD[1], execute)


def job_id(number):
    return f"{number:032x}"


def version(engine):
    with engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT version_num FROM {migrations.VERSION_TABLE}")).scalars().all()


def test_an_old_database_is_upgraded_with_its_jobs(database):
    database.fill()
    store = JobStore(database.url)
    assert version(store.engine) == [migrations.HEAD]
    everything, more = store.page(None, order="asc")
    assert [job.id for job in everything] == [job_id(number) for number in range(1, 6)] and not more
    assert [job.status for job in everything] == ["completed", "failed", "running", "queued", "cancelled"]
    done, failed, at_work, waiting, _ = everything
    assert done.result["video"] == {"name": "turntable.mp4", "frames": 24}
    assert done.making.prompt == "a \"quoted\" naïve prompt; with 'marks'"
    assert failed.error_code == "mask.too_small" and at_work.making.still.scene == "marble-kitchen"
    assert waiting.input.photos[0].azimuth_deg == 45.0 and waiting.timeout_s == 600.0
    assert keys.KeyRing(store.engine).check(SECRET).per_minute == 60
    [webhook] = store.due_webhooks()
    assert (webhook.job_id, webhook.url) == (failed.id, "https://client.example/hook2")
    # The old worker is gone: a new one runs its job and the queued one.
    taken = store.lease("new", max_jobs=5, lease_s=30, attempts=3)
    assert [(job.id, job.attempt) for job in taken] == [(at_work.id, 2), (waiting.id, 1)]
    assert all(store.complete(job.id, job.attempt, {"files": {}}) for job in taken)
    with store.engine.begin() as connection:
        [name] = connection.execute(sa.text("SELECT id FROM gapray_database")).scalars()
        assert len(name) == 32
    store.engine.dispose()


@pytest.mark.parametrize("old", [False, True], ids=["empty", "old"])
def test_migrations_lead_to_the_tables_in_the_code(database, old):
    if old:
        database.fill()
    engine = connect(database.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_object": lambda _, name, kind, *__: kind != "table" or name != migrations.VERSION_TABLE},
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


@pytest.mark.parametrize("old", [False, True], ids=["empty", "old"])
def test_concurrent_processes_upgrade_the_database_once(database, old):
    if old:
        database.fill()
    code = "import sys; sys.stdin.read(1); from gapray.serve.tables import connect; connect(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", "import gapray.serve.tables, alembic.command; " + code, database.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for _ in range(PROCESSES)
    ]
    for process in started:
        process.stdin.write(b"g")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES, said
    engine = connect(database.url)
    assert version(engine) == [migrations.HEAD]
    with engine.connect() as connection:
        counts = [
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
            for table in metadata.sorted_tables
        ]
        found = dict(zip([table.name for table in metadata.sorted_tables], counts, strict=True))
    assert found.pop("gapray_database") == 1
    assert found == {jobs.name: 5 * old, webhooks.name: 2 * old, api_keys.name: 1 * old}
    engine.dispose()


def test_a_current_database_is_not_migrated_again(database, monkeypatch):
    store = JobStore(database.url)
    job = store.submit(
        NewJob(owner="me", api="openai", kind="video", making=GenerationParams(), input=JobInput(capture="x")),
        max_queued=9,
        keep_s=60,
    )
    monkeypatch.setattr(migrations, "_upgrade", lambda _: pytest.fail("no lock and no step for what is up to date"))
    again = JobStore(database.url)
    assert again.get(job.id, "me") == job
    store.engine.dispose(), again.engine.dispose()


def test_a_database_of_a_newer_gapray_is_refused_and_left_alone(database):
    engine = connect(database.url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(ConfigError) as error:
        connect(database.url)
    assert error.value.code == "jobs.newer_schema" and "9999" in error.value.message
    assert version(engine) == ["9999"]
    engine.dispose()


def test_head_is_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]
