"""Jobs that do new work: the whole of `gapray run`, and `gapray submit` with what the caller's environment says of weights.

`test_jobs.py` has tokens, and jobs that find everything done.
"""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from gapray.catalog.reader import open_catalog
from gapray.catalog.runs import runs
from gapray.catalog.storage import Folder
from tests.chaos.common import SMALL, content
from tests.chaos.test_jobs import Head
from tests.conftest import ROOT
from tests.make import write_products

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

PRODUCTS = 2
NULL = ["--set=mask.model=null-model", "--set=depth.model=null-model", "--set=identity.model=null-model"]


@pytest.fixture(scope="module")
def head(lpips_alex):
    del lpips_alex
    started = Head(None)
    yield started
    started.stop()


@pytest.fixture
def source(tmp_path):
    return write_products(tmp_path / "shoot", PRODUCTS)


def submit(address, environment, *words):
    return subprocess.run(
        [sys.executable, "-m", "gapray", "submit", "--address", address, "--json", *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def fetched(head, path):
    with urllib.request.urlopen(head.address + path, timeout=20) as answer:
        return json.load(answer)


def test_the_whole_run_as_a_job_and_again(head, source, tmp_path):
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.address]
    command += ["--working-dir", ".", "--runtime-env-json", json.dumps({"excludes": ["samples", "docs", "tests"]})]
    command += ["--", "python", "jobs/run_catalog.py", str(source), "--out", str(tmp_path / "c"), *SMALL]
    for finished in (0, PRODUCTS):
        done = subprocess.run(
            command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        newest = runs(Folder.at(str(tmp_path / "c")), limit=3)
        assert {one["kind"] for one in newest} == {"package", "render", "score"}
        for one in newest:
            assert one["state"] == "finished" and one["job"] and one["counts"]["finished"] == finished
    assert len(content(tmp_path / "c")) == PRODUCTS


@pytest.mark.parametrize("variable", [None, "GAPRAY_CACHE"])
def test_submitted_work_is_done(head, source, tmp_path, variable):
    """The caller's GAPRAY_… go with the job; the job's own driver passes some of them on to its workers once more."""
    without = {name: value for name, value in head.environment.items() if name != "GAPRAY_CACHE"}
    environment = without | ({variable: head.environment["GAPRAY_CACHE"]} if variable else {})
    work = ["package", str(source), "--out", str(tmp_path / "c"), *NULL]
    done = submit(head.address, environment, "--no-wait", "--", *work)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    job = json.loads(done.stdout)
    assert job["status"] in ("PENDING", "RUNNING")
    end = time.monotonic() + 200
    status = job["status"]
    while time.monotonic() < end and status not in ("SUCCEEDED", "FAILED", "STOPPED"):
        time.sleep(1)
        status = fetched(head, f"/api/jobs/{job['id']}")["status"]
    log = fetched(head, f"/api/jobs/{job['id']}/logs")["logs"]
    assert status == "SUCCEEDED", log[-3000:]
    assert open_catalog(str(tmp_path / "c")).products().num_rows == PRODUCTS


def test_a_cluster_that_is_not_there(head):
    done = submit("http://127.0.0.1:9", head.environment, "--", "package", "a", "--out", "b")
    assert done.returncode == 1, done.stdout + done.stderr[-3000:]
    assert json.loads(done.stdout)["error"]["code"] == "cluster.unreachable"
