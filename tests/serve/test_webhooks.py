"""Every webhook is eventually delivered or given up, whatever is wrong with it."""

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError
from typer.testing import CliRunner

from gapray.cli.main import app
from gapray.serve import webhooks
from gapray.serve.artifacts import Artifacts
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.keys import ANONYMOUS, create
from gapray.serve.settings import ServeSettings
from gapray.serve.store import JobStore
from gapray.serve.webhooks import deliver
from tests.serve.conftest import receiving, settings_in

TRIES = 3


@pytest.fixture
def listener():
    heard = []
    with receiving(lambda _, body: heard.append(body)) as found:
        found.heard = heard
        yield found


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path, jobs={"webhook_tries": TRIES}, urls={"private": ["127.0.0.0/8"]})


@pytest.fixture
def owed(settings, listener):
    """A finished job of RunPod's API, whose webhook holds the video itself."""
    store = JobStore(settings.jobs_url)
    store.submit(
        NewJob(
            owner="me",
            api="runpod",
            kind="video",
            making=GenerationParams(),
            input=JobInput(),
            webhook=f"http://127.0.0.1:{listener.server_port}/done",
        ),
        max_queued=9,
        keep_s=600,
    )
    [job] = store.lease("w", max_jobs=1, lease_s=30, attempts=3)
    store.complete(job.id, 1, {"files": {"turntable.gif": {}}, "video": {"name": "turntable.gif"}})
    return store, job


def tries(store, artifacts, settings, monkeypatch):
    """Deliver webhooks until none is due; returns the number of tries."""
    monkeypatch.setattr(webhooks, "PAUSES_S", (-1.0,))
    for count in range(TRIES + 5):
        due = store.due_webhooks()
        if not due:
            return count
        for webhook in due:
            deliver(webhook, store, artifacts, settings)
    return None


def test_a_webhook_whose_body_cannot_be_built_is_given_up(owed, settings, listener, monkeypatch):
    """The video file is gone, so that RunPod's payload cannot be built."""
    store, _ = owed
    assert tries(store, Artifacts.at(settings.artifacts), settings, monkeypatch) == TRIES
    assert listener.heard == []


def test_a_webhook_whose_body_can_be_built_later_is_delivered(owed, settings, listener, monkeypatch):
    store, job = owed
    artifacts = Artifacts.at(settings.artifacts)
    monkeypatch.setattr(webhooks, "PAUSES_S", (-1.0,))
    [webhook] = store.due_webhooks()
    deliver(webhook, store, artifacts, settings)
    artifacts.put(f"{job.folder}/turntable.gif", b"a video")
    assert tries(store, artifacts, settings, monkeypatch) is not None and len(listener.heard) == 1


def test_a_try_that_crashes_the_process_is_not_repeated_for_ever(owed, settings, listener, monkeypatch):
    store, job = owed
    artifacts = Artifacts.at(settings.artifacts)
    artifacts.put(f"{job.folder}/turntable.gif", b"a video")
    monkeypatch.setattr("gapray.serve.store._WEBHOOK_LEASE_S", -1.0)
    for _ in range(TRIES):
        [webhook] = store.due_webhooks()  # then the process dies
    [webhook] = store.due_webhooks()
    deliver(webhook, store, artifacts, settings)
    assert store.due_webhooks() == [] and listener.heard == []


@pytest.mark.parametrize("owner", ["key", "anybody"])
def test_each_key_s_webhooks_are_signed_with_its_own_secret(tmp_path, monkeypatch, owner):
    """The secret shown by `gapray keys webhook-secret` verifies the key's own webhooks only."""
    monkeypatch.setenv("GAPRAY_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("GAPRAY_JOBS_URL", raising=False)
    monkeypatch.delenv("GAPRAY_WEBHOOK_SECRET", raising=False)
    settings = ServeSettings(urls={"private": ["127.0.0.0/8"]}).resolved()
    store = JobStore(str(settings.jobs_url))
    mine, other = (create(store.engine, name)[0].id for name in ("mine", "other"))
    heard = []
    with receiving(lambda headers, body: heard.append((dict(headers.items()), body))) as receiver:
        new = NewJob(
            owner=mine if owner == "key" else ANONYMOUS.id,
            api="openai",
            kind="video",
            making=GenerationParams(),
            input=JobInput(),
            webhook=f"http://127.0.0.1:{receiver.server_port}/done",
        )
        store.cancel(store.submit(new, max_queued=9, keep_s=60).id, None)
        [webhook] = store.due_webhooks()
        deliver(webhook, store, Artifacts.at(str(settings.artifacts)), settings)
    [(headers, body)] = heard

    def verified(*words):
        shown = CliRunner().invoke(app, ["keys", "webhook-secret", *words], catch_exceptions=False)
        assert shown.exit_code == 0, shown.output
        try:
            Webhook(shown.stdout.strip()).verify(body, headers)
        except WebhookVerificationError:
            return False
        return True

    assert [verified(mine), verified(other), verified()] == [owner == "key", False, owner == "anybody"]


def test_an_unknown_key_has_no_webhook_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_STATE", str(tmp_path))
    result = CliRunner().invoke(app, ["keys", "webhook-secret", "none"])
    assert result.exit_code == 2 and "auth.unknown_key" in result.stderr
