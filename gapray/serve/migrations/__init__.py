"""Steps that bring a jobs' database of an older gapray to this one's tables, by Alembic.

A new step: change `gapray.serve.tables`, add a file to `versions`, and name it in `HEAD`. Steps stand for themselves: they
never import `gapray.serve.tables`, which goes on changing after them.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from gapray.errors import ConfigError

FIRST = "0001"
"""The tables as they were made before there were steps."""
HEAD = "0002"
"""The newest step. Written here, so that a process that finds the database up to date need not import Alembic."""
VERSION_TABLE = "gapray_schema"
_ADVISORY_KEY = int.from_bytes(b"gapray", "big")
"""Key of the lock that PostgreSQL gives to one process at a time."""
_ONE_THREAD = threading.Lock()
"""Alembic keeps the context of a run in its module."""


def bring_up_to_date(engine: Engine) -> None:
    """Make the tables, or take the steps that the database lacks. Several processes may do it at once.

    All steps are one transaction. It waits for the others at SQLite's write lock or at an advisory lock of PostgreSQL, and
    then finds their work done.

    Args:
        engine: Of `gapray.serve.tables.connect`: its writing transactions take SQLite's write lock at their beginning.

    Raises:
        ConfigError: `jobs.newer_schema`: a newer gapray has changed the database.
        sqlalchemy.exc.SQLAlchemyError: The database refuses or does not answer.
    """
    with engine.connect() as connection:
        if _version(connection) == HEAD:
            return
    with _ONE_THREAD, engine.execution_options(gapray_writes=True).begin() as connection:
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
    """The database's last step; None when it is empty or older than all steps."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num"))
    found: str | None = connection.execute(sa.select(version.c.version_num)).scalar_one_or_none()
    return found
