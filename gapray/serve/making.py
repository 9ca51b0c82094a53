"""What a request changes: limits, the profile with its wishes over it, the files it gets. Light: the ingress imports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapray.config import Profile
from gapray.errors import InputError
from gapray.serve.jobs import Job, Making
from gapray.serve.settings import Limits
from gapray.video.presets import Output, Preset

DEFAULT_FPS = 12.0
SPRITE_COLUMNS = 6


def check_making(making: Making, limits: Limits) -> None:
    """Refuse what is beyond the server's limits.

    Raises:
        InputError: `request.invalid`.
    """
    for name, value, most in (
        ("frames", making.frames, limits.frames),
        ("width", making.width, limits.side),
        ("height", making.height, limits.side),
        ("steps", making.steps, limits.steps),
        ("seconds", making.seconds, limits.seconds),
        ("prompt", len(making.prompt or ""), limits.prompt),
        ("negative_prompt", len(making.negative_prompt or ""), limits.prompt),
    ):
        if value is not None and value > most:
            raise InputError("request.invalid", f"{name} is {value:g}; at most {most:g} is taken")


def profile_for(making: Making, profile: Profile) -> Profile:
    """The server's profile with one request's wishes over it."""
    orbit: dict[str, Any] = {"frames": making.frames, "size": _side(making)}
    diffusion: dict[str, Any] = {
        "prompt": making.prompt,
        "negative_prompt": making.negative_prompt,
        "steps": making.steps,
        "guidance": making.guidance,
        "ip_scale": making.ip_scale,
    }
    if making.control_scale is not None:
        nets = len(profile.video.animatediff.controlnets)
        diffusion["control_scale"] = (making.control_scale,) * nets
    animatediff = profile.video.animatediff.model_copy(update=_given(diffusion))
    return profile.model_copy(
        update={
            "orbit": profile.orbit.model_copy(update=_given(orbit)),
            "video": profile.video.model_copy(update={"animatediff": animatediff}),
        }
    )


def preset_for(making: Making, frames: int) -> Preset:
    """Which files a request gets: the video, a poster, a sprite sheet."""
    fps, at_least = making.fps, 0.0
    if fps is None:
        fps = DEFAULT_FPS if making.seconds is None else min(60.0, max(1.0, frames / making.seconds))
    elif making.seconds is not None:
        at_least = making.seconds
    size = (making.width, making.height) if making.width and making.height else None
    return Preset(
        name="online",
        description="What the server answers with.",
        files=(
            Output(kind=making.format, name=f"turntable.{making.format}", fps=fps, min_s=at_least, size=size),
            Output(kind="poster", name="poster.jpg"),
            Output(kind="sprite", name="sprite.jpg", columns=SPRITE_COLUMNS, quality=88),
        ),
    )


def preview_name(job: Job, azimuth_deg: float, what: str) -> str:
    """Artifact of one view's picture."""
    return f"{job.folder}/views/{azimuth_deg:07.3f}_{what}.jpg"


def _side(making: Making) -> int | None:
    if making.width is None and making.height is None:
        return None
    return max(64, min(making.width or making.height or 0, making.height or making.width or 0) // 8 * 8)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
