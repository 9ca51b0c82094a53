"""A port in use is detected before Ray starts, and reported with a code."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from gapray.cli.main import app
from gapray.errors import ConfigError
from gapray.serve.port import hold_port, refuse_taken
from tests.serve.conftest import served


@contextmanager
def other_program(host="127.0.0.1"):
    server = http.server.ThreadingHTTPServer((host, 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(10)


@contextmanager
def shared_listener():
    """Listen with SO_REUSEPORT, like Serve's proxy, and never answer."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def refused(port, host="127.0.0.1"):
    with pytest.raises(ConfigError) as error, hold_port(host, port):
        pass
    assert error.value.code == "serve.cannot_bind" and "--port" in error.value.remedy
    return error.value.message


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_another_program_is_named(monkeypatch):
    with other_program() as port:
        assert "another program (SimpleHTTP" in refused(port)
        assert "another program" in refused(port, "0.0.0.0")
    with other_program("0.0.0.0") as port:
        assert "another program" in refused(port)
    refuse_taken("127.0.0.1", port)


def test_gapray_is_named(tmp_path):
    from gapray import __version__

    with served(tmp_path, worker="none") as server:
        port = int(server.url.rpartition(":")[2])
        assert f"gapray {__version__} listens there" in refused(port)


def test_a_port_in_use_with_so_reuseport_is_refused(monkeypatch):
    monkeypatch.setattr("gapray.serve.port._TIMEOUT_S", 0.2)
    with shared_listener() as port:
        assert "another program" in refused(port)


def test_two_servers_cannot_start_at_once():
    """Before either listens, the second one is refused, in this process or another; the port is free once the first ends."""
    port = free_port()
    code = f"from gapray.serve.port import hold_port\nwith hold_port('127.0.0.1', {port}): print('mine')"
    with hold_port("127.0.0.1", port):
        assert "another gapray" in refused(port)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode != 0 and "serve.cannot_bind" in result.stderr
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "mine\n"


def test_lingering_connections_do_not_prevent_a_restart():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = listener.accept()
        accepted.close()  # the side that closes first waits in TIME_WAIT
        client.close()
    with hold_port("127.0.0.1", port):
        pass


def test_addresses_that_cannot_be_bound():
    assert "192.0.2.1" in refused(free_port(), "192.0.2.1")  # TEST-NET-1 (RFC 5737) is not assigned
    assert "no.such.host.invalid" in refused(free_port(), "no.such.host.invalid")


def test_the_command_ends_with_the_code_before_ray_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_STATE", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with other_program() as port:
        result = CliRunner().invoke(app, ["serve", "--port", str(port)], env=dict(os.environ))
    assert result.exit_code == 2, result.output
    assert "serve.cannot_bind" in result.output and "starting Ray" not in result.output
