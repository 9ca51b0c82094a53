"""A job as each API shows it."""

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
from gapray.serve.jobs import Job, Making
from gapray.serve.making import USUAL_SIDE, length_of, preset_for, told_of_length
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
"""The prototype's word for what it made."""
DEFAULT_FRAMES = 24


def job_id(shown: str) -> str:
    """The store's id in whatever a client calls it: ``video_<id>``, ``<id>-u1``, ``sync-<id>-u1``.

    Raises:
        InputError: `job.not_found`.
    """
    found = _ID.search(shown)
    if found is None:
        raise InputError("job.not_found", f"there is no job {shown[:80]!r}")
    return found.group()


def openai_video(job: Job) -> dict[str, Any]:
    """OpenAI's Video object (openai 3.54, `types/video.py`), with what only gapray knows under `gap`."""
    result = job.result or {}
    video = result.get("video", {})
    # An encoder may need even sides: what will come is said from the first answer on.
    frames = job.making.frames or DEFAULT_FRAMES
    asked = preset_for(job.making, frames).files[0]
    width, height = (video["width"], video["height"]) if video else asked.size or (USUAL_SIDE, USUAL_SIDE)
    seconds = video["seconds"] if video else length_of(job.making, frames)[0]
    shown: dict[str, Any] = {
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
        shown["error"] = {"code": job.error_code, "message": job.error_message}
        shown["gap"]["remedy"] = remedy_of(job.error_code)
    return shown


def readable(shape: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    """A job in one of the shapes here; as a failed one where its stored result is not of the form that its kind's has.

    Raised, one such row would take a whole list with it.
    """
    try:
        return shape(job)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        log.exception("job %s cannot be shown", job.id)
        why = f"this gapray cannot read the job's result: {type(error).__name__}"
        return shape(
            replace(job, status="failed", result=None, error_code="job.unreadable", error_message=why, making=Making())
        )


def openai_event(job: Job) -> dict[str, Any]:
    """What a webhook of the Videos API carries."""
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
    """OpenAI's ImagesResponse (openai 3.57, `types/images_response.py`), with what only gapray knows under `gap`.

    Args:
        job: Of kind `image`, at any state.
        data: Its pictures, as bytes or URLs.
    """
    images = (job.result or {}).get("images", [])
    wish = job.making.still
    return {
        "id": f"image_{job.id}",
        "object": "image",
        "created": int(job.finished_at or job.created_at),
        "status": _OPENAI_STATUS[job.status],
        "progress": job.progress,
        "expires_at": int(job.expires_at),
        "data": data,
        "background": "opaque",
        "output_format": wish.format if wish else "png",
        "size": f"{images[0]['width']}x{images[0]['height']}" if images else None,
        "usage": None,
        "error": _error(job),
        "gap": _gap(job, "images", "scene", "azimuth_deg", "backend", "licence", "seconds"),
    }


def native_job(job: Job) -> dict[str, Any]:
    """A package or score job."""
    shown: dict[str, Any] = {
        "id": f"{job.kind}_{job.id}",
        "object": job.kind,
        "status": _OPENAI_STATUS[job.status],
        "stage": job.stage,
        "progress": job.progress,
        "created_at": int(job.created_at),
        "expires_at": int(job.expires_at),
        "error": _error(job),
    }
    return shown | (job.result or {}) | azimuths_of(job)


def azimuths_of(job: Job) -> dict[str, Any]:
    """How the azimuths of a job's photos were known, and all its warnings: the same in every API, from the first answer on."""
    by = job.azimuths_by
    told = [ORDER_WARNING] if by == "order" else []
    if job.input.ignored:
        told.append(described(job.input.ignored))
    if job.kind == "video":
        drawn = (job.result or {}).get("video", {}).get("frames")
        told += told_of_length(job.making, drawn or job.making.frames or DEFAULT_FRAMES)
    return {"azimuths_by": by, "warnings": [*(job.result or {}).get("warnings", ()), *told]}


def _gap(job: Job, *names: str) -> dict[str, Any]:
    """What only gapray knows of a job, with these parts of its result as far as they are there."""
    result = job.result or {}
    told = {"product_id": job.making.product_id, "stage": job.stage, "attempt": job.attempt}
    return told | {name: result[name] for name in names if name in result} | azimuths_of(job)


def _error(job: Job) -> dict[str, Any] | None:
    if not job.error_code:
        return None
    return {"code": job.error_code, "message": job.error_message, "remedy": remedy_of(job.error_code)}


def runpod_id(job: Job) -> str:
    """RunPod's ids end in the region."""
    return f"{job.id}-u1"


def runpod_state(job: Job) -> str:
    """RunPod's name of a job's state."""
    if job.status == "failed" and job.error_code == "job.timed_out":
        return "TIMED_OUT"
    return _RUNPOD_STATUS[job.status]


def runpod_output(job: Job, artifacts: Artifacts) -> dict[str, Any]:
    """What a finished job of a RunPod endpoint puts out, with the members that the prototype's clients read."""
    result = job.result or {}

    def content(name: str) -> str:
        return base64.b64encode(artifacts.get(f"{job.folder}/{name}")).decode()

    if job.kind == "image":
        return {"status": "ok"} | _runpod_image(result, content) | azimuths_of(job)
    name = result["video"]["name"]
    scores = {"scores": result["scores"]} if "scores" in result else {}
    video = {"mode": MODE, "format": name.rpartition(".")[2], "video_b64": content(name)}
    return {"status": "ok"} | video | scores | azimuths_of(job)


def _runpod_image(result: dict[str, Any], content: Callable[[str], str]) -> dict[str, Any]:
    """What the prototype's image endpoint answered: `image` in base64, `seed`, `width`, `height`; more pictures in `images`."""
    told = [
        {name: one[name] for name in ("seed", "width", "height")} | {"image": content(one["name"])}
        for one in result["images"]
    ]
    judged = {name: result["images"][0][name] for name in ("gate", "reasons") if name in result["images"][0]}
    more = {"images": told} if len(told) > 1 else {}
    return told[0] | judged | more


def runpod_accepted(job: Job) -> dict[str, Any]:
    """What RunPod's ``run`` answers, with what only gapray knows under `gap`."""
    return {"id": runpod_id(job), "status": runpod_state(job), "gap": azimuths_of(job)}


def runpod_status(job: Job, artifacts: Artifacts) -> dict[str, Any]:
    """What RunPod's ``status`` answers; a failure stands in `output` too, where the prototype's clients look."""
    shown: dict[str, Any] = {
        **runpod_accepted(job),
        "delayTime": round(job.seconds_queued * 1000),
        "executionTime": round(job.seconds_running * 1000),
        "retries": max(0, job.attempt - 1),
    }
    if job.status == "completed" and job.result:
        shown["output"] = runpod_output(job, artifacts)
    elif job.status == "running":
        shown["output"] = {"stage": job.stage, "progress": job.progress}
    elif job.error_code:
        shown["error"] = job.error_message
        shown["output"] = {"status": "error", "message": job.error_message, "code": job.error_code}
    return shown
