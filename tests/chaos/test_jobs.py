"""`ray job submit` and `gapray submit` against a started head with a token; `test_submit.py` has one without."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gapray.catalog.reader import open_catalog
from tests.chaos.fake_cloud import free_ports
from tests.conftest import ROOT
from tests.make import write_products

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

NULL = ["--set", "mask.model=null-model", "--set", "depth.model=null-model", "--set", "identity.model=null-model"]
PRODUCTS = 3


class Head:
    """A started head with its job server, on ports and in a folder of its own."""

    def __init__(self, token: str | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gj-", dir="/tmp"))  # sockets lie in it: short
        gcs, dashboard, client = free_ports(3)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment |= {"HOME": str(self.folder), "RAY_AUTH_MODE": "token" if token else "disabled"}
        # What the classic profile needs lies in the real home.
        self.environment["GAPRAY_CACHE"] = os.environ.get("GAPRAY_CACHE", str(Path.home() / ".cache" / "gapray"))
        # As the cluster files do: `python` is the one that has gapray's needs.
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.bare = dict(self.environment)
        if token:
            self.environment["RAY_AUTH_TOKEN"] = token
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=3"]
        command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"]
        command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--dashboard-agent-listen-port=0"]
        command += [
            f"--temp-dir={self.folder / 'ray'}",
            f"--object-store-memory={200 * 2**20}",
            "--disable-usage-stats",
        ]
        with (self.folder / "head.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 150
        while time.monotonic() < end:
            assert self.process.poll() is None, (self.folder / "head.log").read_text()[-3000:]
            if self._answers() and self._takes_jobs():
                return
            time.sleep(0.5)
        raise AssertionError("no job server")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/version", timeout=2):
                return True
        except urllib.error.HTTPError:
            return True  # if only to say that it wants a token
        except OSError:
            return False

    def _takes_jobs(self) -> bool:
        """A job needs an agent, which comes some seconds after the dashboard."""
        return (
            self.run("-m", "ray.scripts.scripts", "job", "submit", "--address", self.address, "--", "true").returncode
            == 0
        )

    def run(self, *command, environment=None, cwd=ROOT, seconds=240):
        return subprocess.run(
            [sys.executable, *command],
            env=self.environment if environment is None else environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def stop(self) -> None:
        tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for one in tree:
            with suppress(psutil.Error):
                one.send_signal(signal.SIGKILL)
        psutil.wait_procs(tree, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(classic_weights):
    del classic_weights
    started = Head(secrets.token_hex(32))
    yield started
    started.stop()


def summary_in(log):
    """The JSON that `--json` printed, somewhere in a job's log."""
    return json.loads(log[log.index("{\n") : log.rindex("\n}") + 2])


def test_a_job_runs_a_second_skips_all_and_nobody_comes_in_without_the_token(head, tmp_path):
    write_products(tmp_path / "shoot", PRODUCTS)
    work = [str(tmp_path / "shoot"), "--out", str(tmp_path / "c"), "--json", *NULL]
    submit = [
        "-m",
        "ray.scripts.scripts",
        "job",
        "submit",
        "--address",
        head.address,
        "--working-dir",
        str(tmp_path / "code"),
    ]
    shutil.copytree(ROOT / "gapray", tmp_path / "code" / "gapray", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "jobs", tmp_path / "code" / "jobs")
    done = head.run(*submit, "--", sys.executable, "jobs/package_catalog.py", *work)
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]
    assert open_catalog(str(tmp_path / "c")).products().num_rows == PRODUCTS
    # Ours: with this checkout's code, the log followed, then not waited for.
    ours = ["-m", "gapray", "submit", "--address", head.address, "--json"]
    again = head.run(*ours, "--", "package", *work)
    assert again.returncode == 0, again.stdout + again.stderr[-3000:]
    assert json.loads(again.stdout)["status"] == "SUCCEEDED"
    assert summary_in(again.stderr)["finished"] == PRODUCTS and summary_in(again.stderr)["packaged"] == 0
    quick = head.run(*ours, "--no-wait", "--", "package", *work)
    told = json.loads(quick.stdout)
    assert quick.returncode == 0 and told["status"] in ("PENDING", "RUNNING") and told["id"]
    for wrong in (head.bare, head.bare | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        theirs = head.run(*submit, "--", "true", environment=wrong)
        assert theirs.returncode != 0
        refused = head.run(*ours, "--", "package", *work, environment=wrong)
        assert refused.returncode == 1, refused.stdout + refused.stderr[-3000:]
        assert json.loads(refused.stdout)["error"]["code"] == "cluster.refused", refused.stdout
