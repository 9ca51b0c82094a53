"""Connections to Ray: connecting, starting a local cluster, shutting down, and converting Ray's errors to gapray's."""

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
from gapray.environment import preserved_environment, worker_environment
from gapray.errors import FileError, GaprayError, ResourceError, as_gapray_error

CONNECT_S = 10.0
"""Timeout for connecting to a cluster's head [s]."""
_RAISED_LINE = re.compile(r"gapray\.errors\.(\w+Error): (.*) \[([a-z]+\.[a-z_]+)\]")
"""The last line of a traceback of one of gapray's errors: class, message, code."""


def job_config() -> dict[str, Any]:
    """Return the configuration that Ray passes to the entry point of a submitted job: `metadata` and `runtime_env`.

    Empty outside a job.
    """
    config: dict[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return config


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block; an existing connection of this process is reused and kept.

    The caller's loggers and environment are restored afterwards.

    Args:
        address: As for `start`.

    Raises:
        ResourceError: The connection fails, see `start`.
        GaprayError: The block raised an error of a worker, see `unwrapped_ray_errors`.
    """
    with quiet_ray(), unwrapped_ray_errors():
        if ray.is_initialized():
            yield
            return
        # Ray's C++ core prints advice about our actors on the driver's standard error; failures reach us as exceptions.
        try:
            with preserved_environment(RAY_BACKEND_LOG_LEVEL="fatal"):
                start(address, share_environment=True)
            yield
        finally:
            ray.shutdown()


def start(address: str | None, *, share_environment: bool, object_store_memory: int | None = None) -> None:
    """Connect this process to a Ray cluster.

    May set environment variables for Ray's processes; callers restore them by `preserved_environment`.

    Args:
        address: ``host:port``, ``ray://host:port``, ``auto`` or ``local``; default: `RAY_ADDRESS`, or a new local cluster.
        share_environment: Pass the variables selected by `gapray.environment.worker_environment` to the workers of a remote cluster.
        object_store_memory: Size of a new local cluster's object store [bytes]; default: Ray's.

    Raises:
        ResourceError: `cluster.not_started`, `cluster.unreachable` or `cluster.refused`.
    """
    with _preserved_sigterm_handler(), _uv_hook_disabled():
        _start(address or os.environ.get("RAY_ADDRESS") or "local", share_environment, object_store_memory)


def _start(remote: str, share_environment: bool, object_store_memory: int | None) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if remote == "local":
        try:
            os.environ |= _cluster_token()
            ray.init("local", include_dashboard=False, object_store_memory=object_store_memory, **quiet)
        except Exception as error:  # Ray raises various types here, including plain Exception
            raise ResourceError("cluster.not_started", f"Ray does not start here: {_first_line(error)}") from error
        return
    # Ray refuses a variable that the job has already set, even to the same value.
    job_variables = (job_config().get("runtime_env") or {}).get("env_vars") or {}
    shared = {name: value for name, value in worker_environment(os.environ).items() if name not in job_variables}
    try:
        _check_reachable(remote)
        ray.init(address=remote, runtime_env={"env_vars": shared} if share_environment else None, **quiet)
    except ray.exceptions.AuthenticationError as error:
        raise ResourceError("cluster.refused", f"{remote}: {_first_line(error)}") from error
    except (OSError, ValueError, ray.exceptions.RayError) as error:  # OSError includes ConnectionError
        raise ResourceError("cluster.unreachable", f"{remote}: {_first_line(error)}") from error
    except RuntimeError as error:  # the versions of Ray or Python differ
        raise ResourceError("cluster.refused", f"{remote}: {_first_line(error)}") from error


def _cluster_token() -> dict[str, str]:
    """Return an authentication token for a new local cluster if Ray cannot store its own, as environment variables.

    Ray (2.60) requires a token by default and stores it in ``~/.ray``, which an arbitrary user id in a container cannot write to.
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
    except (OSError, RuntimeError):  # RuntimeError: HOME is not set and the user id is not in the password database
        return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _check_reachable(address: str) -> None:
    """Fail fast if no cluster answers: `ray.init` retries an unreachable address for minutes.

    Args:
        address: ``host:port`` of the head, ``ray://host:port``, or ``auto`` for the cluster that runs on this machine.

    Raises:
        ValueError: The address is malformed.
        OSError: Nothing listens there.
        ray.exceptions.RayError: The listener is not a Ray head, or does not answer (40 s).
    """
    scheme, separator, rest = address.partition("://")
    if separator and scheme != "ray":
        raise ValueError("a run joins Ray's own port, not the dashboard's or another service's")
    target = services.canonicalize_bootstrap_address(address) if address == "auto" else rest or address
    host, _, port = (target or "").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("this is no HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    if not separator:
        GcsClient(address=target)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def _preserved_sigterm_handler() -> Iterator[None]:
    """Keep the caller's SIGTERM handler: `ray.init` replaces it with one that exits with status 15."""
    before = signal.getsignal(signal.SIGTERM)
    restorable = callable(before) and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit as stop:
        if restorable and stop.code == signal.SIGTERM:
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if restorable and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # SIG_IGN: a shutdown is under way
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _uv_hook_disabled() -> Iterator[None]:
    """Disable Ray's `uv run` hook: under `uv run`, Ray (2.60) uploads the working directory and starts each worker by `uv run` there.

    Local workers use the driver's interpreter, and cluster nodes have gapray installed. An explicit
    RAY_ENABLE_UV_RUN_RUNTIME_ENV is respected.
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
def unwrapped_ray_errors() -> Iterator[None]:
    """Re-raise a worker's error as the original gapray error instead of Ray's wrapper.

    Raises:
        GaprayError: The error that the worker raised.
        FileError: `file.*`: a file system error in a worker.
        ResourceError: `cluster.failed`: Ray gave up on part of the run; `cluster.disk_full`: a node's disk is full;
            `cluster.stalled`: no progress for `run.no_progress_s`.
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
            # Ray also creates exceptions that inherit from both RayError and our class; those print a traceback.
            if isinstance(cause, GaprayError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from error
            if isinstance(cause, ray.exceptions.RayActorError) and (original := _constructor_error(cause)):
                raise original from error
            if isinstance(cause, OSError) and isinstance(known := as_gapray_error(cause), FileError):
                raise known from error
            if isinstance(cause, ray.exceptions.OutOfDiskError):
                raise ResourceError("cluster.disk_full", _first_line(cause)) from error
        # A `RayTaskError` around anything else is a bug in our code: keep its traceback.
        for cause in chain:
            if isinstance(cause, ray.exceptions.RayError) and not isinstance(cause, ray.exceptions.RayTaskError):
                what = f"{type(cause).__name__}: {_first_line(cause)}"
                raise ResourceError("cluster.failed", f"Ray ended the run: {what}") from error
        raise


def _constructor_error(error: ray.exceptions.RayActorError) -> GaprayError | None:
    """Return the gapray error that an actor's constructor raised, parsed from its text, which is all that Ray keeps."""
    matches = _RAISED_LINE.findall(str(error))
    if not matches:
        return None
    kind, message, code = matches[-1]
    raised: GaprayError = getattr(errors, kind)(code, message)
    return raised


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Silence Ray's loggers below warnings, and Ray Data's entirely, whose errors are raised; levels are restored afterwards."""
    levels = {"ray": logging.WARNING, "ray.data": logging.CRITICAL + 1, "ray._private.authentication": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
