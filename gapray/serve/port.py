"""Checks that the port of a server is free before anything is started.

Serve's proxies listen with SO_REUSEPORT, so two servers on one port would both start, and the kernel would distribute requests
between them: half of a client's requests would reach a server that does not know its jobs.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import urllib3

from gapray.errors import ConfigError

_TIMEOUT_S = 2.0
_MAX_BYTES = 4 * 2**20
"""Maximum size of the other server's OpenAPI document [bytes]."""


@contextmanager
def hold_port(host: str, port: int) -> Iterator[None]:
    """Reserve a port of this machine among gapray's servers while the block runs.

    Args:
        host: Address or name that the server will bind.
        port: Port that the server will bind.

    Raises:
        ConfigError: `serve.cannot_bind` if something listens there, if another gapray is about to, or if the address
            cannot be bound at all.
    """
    # Linux frees an abstract socket name when its process ends in any way, and scopes it to a network namespace, like ports.
    with socket.socket(socket.AF_UNIX) as reservation:
        try:
            reservation.bind(f"\0gapray-serve-{port}")
        except OSError as error:
            raise ConfigError(
                "serve.cannot_bind", f"another gapray serves on port {port}, or is starting to"
            ) from error
        refuse_taken(host, port)
        yield


def refuse_taken(host: str, port: int) -> None:
    """Check that nothing listens on a port, by binding it without SO_REUSEPORT and closing it again.

    Raises:
        ConfigError: `serve.cannot_bind`.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of a server that was just stopped may linger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = f"{_listener(host, port)} listens there" if taken else error.strerror or str(error)
            raise ConfigError("serve.cannot_bind", f"{host}:{port}: {reason}") from error


def _listener(host: str, port: int) -> str:
    """Describe the server that listens on a port: gapray with its version, or another program."""
    name = f"[{host}]" if ":" in host else host
    target = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(name, name)  # noqa: S104  (nothing is bound here)
    pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S)
    try:
        answer = pool.request("GET", f"http://{target}:{port}/openapi.json", preload_content=False, redirect=False)
    except urllib3.exceptions.HTTPError:
        return "another program"
    with answer, suppress(urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
        info = json.loads(answer.read(_MAX_BYTES))["info"]
        if info["title"] == "gapray":
            return f"gapray {info['version']}"
    server = answer.headers.get("server", "")
    return f"another program ({server[:80]})" if server else "another program"
