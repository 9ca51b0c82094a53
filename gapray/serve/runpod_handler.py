"""The same engine as a RunPod serverless handler, for those who stay there: ``python -m gapray.serve.runpod_handler``.

Its jobs' contract is that of the endpoint it replaces; photos and results travel inside the job. `GAPRAY_PROFILE` names the
profile. Needs the package `runpod` in the image.
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
from gapray.serve.http.runpod import asked_of
from gapray.serve.jobs import Job, JobInput
from gapray.serve.local import LocalWorkers
from gapray.serve.making import check_making
from gapray.serve.settings import ServeSettings
from gapray.serve.shapes import runpod_output
from gapray.serve.text import refuse_unusable
from gapray.serve.uploads import arrived
from gapray.serve.work import failure_of, make, told


async def handler(event: dict[str, Any]) -> dict[str, Any]:
    """Do one RunPod job.

    Args:
        event: ``{"input": {…}}`` as RunPod hands it on.

    Returns:
        ``{"status": "ok", "mode", "format", "video_b64", "scores", "azimuths_by", "warnings"}``, with the fields
        that nothing reads as "ignored" where there are any, of a picture
        ``{"status": "ok", "image", "seed", "width", "height", …}``, or ``{"status": "error", "message", "code"}``.
    """
    try:
        return await _made(event.get("input") or {})
    except Exception as error:
        known = failure_of(error)
        return {"status": "error", "message": told(known), "code": known.code}


@functools.cache
def _workers() -> tuple[ServeSettings, LocalWorkers]:
    profile = os.environ.get("GAPRAY_PROFILE", "classic")
    settings = ServeSettings(
        profile=profile,
        jobs_url="sqlite://",
        artifacts=tempfile.mkdtemp(prefix="gapray-"),
        webhook_secret="unused",  # noqa: S106  (nothing is signed here)
    )
    return settings, LocalWorkers(settings)


async def _made(given: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(given, dict) or not given:
        raise InputError("request.invalid", "the job holds no input")
    refuse_unusable("input", given)
    settings, workers = await asyncio.to_thread(_workers)
    artifacts = Artifacts.at(str(settings.artifacts))
    asked = asked_of(given)
    making = asked.making
    check_making(making, settings.limits)
    job_id = uuid.uuid4().hex
    where = JobInput(manifest_url=asked.manifest_url, reading=asked.options if asked.manifest_url else None)
    if asked.manifest_url is None:
        found = arrived(
            asked.sent,
            azimuths=asked.azimuths,
            options=asked.options,
            limits=settings.limits,
            decode=settings.loaded_profile().packaging.decode,
            turn=making.still is None,
        )
        where = JobInput(
            photos=found.photos,
            azimuths_by=found.azimuths_by,
            ignored=found.ignored,
            reading=found.reading,
        )
        if found.capture is not None:
            where = where.model_copy(update={"capture": f"uploads/{job_id}/capture.zip"})
            artifacts.put(f"uploads/{job_id}/capture.zip", found.capture)
    for name, data in asked.files.items():
        artifacts.put(f"uploads/{job_id}/{name}", data)
        where = where.model_copy(update={name: f"uploads/{job_id}/{name}"})
    job = local_job(job_id, making, where)
    try:
        job = replace(job, status="completed", result=await make(job, workers, _silent))
        output = runpod_output(job, artifacts)
        return output | {"ignored": list(asked.ignored)} if asked.ignored else output
    finally:
        artifacts.remove(f"uploads/{job_id}")
        artifacts.remove(f"results/{job_id}")


def local_job(job_id: str, making: Any, where: JobInput) -> Job:
    """A job that no store knows."""
    now = time.time()
    return Job(
        id=job_id,
        owner="local",
        api="runpod",
        kind="image" if making.still else "video",
        endpoint="",
        model="",
        status="running",
        stage="",
        progress=0,
        making=making,
        input=where,
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


async def _silent(stage: str, percent: int) -> None:
    del stage, percent


if __name__ == "__main__":
    import runpod

    share_kernels()
    runpod.serverless.start({"handler": handler})
