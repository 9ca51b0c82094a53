"""The job database: its tables, and an engine for SQLite or PostgreSQL."""

from __future__ import annotations

import json
import re
import sqlite3
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import OperationalError

from gapray.errors import ConfigError
from gapray.serve.migrations import bring_up_to_date
from gapray.serve.text import strict_json

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
UNREADABLE = "unreadable"
"""Value of a JSON column whose content cannot be shown in an answer; no JSON column holds a bare string."""

UNAVAILABLE = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)
"""Errors raised while a database does not answer. Retrying does not help against any other error."""

_DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE ``disk_full`` (PostgreSQL documentation, appendix A)."""

metadata = sa.MetaData()
"""The schema after the newest migration; a change here needs a migration in `gapray.serve.migrations`."""

jobs = sa.Table(
    "gapray_jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("api", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("endpoint", sa.String(128), nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    sa.Column("making", sa.JSON, nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("webhook", sa.Text),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("started_at", sa.Float(53)),
    sa.Column("finished_at", sa.Float(53)),
    sa.Column("expires_at", sa.Float(53), nullable=False),
    sa.Column("wait_until", sa.Float(53)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("tried_before", sa.Integer, nullable=False),
    sa.Column("timeout_s", sa.Float(53)),
    sa.Column("lease_owner", sa.String(64)),
    sa.Column("lease_until", sa.Float(53)),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.Column("result", sa.JSON),
    sa.Column("deleted_at", sa.Float(53)),
    sa.UniqueConstraint("owner", "idempotency_key"),
    sa.Index("gapray_jobs_queue", "status", "created_at"),
    sa.Index("gapray_jobs_owner", "owner", "created_at", "id"),
)
"""A job with `deleted_at` is hidden from clients; its row stays until its files are gone. `making` holds `GenerationParams`."""

webhooks = sa.Table(
    "gapray_webhooks",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("gapray_jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float(53)),
    sa.Column("delivered_at", sa.Float(53)),
    sa.Column("last_error", sa.Text),
    sa.Index("gapray_webhooks_due", "next_at"),
)
"""Webhooks to deliver. `next_at` is null once a webhook is delivered or given up."""

api_keys = sa.Table(
    "gapray_api_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("per_minute", sa.Integer),
    sa.Column("concurrent", sa.Integer),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("revoked_at", sa.Float(53)),
)

database = sa.Table("gapray_database", metadata, sa.Column("id", sa.String(32), primary_key=True))
"""One row: a random id, by which an artifact store recognises the database that its files belong to."""


def connect(url: str) -> Engine:
    """Return an engine whose database has the current schema, creating or migrating the tables if necessary.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``.

    Raises:
        ConfigError: `jobs.store_unusable` if the database is of another kind or cannot be reached, `jobs.newer_schema` if
            a newer version of gapray has migrated it.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError("jobs.store_unusable", "the jobs' URL is no database URL") from error
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError("jobs.store_unusable", f"jobs are kept in SQLite or PostgreSQL, not in {backend}")
    if backend == "postgresql":
        with_driver = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(with_driver, pool_pre_ping=True, pool_size=8, **_JSON)
    else:
        engine = sa.create_engine(parsed, connect_args={"timeout": 30}, **_JSON)
        sa.event.listen(engine, "connect", _on_sqlite_connect)
        sa.event.listen(engine, "begin", _on_sqlite_begin)
    try:
        bring_up_to_date(engine)
    except sa.exc.SQLAlchemyError as error:
        shown = parsed.render_as_string(hide_password=True)
        raise ConfigError("jobs.store_unusable", f"{shown}: {type(error).__name__}") from error
    return engine


def write_transaction(engine: Engine) -> Any:
    """Begin a transaction that writes; on SQLite it takes the write lock at its beginning, so that it cannot fail half way."""
    return engine.execution_options(gapray_writes=True).begin()


def load_json(stored: str | bytes) -> Any:
    """Return a JSON column's value, or `UNREADABLE` if it is not JSON or holds NaN or half a surrogate pair."""
    try:
        data = stored.encode() if isinstance(stored, str) else bytes(stored)
        value = strict_json(data)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return UNREADABLE
    return value


_JSON: dict[str, Any] = {"json_serializer": partial(json.dumps, allow_nan=False), "json_deserializer": load_json}


def is_sqlite(url: str) -> bool:
    """Whether `url` names an SQLite database, a file that processes on several machines cannot share."""
    return url.startswith("sqlite")


def is_full(error: OperationalError) -> bool:
    """Whether a statement failed because the database's disk is full."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_FULL or getattr(error.orig, "sqlstate", None) == _DISK_FULL


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # only `_on_sqlite_begin` begins transactions
    cursor = connection.cursor()
    # WAL lets readers continue during a write; FULL makes accepted jobs survive a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    # Reads are single statements, each of which SQLite runs as a transaction anyway.
    if connection.get_execution_options().get("gapray_writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
