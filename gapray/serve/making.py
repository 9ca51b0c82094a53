"""What a request changes: limits, the profile with its wishes over it, the files it gets. Light: the ingress imports it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from gapray.config import Profile, StillSettings
from gapray.errors import InputError
from gapray.serve.jobs import Job, Making, StillWish
from gapray.serve.settings import Limits
from gapray.stills.scene import Scene, load_scenes, scene_names
from gapray.stills.still import still_size
from gapray.video.presets import Output, Preset

DEFAULT_FPS = 12.0
SPRITE_COLUMNS = 6
USUAL_SIDE = 512
"""Side of a video whose size nobody names, until it is drawn [pixels]."""


def check_making(making: Making, limits: Limits) -> None:
    """Refuse what is beyond the server's limits.

    Raises:
        InputError: `request.invalid`, or of stills `scene.unknown`, `still.empty_prompt`, `still.prompt_too_long`.
    """
    side = limits.picture_side if making.still else limits.side
    for name, value, most in (
        ("frames", making.frames, limits.frames),
        ("width", making.width, side),
        ("height", making.height, side),
        ("steps", making.steps, limits.steps),
        ("seconds", making.seconds, limits.seconds),
        ("prompt", len(making.prompt or ""), limits.prompt),
        ("negative_prompt", len(making.negative_prompt or ""), limits.prompt),
    ):
        if value is not None and value > most:
            raise InputError("request.invalid", f"{name} is {value:g}; at most {most:g} is taken")
    if making.still:
        scene_for(making)
        return
    height, width = wanted_size(making) or (USUAL_SIDE, USUAL_SIDE)
    # As many as `preset_for` lets an mp4 repeat until it lasts as long as was asked.
    frames = max(making.frames or 1, math.ceil((making.fps or 0) * (making.seconds or 0)))
    if frames * width * height > limits.video_pixels:
        message = (
            f"{frames} frames of {width} x {height} pixels; at most {limits.video_pixels} pixels in all are encoded"
        )
        raise InputError("request.invalid", message)


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


def scene_for(making: Making) -> Scene:
    """The scene that a request names, with its own words over it; without a name a plain studio.

    Raises:
        InputError: `scene.unknown`, `still.empty_prompt` or `still.prompt_too_long`.
    """
    wish = making.still or StillWish()
    scene = Scene(name="prompt", prompt="")
    if wish.scene is not None:
        if wish.scene not in scene_names():  # never a path
            raise InputError("scene.unknown", f"there is no scene {wish.scene!r}; scenes: {', '.join(scene_names())}")
        scene = _shipped(wish.scene)
    words = {"prompt": making.prompt, "negative_prompt": making.negative_prompt}
    scene = scene.model_copy(update=_given(words))
    scene.prompt_for(making.product_id)
    return scene


@cache
def _shipped(name: str) -> Scene:
    """Read once: every request that names a scene is checked on the ingress' event loop."""
    [scene] = load_scenes([name])
    return scene


def stills_for(making: Making, settings: StillSettings) -> StillSettings:
    """The server's settings of stills with one request's wishes over them."""
    wish = making.still or StillWish()
    wanted: dict[str, Any] = {
        "steps": making.steps,
        "guidance": making.guidance,
        "ip_scale": making.ip_scale,
        "exact": wish.exact,
        "product": wish.product,
    }
    if making.control_scale is not None:
        wanted["control_scale"] = (making.control_scale,) * len(settings.sdxl.controlnets)
    changed: dict[str, Any] = {"azimuth_deg": wish.azimuth_deg}
    size = drawn_size(making, settings.megapixels)
    if size:
        changed["megapixels"] = size[0] * size[1] / 2**20
    return settings.model_copy(update=_given(changed) | {"sdxl": settings.sdxl.model_copy(update=_given(wanted))})


def drawn_size(making: Making, megapixels: float) -> tuple[int, int] | None:
    """[H, W] at which the picture that is wanted is drawn: in its aspect, no larger than the model is made for."""
    size = wanted_size(making)
    return still_size(*size, min(megapixels, size[0] * size[1] / 2**20)) if size else None


def wanted_size(making: Making) -> tuple[int, int] | None:
    """[H, W] that a request names; with one side, a square."""
    height, width = making.height or making.width, making.width or making.height
    return (height, width) if height and width else None


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


def length_of(making: Making, frames: int) -> tuple[float, int]:
    """Seconds that the video lasts, and how many turns it shows in them: an mp4 is repeated to the length that is asked for."""
    output = preset_for(making, frames).files[0]
    turns = max(1, math.ceil(output.min_s * output.fps / frames)) if output.kind == "mp4" else 1
    return turns * frames / output.fps, turns


def told_of_length(making: Making, frames: int) -> list[str]:
    """What there is to say where the number of frames, their rate and the length that were asked for do not go together."""
    if making.seconds is None:
        return []
    fps = preset_for(making, frames).files[0].fps
    lasts, turns = length_of(making, frames)
    told = f"{frames} frames at {fps:.4g} a second last {frames / fps:.4g} s, and {making.seconds:g} s were asked for: "
    if turns > 1:
        return [f"{told}the turn is shown {turns} times, {lasts:.4g} s in all"]
    return [f"{told}the video lasts {lasts:.4g} s"] if abs(lasts - making.seconds) > 0.5 / fps else []


def preview_name(job: Job, azimuth_deg: float, what: str) -> str:
    """Artifact of one view's picture."""
    return f"{job.folder}/views/{azimuth_deg:07.3f}_{what}.jpg"


def _side(making: Making) -> int | None:
    size = wanted_size(making)
    return max(64, min(size) // 8 * 8) if size else None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
