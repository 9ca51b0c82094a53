"""Generation parameters applied: checked against limits, merged into the profile, and turned into output files.

Imported by the ingress, so it imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from gapray.errors import InputError
from gapray.profile import Profile
from gapray.serve.jobs import GenerationParams, Job, StillParams
from gapray.serve.settings import Limits
from gapray.stills.scene import Scene, load_scenes, scene_names
from gapray.stills.settings import StillSettings
from gapray.stills.still import still_size
from gapray.video.presets import Output, Preset

DEFAULT_FPS = 12.0
SPRITE_COLUMNS = 6
USUAL_SIDE = 512
"""Assumed side of a video whose size was not requested, until it is rendered [pixels]."""


def check_params(params: GenerationParams, limits: Limits) -> None:
    """Refuse parameters beyond the server's limits.

    Raises:
        InputError: `request.invalid`; for stills also `scene.unknown`, `still.empty_prompt` or `still.prompt_too_long`.
    """
    side = limits.picture_side if params.still else limits.side
    for name, value, limit in (
        ("frames", params.frames, limits.frames),
        ("width", params.width, side),
        ("height", params.height, side),
        ("steps", params.steps, limits.steps),
        ("seconds", params.seconds, limits.seconds),
        ("prompt", len(params.prompt or ""), limits.prompt),
        ("negative_prompt", len(params.negative_prompt or ""), limits.prompt),
    ):
        if value is not None and value > limit:
            raise InputError("request.invalid", f"{name} is {value:g}; at most {limit:g} is taken")
    if params.still:
        scene_for(params)
        return
    height, width = requested_size(params) or (USUAL_SIDE, USUAL_SIDE)
    # `preset_for` repeats the turn of an mp4 until it is as long as requested.
    frames = max(params.frames or 1, math.ceil((params.fps or 0) * (params.seconds or 0)))
    if frames * width * height > limits.video_pixels:
        message = (
            f"{frames} frames of {width} x {height} pixels; at most {limits.video_pixels} pixels in all are encoded"
        )
        raise InputError("request.invalid", message)


def profile_for(params: GenerationParams, profile: Profile) -> Profile:
    """Return the server's profile with one request's parameters applied, as far as its generator takes them."""
    orbit: dict[str, Any] = {"frames": params.frames, "size": _side(params)}
    return profile.model_copy(
        update={
            "orbit": profile.orbit.model_copy(update=_without_none(orbit)),
            "video": profile.video.with_chosen(_generator_params(params)),
        }
    )


def unused_params(params: GenerationParams, profile: Profile) -> list[str]:
    """Return warnings if parameters have no effect, because the profile's generator does not take them."""
    unused = _generator_params(params).keys() - type(profile.video.chosen).model_fields.keys()
    return [f"{profile.video.backend} does not read {', '.join(sorted(unused))}"] if unused else []


def _generator_params(params: GenerationParams) -> dict[str, Any]:
    """Return the given parameters that only some generators take."""
    names = ("prompt", "negative_prompt", "steps", "guidance", "ip_scale", "control_scale")
    return _without_none({name: getattr(params, name) for name in names})


def scene_for(params: GenerationParams) -> Scene:
    """Return the scene that a request names, with its prompts replaced by the request's; without a name, a plain studio.

    Raises:
        InputError: `scene.unknown`, `still.empty_prompt` or `still.prompt_too_long`.
    """
    still = params.still or StillParams()
    scene = Scene(name="prompt", prompt="")
    if still.scene is not None:
        if still.scene not in scene_names():  # never a path
            raise InputError("scene.unknown", f"there is no scene {still.scene!r}; scenes: {', '.join(scene_names())}")
        scene = _load_scene(still.scene)
    prompts = {"prompt": params.prompt, "negative_prompt": params.negative_prompt}
    scene = scene.model_copy(update=_without_none(prompts))
    scene.prompt_for(params.product_id)
    return scene


@cache
def _load_scene(name: str) -> Scene:
    """Load a scene that ships with gapray; cached, because requests are checked on the ingress's event loop."""
    [scene] = load_scenes([name])
    return scene


def stills_for(params: GenerationParams, settings: StillSettings) -> StillSettings:
    """Return the server's still settings with one request's parameters applied, as far as its generator takes them."""
    still = params.still or StillParams()
    changes: dict[str, Any] = {"azimuth_deg": still.azimuth_deg}
    size = drawn_size(params, settings.megapixels)
    if size:
        changes["megapixels"] = size[0] * size[1] / 2**20
    own = _without_none({"exact": still.exact, "product": still.product})
    return settings.model_copy(update=_without_none(changes)).with_chosen(_generator_params(params) | own)


def drawn_size(params: GenerationParams, megapixels: float) -> tuple[int, int] | None:
    """Return the [H, W] at which a still is drawn: in the requested aspect ratio, with at most `megapixels`.

    Returns:
        The size [pixels]; None if no size was requested.
    """
    size = requested_size(params)
    return still_size(*size, min(megapixels, size[0] * size[1] / 2**20)) if size else None


def requested_size(params: GenerationParams) -> tuple[int, int] | None:
    """Return the requested [H, W] in pixels; a square if only one side was given, None if neither."""
    height, width = params.height or params.width, params.width or params.height
    return (height, width) if height and width else None


def preset_for(params: GenerationParams, frames: int) -> Preset:
    """Return the output files of a request: the video, a poster and a sprite sheet."""
    fps, min_s = params.fps, 0.0
    if fps is None:
        fps = DEFAULT_FPS if params.seconds is None else min(60.0, max(1.0, frames / params.seconds))
    elif params.seconds is not None:
        min_s = params.seconds
    size = requested_size(params)
    return Preset(
        name="online",
        description="What the server answers with.",
        files=(
            Output(
                kind=params.format, name=f"turntable.{params.format}", fps=fps, min_s=min_s, size=size and size[::-1]
            ),
            Output(kind="poster", name="poster.jpg"),
            Output(kind="sprite", name="sprite.jpg", columns=SPRITE_COLUMNS, quality=88),
        ),
    )


def video_length(params: GenerationParams, frames: int) -> tuple[float, int]:
    """Return the video's duration [s] and its number of turns: an mp4 repeats the turn to reach the requested duration."""
    output = preset_for(params, frames).files[0]
    turns = max(1, math.ceil(output.min_s * output.fps / frames)) if output.kind == "mp4" else 1
    return turns * frames / output.fps, turns


def length_warnings(params: GenerationParams, frames: int) -> list[str]:
    """Return warnings if the requested number of frames, frame rate and duration contradict each other."""
    if params.seconds is None:
        return []
    fps = preset_for(params, frames).files[0].fps
    duration, turns = video_length(params, frames)
    reason = (
        f"{frames} frames at {fps:.4g} a second last {frames / fps:.4g} s, and {params.seconds:g} s were asked for: "
    )
    if turns > 1:
        return [f"{reason}the turn is shown {turns} times, {duration:.4g} s in all"]
    return [f"{reason}the video lasts {duration:.4g} s"] if abs(duration - params.seconds) > 0.5 / fps else []


def preview_name(job: Job, azimuth_deg: float, what: str) -> str:
    """Return the artifact name of one view's preview; `what` is ``photo``, ``mask`` or ``depth``."""
    return f"{job.folder}/views/{azimuth_deg:07.3f}_{what}.jpg"


def _side(params: GenerationParams) -> int | None:
    size = requested_size(params)
    return max(64, min(size) // 8 * 8) if size else None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
