"""`gapray serve` as a user starts it: the real clients, and kill -9 of everything behind an accepted job.

Whatever dies after the answer, the video still comes, once, with one webhook id.
"""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from contextlib import suppress

import psutil
import pytest
import requests
import sqlalchemy as sa
import yaml

from tests.chaos.test_kills import SEED
from tests.serve.conftest import TINY, photos, postgres, postgres_server, receiving  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
SETTINGS = {
    "overrides": [*TINY],
    "jobs": {"lease_s": 4, "running": 2, "attempts": 6},
    "urls": {"private": ["127.0.0.0/8"]},
    "scorer": {"ongoing": 4, "cpus": 0.2, "threads": 1},
    "stylist": None,
}


class Server:
    """One `gapray serve`, started and killed as often as a test likes."""

    def __init__(self, folder, jobs_url=None, settings=SETTINGS):
        self.folder, self.jobs_url = folder, jobs_url
        folder.mkdir(exist_ok=True)
        (folder / "serve.yaml").write_text(yaml.safe_dump(settings))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    @property
    def environment(self):
        env = os.environ | {
            "GAPRAY_STATE": str(self.folder / "state"),
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",
        }
        env.pop("RAY_ADDRESS", None)
        return env | ({"GAPRAY_JOBS_URL": self.jobs_url} if self.jobs_url else {})

    def command(self, *words):
        return [sys.executable, "-m", "gapray", *words]

    def key(self, name="me"):
        made = subprocess.run(
            self.command("keys", "create", name, "--json"),
            env=self.environment,
            capture_output=True,
            check=True,
            timeout=60,
        )
        return json.loads(made.stdout)["secret"]

    def start(self):
        log = (self.folder / "serve.log").open("ab")
        self.process = subprocess.Popen(
            self.command("serve", "--config", str(self.folder / "serve.yaml"), "--port", str(self.port)),
            env=self.environment,
            stdout=log,
            stderr=log,
        )
        end = time.monotonic() + 180
        while time.monotonic() < end:
            assert self.process.poll() is None, (self.folder / "serve.log").read_text()[-3000:]
            try:
                if requests.get(self.url + "/readyz", timeout=2).status_code == 200:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.25)
        raise AssertionError((self.folder / "serve.log").read_text()[-3000:])

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def kill_all(self):
        """The whole cluster at once, as a machine that loses its power."""
        processes = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(processes, timeout=20)
        self.process.wait(20)

    def pids(self, what):
        """Of the processes behind this server whose title holds `what`."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if what in " ".join(one.cmdline()):
                    found.append(one.pid)
        return found

    def kill(self, what):
        """One replica or the controller; returns its pid once it is gone."""
        until(lambda: self.pids(what), f"no process {what}", 60)
        [pid, *_] = self.pids(what)
        process = psutil.Process(pid)
        process.kill()
        process.wait(20)
        return pid


@pytest.fixture
def listener():
    """Webhooks as they come: job -> ids of the messages."""
    heard = defaultdict(list)

    def note(headers, body):
        told = json.loads(body)
        heard[told["data"]["id"]].append((headers["webhook-id"], told["type"]))

    with receiving(note) as found:
        found.heard = heard
        yield found


def submit(server, views, hook, count):
    """Jobs that were accepted; a server that is being mended is asked again, with the same idempotency key."""
    form = [("input_reference[]", (name, data, "image/png")) for name, data in views.items()]
    ids = []
    for _ in range(count):
        headers = {"idempotency-key": f"{random.random()}"}
        end = time.monotonic() + 90
        while time.monotonic() < end:
            try:
                answer = requests.post(
                    server.url + "/v1/videos", files=form, data={"webhook": hook}, headers=headers, timeout=20
                )
                if answer.status_code == 200:
                    ids.append(answer.json()["id"])
                    break
            except requests.RequestException:
                pass
            time.sleep(0.3)
    assert len(ids) == count
    return ids


def states(server, ids):
    found = {}
    for video in ids:
        try:
            found[video] = requests.get(f"{server.url}/v1/videos/{video}", timeout=10).json()["status"]
        except (requests.RequestException, KeyError, ValueError):
            found[video] = "unknown"
    return found


def until(condition, what, limit_s=240):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.3)
    raise AssertionError(what)


def begun(server, ids, what):
    until(lambda: "in_progress" in states(server, ids).values(), what)


GENERATOR, INGRESS, DISPATCHER = (f"ServeReplica:gapray:{name}" for name in ("generator", "ingress", "dispatcher"))


@pytest.mark.parametrize(
    ("kind", "killed"),
    [("sqlite", (DISPATCHER,)), ("postgresql", (GENERATOR, INGRESS, "ServeController", DISPATCHER))],
    ids=["sqlite", "postgresql"],
)
def test_whatever_dies_every_accepted_job_is_published_once(tmp_path, photos, listener, request, kind, killed):  # noqa: F811
    """What a replica's death does to a job is the same with both databases; a power cut is not."""
    url = request.getfixturevalue("postgres") if kind == "postgresql" else None
    server = Server(tmp_path / "server", url)
    rng = random.Random(SEED)
    print(f"\nchaos seed {SEED}: GAPRAY_CHAOS_SEED={SEED} repeats it")
    hook = f"http://127.0.0.1:{listener.server_port}/done"
    ids = []
    server.start()
    try:
        for what in killed:
            ids += submit(server, photos, hook, 2)
            begun(server, ids, f"nothing begins before {what} is killed")
            time.sleep(rng.uniform(0, 3))
            print(f"  killed {what}, pid {server.kill(what)}; {states(server, ids)}")
        ids += submit(server, photos, hook, 2)
        begun(server, ids, "nothing begins before the cluster is killed")
        time.sleep(rng.uniform(0, 3))
        server.kill_all()
        print(f"  killed the cluster; {len(listener.heard)} of {len(ids)} were told of")
        server.start()
        until(lambda: set(states(server, ids).values()) == {"completed"}, "not all jobs are completed", 600)
        until(lambda: set(listener.heard) == set(ids), "not all webhooks come", 60)
        for video, told in listener.heard.items():
            assert {kind for _, kind in told} == {"video.completed"}
            assert len({message for message, _ in told}) == 1, (video, told)
            data = requests.get(f"{server.url}/v1/videos/{video}/content", timeout=10).content
            assert data[4:8] == b"ftyp"
    finally:
        server.stop()
    engine = sa.create_engine(
        (url or f"sqlite:///{server.folder}/state/jobs.db").replace("postgresql://", "postgresql+psycopg://")
    )
    with engine.connect() as connection:
        rows = connection.execute(sa.text("select status, attempt from gapray_jobs")).all()
        assert len(rows) == len(ids) == 2 * len(killed) + 2 and {row.status for row in rows} == {"completed"}
        assert connection.execute(sa.text("select count(*) from gapray_webhooks")).scalar_one() == len(ids)
    print(f"  attempts: {sorted(row.attempt for row in rows)}")
    assert max(row.attempt for row in rows) > 1, "nothing was ever at work when it was killed"


def test_a_generator_that_sleeps_is_woken_by_the_queue(tmp_path, photos, listener):  # noqa: F811
    """`min: 0`: nothing is held while nothing waits."""
    server = Server(tmp_path / "asleep", settings=SETTINGS | {"generator": {"min": 0, "max": 1}})
    server.start()
    try:
        assert not server.pids("ServeReplica:gapray:generator")
        ids = submit(server, photos, f"http://127.0.0.1:{listener.server_port}/done", 1)
        until(lambda: set(states(server, ids).values()) == {"completed"}, f"not woken: {states(server, ids)}", 150)
        assert server.pids("ServeReplica:gapray:generator")
    finally:
        server.stop()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, classic_weights):
    """Profile `classic` at half size, with keys, as somebody would run it."""
    del classic_weights
    overrides = [
        "stills.megapixels=0.25",
        "orbit.size=256",
        "orbit.voxels=64",
        "orbit.engine=morph",
        "fidelity.leave_out=1",
    ]
    server = Server(tmp_path_factory.mktemp("whole"), settings={"overrides": overrides})
    server.secret = server.key()
    server.start()
    yield server
    server.stop()


def test_the_real_clients_against_a_server_as_a_user_starts_it(whole, samples):
    import openai

    warnings.simplefilter("ignore", DeprecationWarning)
    client = openai.OpenAI(base_url=whole.url + "/v1", api_key=whole.secret)
    files = [(path.name, path.read_bytes(), "image/jpeg") for path in sorted((samples / "captures" / "mug").iterdir())]
    video = client.videos.create_and_poll(
        prompt="a mug", model="gap-turntable", input_reference=files, extra_body={"num_frames": 12}
    )
    assert video.status == "completed", video
    gap = video.model_extra["gap"]
    assert gap["video"]["frames"] == 12 and gap["scores"]["lpips"] < 0.25 and gap["scores"]["gate"] in ("pass", "fail")
    assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"
    drawn = client.images.edit(image=files, prompt="", extra_body={"scene": "marble-kitchen", "output_format": "png"})
    assert (
        base64.b64decode(drawn.data[0].b64_json)[:4] == b"\x89PNG" and drawn.model_extra["gap"]["images"][0]["pasted"]
    )
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=whole.url + "/v1", api_key="gap_wrong", max_retries=0).videos.list()


@pytest.mark.night
def test_the_rest_of_the_clients(whole, samples, tmp_path):
    import io
    import zipfile

    from tests.serve.test_clients import LITELLM, RUNPOD

    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for path in sorted((samples / "captures" / "mug").iterdir()):
            archive.write(path, path.name)
    (tmp_path / "views.zip").write_bytes(sink.getvalue())
    for command in (
        ["package", str(samples / "captures"), "--out", "catalog"],
        ["export", "catalog", "mug", "--to", "gap", "--inline"],
    ):
        subprocess.run([sys.executable, "-m", "gapray", *command], cwd=tmp_path, check=True, timeout=600)
    manifest = tmp_path / "gap" / "multiview_manifest.json"
    runs = {
        "litellm": [LITELLM, whole.url + "/v1", whole.secret, tmp_path / "views.zip"],
        "runpod": [RUNPOD, whole.url, whole.secret],
    }
    for name, words in runs.items():
        env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATIENCE": "300", "GAP_MANIFEST": str(manifest)}
        done = subprocess.run(
            [sys.executable, "-c", *map(str, words)], env=env, capture_output=True, text=True, timeout=600, check=False
        )
        assert "ok" in done.stdout and done.returncode == 0, name + done.stdout + done.stderr[-3000:]


def test_a_public_address_without_keys_is_refused(tmp_path):
    server = Server(tmp_path / "public")
    done = subprocess.run(
        server.command("serve", "--host", "0.0.0.0"),
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "auth.no_keys" in done.stderr


def test_clean_stop_and_start_again(whole):
    whole.stop()
    assert whole.process.returncode == 0
    whole.start()
    headers = {"authorization": f"Bearer {whole.secret}"}
    assert requests.get(whole.url + "/v1/videos", headers=headers, timeout=10).json()["data"], (
        "jobs of before are there"
    )
