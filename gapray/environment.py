"""Environment variables: those passed to workers, secrets hidden from logs, and changes that are undone afterwards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

ENV_PREFIX = "GAPRAY_SET_"
"""Prefix of environment variables that set settings: `GAPRAY_SET_MASK__MODEL=u2net` equals ``--set mask.model=u2net``."""
WORKER_ENVIRONMENT = (
    "GAPRAY_CACHE",
    "GAPRAY_LOG",
    "GAPRAY_MODELS",
    "GAPRAY_REVISION",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)
"""Environment variables of the caller that are passed to a cluster's workers, besides settings. Ray's dashboard and API show
their values, so no variable that holds a token, secret or password may be added here."""
HIDDEN = "***"
_PASSWORD = re.compile(r"(postgresql[+\w]*://[^:/@\s]*):[^@\s]*@|(://[^:/?#@\s]*):[^@/\s]*@")
"""SQLAlchemy accepts a slash in a password; in other URLs a slash ends the host."""
_PASSWORD_ITEM = re.compile(r"(?i)([?&](?:password|sslpassword)=)[^&\s]+")


@contextmanager
def preserved_environment(**defaults: str) -> Iterator[None]:
    """Set environment variables for processes started inside the block, such as Ray's, and restore all variables afterwards.

    Args:
        defaults: Variable -> value; a variable that the caller has set keeps its value.
    """
    before = dict(os.environ)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in {*before, *os.environ}:
            if name not in before:
                del os.environ[name]
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Select the environment variables that are passed to workers: `WORKER_ENVIRONMENT` and settings, except URLs with a password."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (name in WORKER_ENVIRONMENT or name.startswith(ENV_PREFIX)) and value == without_password(value)
    }


def without_password(url: str) -> str:
    """Return a URL with its password replaced by ``***``; unchanged if it has none."""
    return _PASSWORD_ITEM.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1\2:{HIDDEN}@", url))
