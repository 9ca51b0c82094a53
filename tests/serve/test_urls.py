"""Protection against SSRF: URLs must be refused before any connection is attempted."""

import http.server
import ipaddress
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapray.errors import InputError
from gapray.serve.settings import UrlRules
from gapray.serve.urls import fetch, fetch_json, is_allowed, post_json

RULES = UrlRules(timeout_s=2)
HERE = UrlRules(private=("127.0.0.0/8",), timeout_s=2, max_bytes=1000)


@pytest.fixture
def connections(monkeypatch):
    """Every connection that is attempted."""
    tried = []
    real = socket.socket.connect

    def connect(self, address):
        tried.append(address)
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


REFUSED = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0.0.0.0/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.5/",
    "http://172.16.3.4/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "file:///etc/passwd",
    "ftp://example.com/x",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/stats",
    "data:text/plain,x",
    "//127.0.0.1/",
    "http:///nohost",
    "http://user:pass@93.184.216.34/",
    "http://93.184.216.34\t@127.0.0.1/",
    "http://127.0.0.1\\@93.184.216.34/",
    "http://exa mple.com/",
    "http://example.com:99999/",
    "http://[::1",
    "",
]


@pytest.mark.parametrize("url", REFUSED)
def test_refused_before_any_connection(url, connections):
    for act in (fetch, fetch_json, lambda url, rules: post_json(url, b"{}", {}, rules)):
        with pytest.raises(InputError) as error:
            act(url, RULES)
        assert error.value.code in ("url.refused", "url.failed")
    assert connections == []


def test_one_private_address_among_public_ones_is_enough(connections):
    with pytest.raises(InputError) as error:
        fetch("http://both.example/", RULES, lambda host, port: ["93.184.216.34", "10.0.0.1"])
    assert error.value.code == "url.refused" and connections == []


@given(st.ip_addresses())
def test_only_global_addresses_pass(address):
    if is_allowed(str(address), RULES):
        mapped = getattr(address, "ipv4_mapped", None) or address
        assert mapped.is_global and not mapped.is_private and not mapped.is_multicast


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_by_its_ipv4_address(address):
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    assert is_allowed(str(mapped), RULES) == is_allowed(str(address), RULES)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
        elif self.path == "/long":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"x")
                self.wfile.flush()
                if self.server.stopping.wait(0.2):
                    break
        elif self.path == "/head":  # endless headers
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(40):
                self.wfile.write(b"x-%d: y\r\n" % number)
                self.wfile.flush()
                if self.server.stopping.wait(0.2):
                    break
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        else:
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            self.wfile.write(b'{"host": "%s"}' % self.headers["Host"].encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.stopping = threading.Event()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.stopping.set()
    found.shutdown()


def test_allowed_urls_are_fetched_from_the_checked_address(server):
    port = server.rpartition(":")[2]
    body = fetch_json(f"http://photos.example:{port}/", HERE, lambda host, _: ["127.0.0.1"])
    assert body == {"host": f"photos.example:{port}"}


def test_dns_rebinding_has_no_effect(server, connections):
    """The name is resolved only once: the connection goes to the address that was checked."""
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    fetch(server.replace("127.0.0.1", "rebind.example"), HERE, lambda host, port: next(answers))
    assert {address[0] for address in connections} == {"127.0.0.1"}
    with pytest.raises(InputError):
        fetch("http://rebind.example/", HERE, lambda host, port: next(answers))


def test_redirects_are_checked_anew(server, connections):
    assert fetch(f"{server}/to/{server}/fine", HERE)
    before = len(connections)
    for target in ("http://169.254.169.254/latest", "file:///etc/passwd", "http://10.0.0.1/"):
        with pytest.raises(InputError) as error:
            fetch(f"{server}/to/{target}", HERE)
        assert error.value.code == "url.refused"
    assert {address[0] for address in connections[before:]} == {"127.0.0.1"}
    with pytest.raises(InputError) as error:
        fetch(f"{server}/loop", HERE)
    assert "redirects" in error.value.message


@pytest.mark.parametrize("path", ["/gone", "/long", "/drip", "/head"])
def test_wrong_large_and_slow_responses_are_refused(server, path):
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        fetch(server + path, HERE)
    assert error.value.code == "url.failed"
    assert time.monotonic() - begun < HERE.timeout_s + 3


def test_a_webhook_s_answer_has_the_same_deadline(server):
    begun = time.monotonic()
    with pytest.raises(InputError, match="took longer than"):
        post_json(server + "/head", b"{}", {}, HERE)
    assert time.monotonic() - begun < HERE.timeout_s + 3


def test_a_slow_tls_handshake_is_cut_off():
    """The TLS handshake precedes everything that HTTP timeouts cover."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()

        def drip():
            line, _ = listener.accept()
            line.sendall(b"\x16\x03\x03\x40\x00")  # announces a record of 16 KiB
            while not stopping.wait(0.2):
                try:
                    line.sendall(b"\x02")
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(InputError) as error:
            fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/", HERE)
        stopping.set()
    assert error.value.code == "url.failed" and time.monotonic() - begun < HERE.timeout_s + 3
