"""Servers in this process: the real application, store, dispatcher and workers, at a small size and without Ray."""

import asyncio
import http.server
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import need
from tests.make import write_product

TINY = ("mask.model=null-model", "depth.model=null-model", "identity.model=null-model", "orbit.size=64")
TINY += (
    "orbit.voxels=32",
    "orbit.frames=8",
    "orbit.flow=false",
    "orbit.refine_camera=false",
    "orbit.engine=morph",
    "orbit.framing=photo",
    "fidelity.leave_out=1",
)


@contextmanager
def running(context, run):
    """Run a dispatcher in a thread."""
    from gapray.serve.dispatcher import Dispatcher

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    dispatcher = Dispatcher(context.store, context.artifacts, context.settings, run)

    async def start():
        dispatcher.start()

    asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield dispatcher
    asyncio.run_coroutine_threadsafe(dispatcher.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@contextmanager
def listening(app):
    """Serve the application on a real port of the loopback address."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@contextmanager
def receiving(record):
    """Run a receiver of webhooks on this machine; `record(headers, body)` is called for each."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            record(self.headers, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


def settings_in(folder: Path, **more):
    from gapray.serve.settings import ServeSettings

    return ServeSettings(
        **(
            {
                "overrides": TINY,
                "jobs_url": f"sqlite:///{folder}/jobs.db",
                "artifacts": str(folder / "artifacts"),
                "webhook_secret": "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
                "jobs": {"poll_s": 0.02, "lease_s": 2},
                "open": True,
                "packager": {"threads": 1, "ongoing": 2},
                "generator": {"threads": 1},
                "scorer": {"threads": 1, "ongoing": 8},
                "stylist": {"threads": 1},
            }
            | more
        )
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> dict[str, bytes]:
    folder = write_product(tmp_path_factory.mktemp("photos") / "mug")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="session")
def postgres_server():
    """URL of a real PostgreSQL server, started for these tests."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) + [
        Path(item) for item in [shutil.which("postgres")] if item
    ]
    need("postgresql", bool(found), "no PostgreSQL on this machine")
    bin_folder = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="gapray-pg-", dir="/tmp"))
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid=nobody", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [*as_user, bin_folder / "initdb", "-D", data, "-U", "gapray", "--auth=trust", "--no-sync"], check=True, **quiet
    )
    server = subprocess.Popen(
        [
            *as_user,
            bin_folder / "postgres",
            "-D",
            data,
            "-p",
            str(port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-k",
            folder,
        ],
        **quiet,
    )
    url = f"postgresql://gapray@127.0.0.1:{port}/postgres"
    import psycopg

    for _ in range(200):
        try:
            psycopg.connect(url).close()
            break
        except psycopg.OperationalError:
            time.sleep(0.05)
    yield url
    server.send_signal(signal.SIGINT)  # a fast shutdown: SIGTERM would wait for connections left by killed servers
    server.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server):
    """URL of an empty database for one test."""
    import psycopg

    name = f"gapray_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.removesuffix("/postgres") + f"/{name}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Server:
    """A running server: its URL, its context, and the secrets of its keys by name."""

    def __init__(self, url, context, secrets=None):
        self.url, self.context, self.secrets = url, context, secrets or {}

    def headers(self, who="writer"):
        return {"authorization": f"Bearer {self.secrets[who]}"} if self.secrets else {}


@contextmanager
def served(folder, *, worker, **more):
    """Run a server in this process; `worker` is ``none``, ``null`` or ``pipeline``."""
    from gapray.serve.http.app import build_app
    from gapray.serve.http.context import Context
    from gapray.serve.keys import create
    from gapray.serve.work import run_job, run_null_engine

    # No worker dies here, and real work on a busy machine may delay the renewal of a lease by more than two seconds.
    patient = {"jobs": {"poll_s": 0.02, "lease_s": 120}} if worker == "pipeline" else {}
    context = Context.of(settings_in(folder, **patient | more))
    secrets = {}
    if not context.settings.open and not context.settings.open_until_keyed:
        secrets = {
            "writer": create(context.store.engine, "writer")[1],
            "reader": create(context.store.engine, "reader", scopes=["read"])[1],
            "other": create(context.store.engine, "other")[1],
            "admin": create(context.store.engine, "admin", scopes=["admin"])[1],
            "slow": create(context.store.engine, "slow", per_minute=3)[1],
            "one": create(context.store.engine, "one", concurrent=1)[1],
        }
    with listening(build_app(context)) as url:
        if worker == "none":
            yield Server(url, context, secrets)
            return
        if worker == "null":
            guarded = replace(context.artifacts, is_current=context.store.is_current)
            run = lambda job, report: run_null_engine(job, guarded, report)  # noqa: E731
        else:
            from gapray.serve.local import LocalWorkers

            workers = LocalWorkers(context.settings, device="cpu", is_current=context.store.is_current)
            run = lambda job, report: run_job(job, workers, report)  # noqa: E731
        with running(context, run):
            yield Server(url, context, secrets)


@pytest.fixture(scope="session")
def guarded_server(tmp_path_factory):
    """A server with keys and the null engine."""
    with served(tmp_path_factory.mktemp("guarded"), worker="null", open=False) as server:
        yield server


@pytest.fixture(scope="session")
def idle_server(tmp_path_factory):
    """A server without keys and without workers: jobs stay queued."""
    with served(tmp_path_factory.mktemp("idle"), worker="none", limits={"queued": 100_000}) as server:
        yield server


@pytest.fixture(scope="session")
def real_server(tmp_path_factory, lpips_alex):
    """A server without keys, with the real engine at a small size."""
    del lpips_alex
    with served(tmp_path_factory.mktemp("real"), worker="pipeline") as server:
        yield server


@pytest.fixture
def form(photos):
    """Photos as form fields for `requests`."""
    return [("input_reference[]", (name, data, "image/png")) for name, data in photos.items()]
