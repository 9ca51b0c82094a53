"""Slow receivers of webhooks delay their own tenant and nobody else."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gapray.serve.http.context import Context
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.store import JobStore
from tests.serve.conftest import receiving, running, settings_in

MINE = {"urls": {"private": ["127.0.0.0/8"], "timeout_s": 3}}


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = request.getfixturevalue("postgres") if request.param == "postgresql" else f"sqlite:///{tmp_path}/jobs.db"
    return JobStore(url)


def submit(store, owner, webhook):
    new = NewJob(owner=owner, api="openai", kind="video", making=GenerationParams(), input=JobInput(), webhook=webhook)
    return store.submit(new, max_queued=1000, keep_s=60)


def finished(store, owner, webhook):
    """Finish a job that has a webhook."""
    job = submit(store, owner, webhook)
    store.cancel(job.id, owner)
    return job


def test_no_host_and_no_owner_gets_all_deliveries(store):
    for number in range(30):
        finished(store, "greedy", f"https://slow{number % 2}.example/{number}")
    for number in range(30):
        finished(store, "many", f"https://host{number}.example/")
    late = finished(store, "late", "https://shop.example/done")
    first = store.due_webhooks(10)
    assert [webhook.host for webhook in first].count("slow0.example") == 2
    assert {owner: [webhook.owner for webhook in first].count(owner) for owner in ("greedy", "many", "late")} == {
        "greedy": 4,
        "many": 5,
        "late": 1,
    }
    assert late.id in [webhook.job_id for webhook in first]
    assert store.due_webhooks(10, in_flight=first) == [], "all deliveries are in use"
    rest = store.due_webhooks(10, in_flight=[webhook for webhook in first if webhook.owner == "greedy"])
    assert {webhook.owner for webhook in rest} == {"many"} and len(rest) == 5
    assert not {webhook.id for webhook in first} & {webhook.id for webhook in rest}


class Drip(BaseHTTPRequestHandler):
    def do_POST(self):
        for _ in range(200):
            try:
                self.wfile.write(b"H")
                self.wfile.flush()
            except OSError:
                return
            if self.server.stopping.wait(0.2):
                return

    def log_message(self, *_):
        pass


@pytest.fixture
def slow():
    """Receivers on many loopback addresses that send a byte now and then."""
    found = ThreadingHTTPServer(("0.0.0.0", 0), Drip)
    found.daemon_threads = True
    found.stopping = threading.Event()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found.server_port
    found.stopping.set()
    found.shutdown()


def test_slow_receivers_delay_neither_jobs_nor_others_webhooks(tmp_path, slow):
    context = Context.of(settings_in(tmp_path, **MINE))
    for number in range(2, 40):
        finished(context.store, "hostile", f"http://127.0.0.{number}:{slow}/")
    heard = threading.Event()

    async def do(job, report):
        del job, report
        return {"files": {}}

    with receiving(lambda headers, body: heard.set()) as receiver, running(context, do) as dispatcher:
        time.sleep(1)  # by now the slow receivers occupy their deliveries
        begun = time.monotonic()
        job = submit(context.store, "honest", f"http://127.0.0.1:{receiver.server_port}/")
        assert heard.wait(20), "within less than one exchange of the slow ones"
        assert time.monotonic() - begun < MINE["urls"]["timeout_s"]
        assert context.store.get(job.id, None).status == "completed"
        dispatcher.check()
