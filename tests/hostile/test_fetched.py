"""Photos and manifests at URLs: limits on all of them together."""

import http.server
import threading

import pytest

from gapray.errors import InputError
from gapray.serve.settings import Limits, UrlRules
from gapray.serve.urls import fetch_json

MIB = 2**20
HERE = UrlRules(private=("127.0.0.0/8",))
FETCHED = """
from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.settings import DecodeSettings
from gapray.serve.settings import Limits, UrlRules
from gapray.serve.incoming import IncomingPhoto
from gapray.serve.uploads import prepare_upload
from gapray.serve.urls import fetch
def come(server, photos):
    rules = UrlRules(private=("127.0.0.0/8",))
    prepare_upload(
        [IncomingPhoto(url=f"{server}/{index}.jpg") for index in range(photos)],
        azimuths=None, options=AzimuthOptions(), limits=Limits(photo_bytes=64 * 2**20), decode=DecodeSettings(),
        fetch=lambda url, left: fetch(url, rules, left=left),
    )
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(20):
                self.wfile.write(self.server.content)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def host():
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked, found.content = [], bytes(MIB)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


def test_many_large_photos_are_not_all_fetched(host, cost):
    """24 photos of 20 MiB would take 480 MiB."""
    code, message, grown = cost(FETCHED, "come(sys.argv[1], 24)", f"http://127.0.0.1:{host.server_port}")
    assert code == "request.too_large" and str(4 * MIB) in message, message
    assert len(host.asked) == 4, "three of 20 MiB fit, the fourth is cut off"
    assert grown < 64 + 16, "no photo is held twice"


def test_the_number_of_photos_is_checked_before_fetching(host, cost):
    code, message, _ = cost(FETCHED, "come(sys.argv[1], 5000)", f"http://127.0.0.1:{host.server_port}")
    assert code == "request.too_many_images" and str(Limits().images) in message
    assert host.asked == []


def test_a_manifest_is_measured_before_it_is_parsed(host):
    host.content = b"[" + b"[]," * 100_000
    with pytest.raises(InputError, match=str(Limits().json_values)) as error:
        fetch_json(f"http://127.0.0.1:{host.server_port}/", HERE, max_values=Limits().json_values)
    assert error.value.code == "url.failed"
