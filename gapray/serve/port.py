"""The port of a server, looked at before anything is started.

Serve's proxies listen with SO_REUSEPORT, so that two servers on one port both start, and the kernel shares requests out between
them: half of a client's requests would ask a server that knows nothing of its jobs.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import urllib3

from gapray.errors import ConfigError

_ASK_S = 2.0
_MOST_BYTES = 4 * 2**20


@contextmanager
def port_kept(host: str, port: int) -> Iterator[None]:
    """Keep a port of this machine from other servers of gapray while the block runs.

    Args:
        host: Address or name that the server will bind.
        port: Its port.

    Raises:
        ConfigError: `serve.cannot_bind` when something listens there, when another gapray is about to, or when the address
            cannot be bound at all.
    """
    # Linux' abstract names are freed with the process, however it ends, and belong to a network namespace, as ports do.
    with socket.socket(socket.AF_UNIX) as mark:
        try:
            mark.bind(f"\0gapray-serve-{port}")
        except OSError as error:
            raise ConfigError(
                "serve.cannot_bind", f"another gapray serves on port {port}, or is starting to"
            ) from error
        refuse_taken(host, port)
        yield


def refuse_taken(host: str, port: int) -> None:
    """Bind as a server would that shares with nobody, and let go again.

    Raises:
        ConfigError: `serve.cannot_bind`.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # connections of a server that was just stopped may linger
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = f"{_listener(host, port)} listens there" if taken else error.strerror or str(error)
            raise ConfigError("serve.cannot_bind", f"{host}:{port}: {reason}") from error


def _listener(host: str, port: int) -> str:
    """What a listener says that it is: gapray with its version, or another program."""
    name = f"[{host}]" if ":" in host else host
    place = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(name, name)  # noqa: S104  (nothing is bound here)
    pool = urllib3.PoolManager(retries=False, timeout=_ASK_S)
    try:
        answer = pool.request("GET", f"http://{place}:{port}/openapi.json", preload_content=False, redirect=False)
    except urllib3.exceptions.HTTPError:
        return "another program"
    with answer, suppress(urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
        info = json.loads(answer.read(_MOST_BYTES))["info"]
        if info["title"] == "gapray":
            return f"gapray {info['version']}"
    server = answer.headers.get("server", "")
    return f"another program ({server[:80]})" if server else "another program"
