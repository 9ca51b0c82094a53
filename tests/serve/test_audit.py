"""The audit log: every change with its key and job, no content of requests, and no line for unauthenticated callers."""

import json
import stat
import time

import pytest
import requests
from typer.testing import CliRunner

from gapray.cli.main import app
from gapray.serve.audit import audit_log
from tests.serve.conftest import served


@pytest.fixture
def lines(tmp_path):
    return lambda: [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def server(tmp_path):
    with served(tmp_path, worker="none", open=False, audit=str(tmp_path / "audit.jsonl")) as server:
        yield server


def test_changes_are_logged_with_key_and_job_but_without_content(server, form, lines):
    def send(method, path, who="writer", **more):
        return requests.request(method, server.url + path, headers=server.headers(who), timeout=10, **more)

    made = send("POST", "/v1/videos", files=form, data={"prompt": "a secret mug"}).json()["id"]
    send("GET", f"/v1/videos/{made}")
    send("DELETE", f"/v1/videos/{made}", "other")
    send("DELETE", f"/v1/videos/{made}")
    run = send("POST", "/v2/gap/run", "other", json={"input": {"image_urls": ["http://10.0.0.1/a.jpg"]}})
    end = time.monotonic() + 5
    while len(lines()) < 4 and time.monotonic() < end:  # lines are written after the response
        time.sleep(0.02)
    found = lines()
    assert [(line["name"], line["did"], line["status"]) for line in found] == [
        ("writer", "POST /v1/videos", 200),
        ("other", f"DELETE /v1/videos/{made}", 404),
        ("writer", f"DELETE /v1/videos/{made}", 200),
        ("other", "POST /v2/gap/run", run.status_code),
    ]
    assert found[0]["job"] == made.removeprefix("video_") and found[0]["key"] and found[0]["at"] and found[0]["request"]
    text = json.dumps(found)
    assert "secret mug" not in text and "10.0.0.1" not in text
    assert not any(secret in text for secret in server.secrets.values())


def test_unauthenticated_requests_are_not_logged(server, form, tmp_path):
    for headers in ({}, {"authorization": "Bearer gap_wrong"}):
        assert requests.post(server.url + "/v1/videos", files=form, headers=headers, timeout=10).status_code == 401
    assert not (tmp_path / "audit.jsonl").exists()


def test_created_and_revoked_keys_are_logged(tmp_path, monkeypatch, lines):
    monkeypatch.setenv("GAPRAY_STATE", str(tmp_path))
    for name in ("GAPRAY_JOBS_URL", "GAPRAY_ARTIFACTS", "GAPRAY_WEBHOOK_SECRET", "GAPRAY_AUDIT"):
        monkeypatch.delenv(name, raising=False)
    made = CliRunner().invoke(app, ["keys", "create", "shop", "--json"], catch_exceptions=False)
    key = json.loads(made.stdout)
    CliRunner().invoke(app, ["keys", "revoke", key["id"]], catch_exceptions=False)
    found = lines()
    assert [line["key"] for line in found] == [key["id"]] * 2 and all(line["by"] for line in found)
    assert "made" in found[0]["did"] and "revoked" in found[1]["did"]
    assert key["secret"] not in json.dumps(found)


def test_the_file_is_private_and_may_be_rotated(tmp_path):
    path = tmp_path / "new" / "audit.jsonl"
    write = audit_log(str(path))
    write(did="first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(tmp_path / "old.jsonl")
    write(did="second")
    assert [json.loads((tmp_path / name).read_text())["did"] for name in ("old.jsonl", "new/audit.jsonl")] == [
        "first",
        "second",
    ]


def test_a_file_that_cannot_be_written_is_reported_without_failing_requests(tmp_path, caplog):
    (tmp_path / "file").touch()
    audit_log(str(tmp_path / "file" / "audit.jsonl"))(did="something")
    assert "the audit log cannot be written" in caplog.text
