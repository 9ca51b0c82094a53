"""Webhooks for finished jobs: Standard Webhooks (standardwebhooks.com), with RunPod's payload for RunPod's clients."""

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
from gapray.serve.keys import ANONYMOUS
from gapray.serve.settings import ServeSettings
from gapray.serve.shapes import openai_event, runpod_status
from gapray.serve.store import JobStore, PendingWebhook
from gapray.serve.urls import post_json

log = logging.getLogger("gapray.serve")
PAUSES_S = (2.0, 10.0, 60.0, 300.0, 1800.0)
"""Pause after the first, second, … failed try [s]."""


def deliver(webhook: PendingWebhook, store: JobStore, artifacts: Artifacts, settings: ServeSettings) -> None:
    """Try to deliver a webhook once, and record the outcome, also if its body cannot be built."""
    try:
        job = store.get(webhook.job_id, None)
    except InputError:
        return  # the job was deleted meanwhile, and its webhooks with it
    error = _try_delivery(webhook, job, artifacts, settings)
    last = webhook.tries >= settings.jobs.webhook_tries
    pause = None if error is None or last else PAUSES_S[min(webhook.tries, len(PAUSES_S)) - 1]
    store.record_delivery(webhook.id, error=error, retry_in_s=pause)
    if error:
        log.warning("webhook %s, try %d: %s%s", webhook.id, webhook.tries, error, ", given up" if last else "")


def _try_delivery(webhook: PendingWebhook, job: Job, artifacts: Artifacts, settings: ServeSettings) -> str | None:
    """Post a webhook once; returns an error message, or None on success."""
    if webhook.tries > settings.jobs.webhook_tries:
        return "no try came to its end"  # each one crashed the process
    try:
        body = webhook_body(job, artifacts)
        secret = signing_secret(webhook.owner, str(settings.webhook_secret))
        status = post_json(webhook.url, body, signed_headers(webhook.id, body, secret), settings.urls)
    except GaprayError as error:
        return error.message
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if 200 <= status < 300 else f"answered {status}"


def webhook_body(job: Job, artifacts: Artifacts) -> bytes:
    """Return the JSON to post: an OpenAI event, or RunPod's status for jobs of RunPod's API."""
    payload = runpod_status(job, artifacts) if job.api == "runpod" else openai_event(job)
    return json.dumps(payload).encode()


def signing_secret(owner: str, master: str) -> str:
    """Derive the secret that signs the webhooks of one key, so that no tenant can sign for another.

    Args:
        owner: Id of the API key. Jobs submitted without one belong to `ANONYMOUS`, whose secret is the server's own.
        master: The server's secret, ``whsec_…``.
    """
    if owner == ANONYMOUS.id:
        return master
    derived = hmac.digest(base64.b64decode(master.removeprefix("whsec_")), f"webhooks of {owner}".encode(), "sha256")
    return "whsec_" + base64.b64encode(derived).decode()


def signed_headers(webhook_id: str, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of one delivery; the id is the same for every try, so that a receiver can drop duplicates."""
    now = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, now, body.decode()),
    }
