"""`gapray submit`: one of gapray's commands as a job of a Ray cluster, with this checkout's code."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gapray.config import without_password, worker_environment
from gapray.errors import ConfigError, ResourceError

VERBS = ("package", "render", "score", "run", "stills", "report", "reel", "publish")
"""Commands that make sense on a cluster."""
TAKEN = ("gapray", "jobs", "serve_configs", "*.toml", "*.yaml", "*.csv", "*.parquet")
"""Files of a checkout that go along, which a job reads: whatever else lies there may be large."""


@dataclass(frozen=True)
class Submitted:
    """A job, and how it stands."""

    id: str
    status: str
    """Ray's: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED."""
    message: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def submit(
    words: Sequence[str],
    *,
    address: str | None = None,
    working_dir: Path | None = None,
    follow: bool = True,
    on_log: Callable[[str], None] = print,
) -> Submitted:
    """Submit ``gapray WORDS…``.

    Args:
        words: A command of `VERBS` and its arguments, with URIs that the cluster's nodes can read.
        address: Of the cluster's dashboard, ``http://HEAD:8265``; default: RAY_API_SERVER_ADDRESS, or this machine's.
        working_dir: Checkout to upload; None = the nodes have gapray installed.
        follow: Wait, and hand every piece of the job's log to `on_log`.
        on_log: Called with text.

    Raises:
        ConfigError: `config.secret`: a word is a URL with a password in it, which the job's metadata would show.
        ResourceError: `cluster.unreachable` or `cluster.refused`.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for word in words:
        if word != without_password(word):
            raise ConfigError("config.secret", f"the command holds a password: {without_password(word)}")
    # Credentials stay here: nodes have roles, files or an environment of their own.
    environment: dict[str, Any] = {"env_vars": worker_environment(os.environ)}
    if working_dir is not None:
        environment |= {"working_dir": str(working_dir), "excludes": left_out(working_dir)}
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(["python", "-m", "gapray", *words]), runtime_env=environment)
        if follow:
            asyncio.run(_followed(client, job, on_log))
        info = client.get_job_info(job)
    except (ConnectionError, OSError) as error:
        raise ResourceError("cluster.unreachable", f"{address or 'the cluster'}: {error}") from error
    except (RuntimeError, AuthenticationError) as error:
        raise ResourceError("cluster.refused", f"{address or 'the cluster'}: {str(error)[:400]}") from error
    return Submitted(job, str(info.status.value), str(info.message or ""))


async def _followed(client: Any, job: str, on_log: Callable[[str], None]) -> None:
    async for piece in client.tail_job_logs(job):
        on_log(piece)


def left_out(root: Path) -> list[str]:
    """What Ray is not to upload of a checkout, in gitignore's notation."""
    others = [one.name for one in root.iterdir() if not any(one.match(pattern) for pattern in TAKEN)]
    return [f"/{name}" for name in sorted(others)] + ["**/__pycache__"]


def checkout() -> Path | None:
    """The checkout that this gapray runs from; None when it is installed."""
    root = Path(__file__).resolve().parent.parent.parent
    return root if (root / "pyproject.toml").exists() else None
