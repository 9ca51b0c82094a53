"""Settings of the AnimateDiff backend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gapray.settings import Result, Settings, Work


class AnimateDiffSettings(Settings):
    """SD 1.5 + AnimateDiff + ControlNet + IP-Adapter. Every refinement can be switched off, for ablations."""

    base: Result[str] = Field("stable-diffusion-v1-5", description="Card of the SD 1.5 pipeline.")
    motion: Result[str] = Field("mm-sd-v15-v2", description="Card of the motion module.")
    controlnets: Result[tuple[str, ...]] = Field(
        ("controlnet-depth-sd15",), description="Cards of the ControlNets: depth first, optionally canny second."
    )
    ip_adapter: Result[str | None] = Field("ip-adapter-plus-sd15", description="Card of the IP-Adapter; null = none.")
    scheduler: Result[Literal["ddim", "lcm", "euler-lightning"]] = Field(
        "ddim", description="Noise schedule and solver."
    )
    prompt: Result[str] = Field(
        "a product photo on a plain white background, studio light", description="Prompt of all frames."
    )
    negative_prompt: Result[str] = Field(
        "blurry, deformed, text artefacts, extra parts", description="Negative prompt; used only if guidance > 1."
    )
    steps: Result[int] = Field(25, ge=1, le=200, description="Denoising steps at strength 1.")
    guidance: Result[float] = Field(
        7.5, ge=1, le=30, description="Classifier-free guidance scale; 1 = off, which halves the work."
    )
    control_scale: Result[tuple[float, ...]] = Field((1.0,), description="Conditioning scale of each ControlNet.")
    control_end: Result[float] = Field(
        1.0, ge=0, le=1, description="Fraction of the steps after which the ControlNets stop."
    )
    ip_scale: Result[float] = Field(0.8, ge=0, le=2, description="Scale of the IP-Adapter.")
    start: Result[Literal["morph", "noise"]] = Field("morph", description="What denoising starts from.")
    strength: Result[float] = Field(
        0.5, gt=0, le=1, description="With start `morph`: fraction of the steps that are run; 1 = from pure noise."
    )
    view_blend: Result[bool] = Field(
        True, description="Condition each frame on its own two nearest photos instead of one photo for all frames."
    )
    key_frames: Result[bool] = Field(True, description="Hold captured angles to their photos at every step.")
    release: Result[float] = Field(
        0.15, ge=0, le=1, description="Fraction of the steps, at the end, over which key frames are released."
    )
    shared_keys: Result[bool] = Field(True, description="Self-attention also attends to the two nearest key frames.")
    shared_below: Result[int] = Field(
        32, ge=1, description="Largest side of the layers in which keys are shared [latent pixels]."
    )
    shared_gain: Result[float] = Field(1.0, gt=0, description="Weight of the key frames' keys against a frame's own.")
    roll: Result[bool] = Field(
        True, description="Roll the frames' positional encoding at each step, so that the loop closes."
    )
    composite: Result[bool] = Field(
        True, description="Composite captured pixels over generated ones where they are reliably visible."
    )
    decode_chunk: Work[int] = Field(24, ge=1, description="Frames decoded at once; halved when memory runs out.")
    compile: Work[bool] = Field(False, description="Compile the UNet and the ControlNets by torch.compile.")


def animatediff_cards(settings: AnimateDiffSettings) -> list[str]:
    """Names of the cards that AnimateDiff needs, in a fixed order."""
    return [
        settings.base,
        settings.motion,
        *settings.controlnets,
        *([settings.ip_adapter] if settings.ip_adapter else []),
    ]
