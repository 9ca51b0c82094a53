"""The server's workers as a RunPod serverless handler: ``python -m gapray.serve.runpod_handler``.

Jobs have the format of the endpoint that it replaces; photos and results are sent inline. The environment variable
`GAPRAY_PROFILE` names the profile. Needs the package `runpod` in the image.
"""

from __future__ import annotations

import asyncio
import functools
import os
import tempfile
import time
import uuid
from dataclasses import replace
from typing import Any

from gapray.errors import InputError
from gapray.models.store import share_kernels
from gapray.serve.artifacts import Artifacts
from gapray.serve.http.runpod_input import parse_input
from gapray.serve.jobs import GenerationParams, Job, JobInput
from gapray.serve.local import LocalWorkers
from gapray.serve.making import check_params
from gapray.serve.settings import ServeSettings
from gapray.serve.shapes import runpod_output
from gapray.serve.text import refuse_unusable
from gapray.serve.uploads import prepare_upload, store_inputs
from gapray.serve.work import client_message, run_job, to_gapray_error


async def handler(event: dict[str, Any]) -> dict[str, Any]:
    """Run one RunPod job.

    Args:
        event: ``{"input": {…}}`` as RunPod passes it on.

    Returns:
        For a video ``{"status": "ok", "mode", "format", "video_b64", "scores", "azimuths_by", "warnings"}``, for a still
        ``{"status": "ok", "image", "seed", "width", "height", …}``, both with the names of unknown fields under "ignored"
        if there are any; on failure ``{"status": "error", "message", "code"}``.
    """
    try:
        return await _run(event.get("input") or {})
    except Exception as error:
        known = to_gapray_error(error)
        return {"status": "error", "message": client_message(known), "code": known.code}


@functools.cache
def _workers() -> tuple[ServeSettings, LocalWorkers]:
    profile = os.environ.get("GAPRAY_PROFILE", "classic")
    settings = ServeSettings(
        profile=profile,
        jobs_url="sqlite://",
        artifacts=tempfile.mkdtemp(prefix="gapray-"),
        webhook_secret="unused",  # noqa: S106  (no webhooks are sent)
    )
    return settings, LocalWorkers(settings)


async def _run(job_input: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(job_input, dict) or not job_input:
        raise InputError("request.invalid", "the job holds no input")
    refuse_unusable("input", job_input)
    settings, workers = await asyncio.to_thread(_workers)
    artifacts = Artifacts.at(str(settings.artifacts))
    parsed = parse_input(job_input)
    params = parsed.params
    check_params(params, settings.limits)
    job_id = uuid.uuid4().hex
    upload = None
    if parsed.manifest_url is None:
        upload = prepare_upload(
            parsed.photos,
            azimuths=parsed.azimuths,
            options=parsed.options,
            limits=settings.limits,
            decode=settings.loaded_profile().packaging.decode,
            turn=params.still is None,
        )
    inputs = JobInput(
        manifest_url=parsed.manifest_url,
        reading=parsed.options if parsed.manifest_url else None,
        unread=tuple(parsed.ignored),
    )
    inputs = store_inputs(artifacts, job_id, inputs, upload, parsed.files)
    job = local_job(job_id, params, inputs)
    try:
        job = replace(job, status="completed", result=await run_job(job, workers, _ignore_progress))
        return runpod_output(job, artifacts)
    finally:
        artifacts.remove(f"uploads/{job_id}")
        artifacts.remove(f"results/{job_id}")


def local_job(job_id: str, params: GenerationParams, inputs: JobInput) -> Job:
    """Return a running job that is in no database."""
    now = time.time()
    return Job(
        id=job_id,
        owner="local",
        api="runpod",
        kind="image" if params.still else "video",
        endpoint="",
        model="",
        status="running",
        stage="",
        progress=0,
        making=params,
        input=inputs,
        digest="",
        webhook=None,
        created_at=now,
        started_at=now,
        finished_at=None,
        expires_at=now,
        attempt=1,
        timeout_s=None,
        error_code=None,
        error_message=None,
        result=None,
    )


async def _ignore_progress(stage: str, percent: int) -> None:
    del stage, percent


if __name__ == "__main__":
    import runpod

    share_kernels()
    runpod.serverless.start({"handler": handler})
