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


@pytest.mark.parametrize("variable", [pytest.param(None, marks=pytest.mark.night), "GAPRAY_CACHE"])
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


SECRETS = {
    "HF_TOKEN": "hf_secretofthetest",
    "HUGGING_FACE_HUB_TOKEN": "hf_othersecret",
    "GAPRAY_WEBHOOK_SECRET": "whsec_c2VjcmV0b2Z0aGV0ZXN0",
    "GAPRAY_JOBS_URL": "postgresql://gapray:secretpassword@db/jobs",
    "GAPRAY_API_KEY": "gap_secretkey",
    "AWS_SECRET_ACCESS_KEY": "awssecretkey",
    "AWS_ENDPOINT_URL": "https://minio:secretofminio@minio:9000",
}


def test_a_job_s_metadata_holds_no_secret(head, tmp_path):
    """As the dashboard and the job server's API show it; what the job needs is there."""
    environment = head.environment | SECRETS | {"GAPRAY_SET_MASK__MODEL": "null-model"}
    work = ["package", str(tmp_path), "--out", str(tmp_path / "c")]
    done = submit(head.address, environment, "--no-wait", "--", *work)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    job = fetched(head, f"/api/jobs/{json.loads(done.stdout)['id']}")
    assert job["runtime_env"]["env_vars"]["GAPRAY_CACHE"] == head.environment["GAPRAY_CACHE"]
    assert job["runtime_env"]["env_vars"]["GAPRAY_SET_MASK__MODEL"] == "null-model"
    for shown in (job, fetched(head, "/api/jobs/")):
        text = json.dumps(shown)
        assert job["submission_id"] in text
        found = [name for name, value in SECRETS.items() if value in text or name in text]
        assert not found


def test_a_command_with_a_password_is_not_submitted(head, tmp_path):
    words = ["package", "ftp://me:secretpassword@host/shoot", "--out", str(tmp_path / "c")]
    done = submit(head.address, head.environment, "--", *words)
    assert done.returncode == 2 and "secretpassword" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "config.secret"
    assert "secretpassword" not in json.dumps(fetched(head, "/api/jobs/"))


def test_a_cluster_that_is_not_there(head):
    done = submit("http://127.0.0.1:9", head.environment, "--", "package", "a", "--out", "b")
    assert done.returncode == 1, done.stdout + done.stderr[-3000:]
    assert json.loads(done.stdout)["error"]["code"] == "cluster.unreachable"
