"""Jobs as the JSON of each API."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gapray.capture.kinds import described
from gapray.errors import InputError
from gapray.serve.artifacts import Artifacts
from gapray.serve.jobs import GenerationParams, Job
from gapray.serve.making import USUAL_SIDE, length_warnings, preset_for, video_length
from gapray.serve.remedies import remedy_of

log = logging.getLogger("gapray.serve")
_OPENAI_STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
_RUNPOD_STATUS = {
    "queued": "IN_QUEUE",
    "running": "IN_PROGRESS",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
}
_ID = re.compile(r"[0-9a-f]{32}")
ORDER_WARNING = (
    "nothing says the photos' angles: they were taken as even steps round the product, in the order in which they came; name the "
    "photos by degrees (mug_045.jpg) or send azimuths"
)
MODE = "multiview_video"
"""Value of `mode` in the prototype's output."""
DEFAULT_FRAMES = 24
"""Assumed number of frames if none was requested, until the video is rendered."""


def job_id(public_id: str) -> str:
    """Return the store's id in an API's id: ``video_<id>``, ``<id>-u1`` or ``sync-<id>-u1``.

    Raises:
        InputError: `job.not_found` if there is none in it.
    """
    match = _ID.search(public_id)
    if match is None:
        raise InputError("job.not_found", f"there is no job {public_id[:80]!r}")
    return match.group()


def openai_video(job: Job) -> dict[str, Any]:
    """Return OpenAI's Video object (openai 3.54, `types/video.py`), with gapray's own members under `gap`."""
    result = job.result or {}
    video = result.get("video", {})
    # Until the video is made, size and duration are predicted; encoders may need even sides.
    frames = job.making.frames or DEFAULT_FRAMES
    output = preset_for(job.making, frames).files[0]
    width, height = (video["width"], video["height"]) if video else output.size or (USUAL_SIDE, USUAL_SIDE)
    seconds = video["seconds"] if video else video_length(job.making, frames)[0]
    body: dict[str, Any] = {
        "id": f"video_{job.id}",
        "object": "video",
        "model": job.model,
        "status": _OPENAI_STATUS[job.status],
        "progress": job.progress,
        "created_at": int(job.created_at),
        "completed_at": int(job.finished_at) if job.finished_at and job.status == "completed" else None,
        "expires_at": int(job.expires_at),
        "prompt": job.making.prompt,
        "seconds": f"{seconds:g}",
        "size": f"{width}x{height}",
        "remixed_from_video_id": None,
        "error": None,
        "gap": _gap(job, "scores", "video", "calibration", "seconds"),
    }
    if job.error_code:
        body["error"] = {"code": job.error_code, "message": job.error_message}
        body["gap"]["remedy"] = remedy_of(job.error_code)
    return body


def shape_or_failure(shape: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    """Apply one of the functions here to a job; if its stored result is malformed, show it as a failed job.

    Raising an error would hide all other jobs of a list.
    """
    try:
        return shape(job)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        log.exception("job %s cannot be shown", job.id)
        failed = replace(
            job,
            status="failed",
            result=None,
            error_code="job.unreadable",
            error_message=f"this gapray cannot read the job's result: {type(error).__name__}",
            making=GenerationParams(),
        )
        return shape(failed)


def openai_event(job: Job) -> dict[str, Any]:
    """Return the event that a webhook of the Videos API carries."""
    kind = "completed" if job.status == "completed" else "failed"
    prefix = "video" if job.kind == "video" else job.kind
    return {
        "id": f"evt_{job.id}",
        "object": "event",
        "created_at": int(job.finished_at or job.created_at),
        "type": f"{prefix}.{kind}",
        "data": {"id": f"{prefix}_{job.id}"},
    }


def openai_images(job: Job, data: list[dict[str, Any]]) -> dict[str, Any]:
    """Return OpenAI's ImagesResponse (openai 3.57, `types/images_response.py`), with gapray's own members under `gap`.

    Args:
        job: Job of kind `image`, in any state.
        data: Its pictures: objects with `b64_json` or `url`.
    """
    images = (job.result or {}).get("images", [])
    still = job.making.still
    return {
        "id": f"image_{job.id}",
        "object": "image",
        "created": int(job.finished_at or job.created_at),
        "status": _OPENAI_STATUS[job.status],
        "progress": job.progress,
        "expires_at": int(job.expires_at),
        "data": data,
        "background": "opaque",
        "output_format": still.format if still else "png",
        "size": f"{images[0]['width']}x{images[0]['height']}" if images else None,
        "usage": None,
        "error": _error(job),
        "gap": _gap(job, "images", "scene", "azimuth_deg", "backend", "licence", "seconds"),
    }


def native_job(job: Job) -> dict[str, Any]:
    """Return a package or score job."""
    body: dict[str, Any] = {
        "id": f"{job.kind}_{job.id}",
        "object": job.kind,
        "status": _OPENAI_STATUS[job.status],
        "stage": job.stage,
        "progress": job.progress,
        "created_at": int(job.created_at),
        "expires_at": int(job.expires_at),
        "error": _error(job),
    }
    return body | (job.result or {}) | azimuths_and_warnings(job)


def azimuths_and_warnings(job: Job) -> dict[str, Any]:
    """Return how the azimuths were determined, all warnings, and the fields that have no effect as `ignored`, if there are any.

    Part of every API's answers, from the first one on.
    """
    by = job.azimuths_by
    warnings = [ORDER_WARNING] if by == "order" else []
    if job.input.ignored:
        warnings.append(described(job.input.ignored))
    if job.kind == "video":
        rendered = (job.result or {}).get("video", {}).get("frames")
        warnings += length_warnings(job.making, rendered or job.making.frames or DEFAULT_FRAMES)
    told = {"azimuths_by": by, "warnings": [*(job.result or {}).get("warnings", ()), *warnings]}
    return told | ({"ignored": list(job.input.unread)} if job.input.unread else {})


def _gap(job: Job, *names: str) -> dict[str, Any]:
    """Return gapray's own members, with the named parts of the result if there are any."""
    result = job.result or {}
    members = {"product_id": job.making.product_id, "stage": job.stage, "attempt": job.attempt}
    return members | {name: result[name] for name in names if name in result} | azimuths_and_warnings(job)


def _error(job: Job) -> dict[str, Any] | None:
    if not job.error_code:
        return None
    return {"code": job.error_code, "message": job.error_message, "remedy": remedy_of(job.error_code)}


def runpod_id(job: Job) -> str:
    """Return a job's id in RunPod's form, which ends with a region."""
    return f"{job.id}-u1"


def runpod_state(job: Job) -> str:
    """Return RunPod's name of a job's state."""
    if job.status == "failed" and job.error_code == "job.timed_out":
        return "TIMED_OUT"
    return _RUNPOD_STATUS[job.status]


def runpod_output(job: Job, artifacts: Artifacts) -> dict[str, Any]:
    """Return the `output` of a completed RunPod job, with the members that the prototype's clients read."""
    result = job.result or {}

    def content(name: str) -> str:
        return base64.b64encode(artifacts.get(f"{job.folder}/{name}")).decode()

    if job.kind == "image":
        return {"status": "ok"} | _runpod_image(result, content) | azimuths_and_warnings(job)
    name = result["video"]["name"]
    scores = {"scores": result["scores"]} if "scores" in result else {}
    video = {"mode": MODE, "format": name.rpartition(".")[2], "video_b64": content(name)}
    return {"status": "ok"} | video | scores | azimuths_and_warnings(job)


def _runpod_image(result: dict[str, Any], content: Callable[[str], str]) -> dict[str, Any]:
    """Return the output of the prototype's image endpoint: `image` (base64), `seed`, `width` and `height`.

    If there are several pictures, all of them are in `images` as well.
    """
    images = [
        {name: image[name] for name in ("seed", "width", "height")} | {"image": content(image["name"])}
        for image in result["images"]
    ]
    verdict = {name: result["images"][0][name] for name in ("gate", "reasons") if name in result["images"][0]}
    more = {"images": images} if len(images) > 1 else {}
    return images[0] | verdict | more


def runpod_accepted(job: Job) -> dict[str, Any]:
    """Return the answer of RunPod's ``run``, with gapray's own members under `gap`."""
    return {"id": runpod_id(job), "status": runpod_state(job), "gap": azimuths_and_warnings(job)}


def runpod_status(job: Job, artifacts: Artifacts) -> dict[str, Any]:
    """Return the answer of RunPod's ``status``; a failure is also in `output`, where the prototype's clients look for it."""
    body: dict[str, Any] = {
        **runpod_accepted(job),
        "delayTime": round(job.seconds_queued * 1000),
        "executionTime": round(job.seconds_running * 1000),
        "retries": max(0, job.attempt - 1),
    }
    if job.status == "completed" and job.result:
        body["output"] = runpod_output(job, artifacts)
    elif job.status == "running":
        body["output"] = {"stage": job.stage, "progress": job.progress}
    elif job.error_code:
        body["error"] = job.error_message
        body["output"] = {"status": "error", "message": job.error_message, "code": job.error_code}
    return body
