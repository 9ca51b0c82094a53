"""`gapray submit`: submits a gapray command as a job of a Ray cluster, with the code of this checkout."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gapray.environment import without_password, worker_environment
from gapray.errors import ConfigError, ResourceError

VERBS = ("package", "render", "score", "run", "stills", "report", "reel", "publish")
"""Commands that can be submitted."""
UPLOADED = ("gapray", "jobs", "serve_configs", "*.toml", "*.yaml", "*.csv", "*.parquet")
"""Patterns of the files of a checkout that a job may read and that are uploaded; other files may be large."""


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job and its status."""

    id: str
    status: str
    """Ray's status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    """Ray's message on the status, possibly empty."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for ``--json``."""
        return asdict(self)


def submit(
    arguments: Sequence[str],
    *,
    address: str | None = None,
    working_dir: Path | None = None,
    follow: bool = True,
    on_log: Callable[[str], None] = print,
) -> SubmittedJob:
    """Submit ``gapray ARGUMENTS…`` as a job.

    Args:
        arguments: A command in `VERBS` and its arguments, with URIs that the cluster's nodes can read.
        address: Address of the cluster's dashboard, ``http://HEAD:8265``; default: RAY_API_SERVER_ADDRESS, or this machine's.
        working_dir: Checkout to upload; None = gapray is installed on the nodes.
        follow: Wait for the job, and pass its log to `on_log`.
        on_log: Called with pieces of the log.

    Returns:
        The job, with its final status if it was followed.

    Raises:
        ConfigError: `config.secret`: an argument is a URL with a password, which the job's metadata would expose.
        ResourceError: `cluster.unreachable` or `cluster.refused`.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for argument in arguments:
        if argument != without_password(argument):
            raise ConfigError("config.secret", f"the command holds a password: {without_password(argument)}")
    # Credentials are not passed on: nodes get theirs from roles, files or their own environment.
    environment: dict[str, Any] = {"env_vars": worker_environment(os.environ)}
    if working_dir is not None:
        environment |= {"working_dir": str(working_dir), "excludes": upload_excludes(working_dir)}
    try:
        client = JobSubmissionClient(address)
        command = shlex.join(["python", "-m", "gapray", *arguments])
        job = client.submit_job(entrypoint=command, runtime_env=environment)
        if follow:
            asyncio.run(_stream_logs(client, job, on_log))
        info = client.get_job_info(job)
    except (ConnectionError, OSError) as error:
        raise ResourceError("cluster.unreachable", f"{address or 'the cluster'}: {error}") from error
    except (RuntimeError, AuthenticationError) as error:
        raise ResourceError("cluster.refused", f"{address or 'the cluster'}: {str(error)[:400]}") from error
    return SubmittedJob(job, str(info.status.value), str(info.message or ""))


async def _stream_logs(client: Any, job: str, on_log: Callable[[str], None]) -> None:
    async for piece in client.tail_job_logs(job):
        on_log(piece)


def upload_excludes(root: Path) -> list[str]:
    """Return patterns of the files of a checkout that Ray must not upload, in gitignore syntax."""
    others = [path.name for path in root.iterdir() if not any(path.match(pattern) for pattern in UPLOADED)]
    return [f"/{name}" for name in sorted(others)] + ["**/__pycache__"]


def checkout() -> Path | None:
    """Return the checkout that gapray runs from; None if it is installed."""
    root = Path(__file__).resolve().parent.parent.parent
    return root if (root / "pyproject.toml").exists() else None
