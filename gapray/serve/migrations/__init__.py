"""Alembic migrations of the job database to the current schema.

To add one, change `gapray.serve.tables`, add a file to `versions`, and update `HEAD`. Migrations are self-contained: they
never import `gapray.serve.tables`, which changes after them.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from gapray.errors import ConfigError

FIRST = "0001"
"""The schema from before there were migrations."""
HEAD = "0002"
"""The newest migration, stated here so that a process whose database is up to date need not import Alembic."""
VERSION_TABLE = "gapray_schema"
_ADVISORY_KEY = int.from_bytes(b"gapray", "big")
"""Key of the PostgreSQL advisory lock that serialises migrations."""
_ALEMBIC_LOCK = threading.Lock()
"""Alembic keeps the context of a run in a module variable, so only one thread may use it."""


def bring_up_to_date(engine: Engine) -> None:
    """Create the tables, or run the migrations that the database lacks. Several processes may call this at once.

    All migrations run in one transaction. A process waits for others at SQLite's write lock or a PostgreSQL advisory lock,
    and then finds their work done.

    Args:
        engine: Engine as `gapray.serve.tables.connect` sets it up: transactions that write take SQLite's write lock at
            their beginning.

    Raises:
        ConfigError: `jobs.newer_schema` if a newer version of gapray has migrated the database.
        sqlalchemy.exc.SQLAlchemyError: The database refuses the change or does not answer.
    """
    with engine.connect() as connection:
        if _version(connection) == HEAD:
            return
    with _ALEMBIC_LOCK, engine.execution_options(gapray_writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_KEY)))
        _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    version = _version(connection)
    if version == HEAD:
        return
    try:
        if version is None and sa.inspect(connection).has_table("gapray_jobs"):
            command.stamp(config, FIRST)
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigError("jobs.newer_schema", f"the jobs' database is at step {version}, after {HEAD}") from error


def _version(connection: Connection) -> str | None:
    """Return the last migration of the database; None if it is empty or older than all migrations."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num"))
    number: str | None = connection.execute(sa.select(version.c.version_num)).scalar_one_or_none()
    return number
