"""A connection to Ray: found, begun, ended, and its errors told as ours."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data.exceptions
from ray._private import ray_constants, services
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from gapray import errors
from gapray.config import worker_environment
from gapray.environment import environment_kept
from gapray.errors import FileError, GaprayError, ResourceError, as_gapray_error

CONNECT_S = 10.0
"""Longest wait for a cluster's head to take a connection."""
_RAISED = re.compile(r"gapray\.errors\.(\w+Error): (.*) \[([a-z]+\.[a-z_]+)\]")
"""A traceback's last line for an error of ours: type, message, code."""


def job_config() -> dict[str, Any]:
    """What Ray tells the entry point of a submitted job of itself: `metadata` and `runtime_env`; empty in no job."""
    told: dict[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return told


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a Ray cluster; one that this process has already is used and left alone.

    The caller's loggers and environment are afterwards as they were.

    Raises:
        ResourceError: As `start`.
        GaprayError: As `ours_raised`, for what the body raises.
    """
    with quiet_ray(), ours_raised():
        if ray.is_initialized():
            yield
            return
        # Ray's C++ side writes advice about our actors on every driver's standard error; what fails reaches us as exceptions.
        try:
            with environment_kept(RAY_BACKEND_LOG_LEVEL="fatal"):
                start(address, share_environment=True)
            yield
        finally:
            ray.shutdown()


def start(address: str | None, *, share_environment: bool, object_store_memory: int | None = None) -> None:
    """Connect this process to a Ray cluster.

    What Ray's processes have to know may stay behind in the environment: callers put back what was there (`environment_kept`).

    Args:
        address: ``host:port``, ``ray://host:port``, ``auto`` or ``local``; default: `RAY_ADDRESS`, or a new local one.
        share_environment: Let a cluster's workers have what `gapray.config.worker_environment` picks of this process's.
        object_store_memory: Of a new local one [bytes]; default: what Ray takes.

    Raises:
        ResourceError: `cluster.not_started`, `cluster.unreachable` or `cluster.refused`.
    """
    with _sigterm_kept(), _without_uv():
        _start(address or os.environ.get("RAY_ADDRESS") or "local", share_environment, object_store_memory)


def _start(remote: str, share_environment: bool, object_store_memory: int | None) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if remote == "local":
        try:
            os.environ |= _own_token()
            ray.init("local", include_dashboard=False, object_store_memory=object_store_memory, **quiet)
        except Exception as error:  # of any type, a plain one among them
            raise ResourceError("cluster.not_started", f"Ray does not start here: {_first_line(error)}") from error
        return
    # What the job gives its workers already, Ray refuses to be given again, even with the same value.
    given = (job_config().get("runtime_env") or {}).get("env_vars") or {}
    shared = {name: value for name, value in worker_environment(os.environ).items() if name not in given}
    try:
        _answers(remote)
        ray.init(address=remote, runtime_env={"env_vars": shared} if share_environment else None, **quiet)
    except ray.exceptions.AuthenticationError as error:
        raise ResourceError("cluster.refused", f"{remote}: {_first_line(error)}") from error
    except (OSError, ValueError, ray.exceptions.RayError) as error:  # a ConnectionError is an OSError
        raise ResourceError("cluster.unreachable", f"{remote}: {_first_line(error)}") from error
    except RuntimeError as error:  # another version of Ray or Python
        raise ResourceError("cluster.refused", f"{remote}: {_first_line(error)}") from error


def _own_token() -> dict[str, str]:
    """A token for a new local cluster alone, where Ray could not keep one.

    Ray (2.60) makes clusters that admit nobody without a token, and keeps it in ``~/.ray``: a container's made-up user has no
    such folder.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & {
        *os.environ
    }:
        return {}
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").exists():
            return {}
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return {}
    except (OSError, RuntimeError):  # RuntimeError: a user whom no file knows, without HOME
        return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _answers(address: str) -> None:
    """Ask a cluster for a sign of life: `ray.init` itself tries an address where nobody is for minutes.

    Args:
        address: ``host:port`` of the head, ``ray://host:port``, or ``auto`` for the one that runs on this machine.

    Raises:
        ValueError: It is no such address.
        OSError: Nobody listens there.
        ray.exceptions.RayError: Whoever listens is no head, or does not answer (40 s).
    """
    scheme, found, rest = address.partition("://")
    if found and scheme != "ray":
        raise ValueError("a run joins Ray's own port, not the dashboard's or another service's")
    where = services.canonicalize_bootstrap_address(address) if address == "auto" else rest or address
    host, _, port = (where or "").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("this is no HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    if not found:
        GcsClient(address=where)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """`ray.init` puts a handler of its own, which exits with 15, in the place of one that the caller has set."""
    before = signal.getsignal(signal.SIGTERM)
    mine = callable(before) and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit as stop:
        if mine and stop.code == signal.SIGTERM:
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if mine and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # which says that the end has begun
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_uv() -> Iterator[None]:
    """Below `uv run` Ray (2.60) uploads the working directory, and starts each worker by `uv run` in that copy.

    Workers on this machine have the driver's interpreter, and nodes of a cluster have gapray installed. Who sets
    RAY_ENABLE_UV_RUN_RUNTIME_ENV gets what he asks for.
    """
    if "RAY_ENABLE_UV_RUN_RUNTIME_ENV" in os.environ:
        yield
        return
    before = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before


@contextmanager
def ours_raised() -> Iterator[None]:
    """Let an error that gapray raised in a worker be raised here as itself, not wrapped in Ray's.

    Raises:
        GaprayError: The worker's own.
        FileError: `file.*`: a worker's file system refused.
        ResourceError: `cluster.failed`: Ray itself gave up on a piece of the run; `cluster.disk_full`: a node's disk is full;
            `cluster.stalled`: nothing moved for `run.no_progress_s`.
    """
    try:
        yield
    except ray.data.exceptions.ExecutionTimeoutError as error:
        what = str(error).partition(" of scheduling time")[0]
        raise ResourceError("cluster.stalled", f"the run stood still: {what}") from error
    except ray.exceptions.RayError as error:
        chain: list[BaseException] = [error]
        while (inner := getattr(chain[-1], "cause", None) or chain[-1].__cause__) is not None and inner not in chain:
            chain.append(inner)
        for cause in chain:
            # Ray also makes exceptions that are both its own and ours; theirs print a trace.
            if isinstance(cause, GaprayError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from error
            if isinstance(cause, ray.exceptions.RayActorError) and (told := _told_by(cause)):
                raise told from error
            if isinstance(cause, OSError) and isinstance(known := as_gapray_error(cause), FileError):
                raise known from error
            if isinstance(cause, ray.exceptions.OutOfDiskError):
                raise ResourceError("cluster.disk_full", _first_line(cause)) from error
        # A `RayTaskError` around anything else is a defect of the code that ran: its trace is wanted.
        for cause in chain:
            if isinstance(cause, ray.exceptions.RayError) and not isinstance(cause, ray.exceptions.RayTaskError):
                what = f"{type(cause).__name__}: {_first_line(cause)}"
                raise ResourceError("cluster.failed", f"Ray ended the run: {what}") from error
        raise


def _told_by(error: ray.exceptions.RayActorError) -> GaprayError | None:
    """The error that an actor's constructor raised: Ray keeps only its text."""
    found = _RAISED.findall(str(error))
    if not found:
        return None
    kind, message, code = found[-1]
    raised: GaprayError = getattr(errors, kind)(code, message)
    return raised


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Ray's loggers without what it says below a warning, and nothing of Ray Data: its errors are raised; afterwards as they were."""
    levels = {"ray": logging.WARNING, "ray.data": logging.CRITICAL + 1, "ray._private.authentication": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
