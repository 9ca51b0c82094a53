"""Telling clients that a job is over: Standard Webhooks (standardwebhooks.com), or RunPod's unsigned form for its clients."""

from __future__ import annotations

import base64
import hmac
import json
import logging
from datetime import UTC, datetime

from standardwebhooks import Webhook

from gapray.errors import GaprayError, InputError
from gapray.serve.artifacts import Artifacts
from gapray.serve.jobs import Job
from gapray.serve.keys import ANYBODY
from gapray.serve.settings import ServeSettings
from gapray.serve.shapes import openai_event, runpod_status
from gapray.serve.store import JobStore, Notice
from gapray.serve.urls import post_json

log = logging.getLogger("gapray.serve")
PAUSES_S = (2.0, 10.0, 60.0, 300.0, 1800.0)


def deliver(notice: Notice, store: JobStore, artifacts: Artifacts, settings: ServeSettings) -> None:
    """Try a webhook once, and note what became of it: also when its body cannot be made."""
    try:
        job = store.get(notice.job_id, None)
    except InputError:
        return  # deleted meanwhile, and its webhooks with it
    error = _tried(notice, job, artifacts, settings)
    last = notice.tries >= settings.jobs.webhook_tries
    pause = None if error is None or last else PAUSES_S[min(notice.tries, len(PAUSES_S)) - 1]
    store.notice_done(notice.id, error=error, again_in_s=pause)
    if error:
        log.warning("webhook %s, try %d: %s%s", notice.id, notice.tries, error, ", given up" if last else "")


def _tried(notice: Notice, job: Job, artifacts: Artifacts, settings: ServeSettings) -> str | None:
    """What went wrong, if anything."""
    if notice.tries > settings.jobs.webhook_tries:
        return "no try came to its end"  # each took the process with it
    try:
        body = body_of(job, artifacts)
        secret = secret_of(notice.owner, str(settings.webhook_secret))
        status = post_json(notice.url, body, signed(notice.id, body, secret), settings.urls)
    except GaprayError as error:
        return error.message
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if 200 <= status < 300 else f"answered {status}"


def body_of(job: Job, artifacts: Artifacts) -> bytes:
    """What is posted: an event, or for RunPod's clients what `status` answers."""
    told = runpod_status(job, artifacts) if job.api == "runpod" else openai_event(job)
    return json.dumps(told).encode()


def secret_of(owner: str, master: str) -> str:
    """What signs the webhooks of one key: no tenant can sign for another.

    Args:
        owner: Id of the key; of jobs that came without one, `ANYBODY`'s, whose secret is the server's own.
        master: The server's ``whsec_…``.
    """
    if owner == ANYBODY.id:
        return master
    derived = hmac.digest(base64.b64decode(master.removeprefix("whsec_")), f"webhooks of {owner}".encode(), "sha256")
    return "whsec_" + base64.b64encode(derived).decode()


def signed(notice_id: str, body: bytes, secret: str) -> dict[str, str]:
    """Headers of one delivery; the id is the same at every try, so that a receiver can drop repeats."""
    now = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": notice_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(notice_id, now, body.decode()),
    }
