"""Load an AnimateDiff pipeline from cards. Every part is checked: a wrong one is an error, never a weaker mode."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from gapray.models.diffusers_parts import (
    feature_extractor_of,
    folder_of,
    load_image_adapter,
    located_as,
    part_of,
    tokenizer_of,
    wrong_part,
)
from gapray.models.store import LocatedCard, cache_root
from gapray.video.animatediff.backend import AnimateDiff
from gapray.video.animatediff.settings import AnimateDiffSettings

ROLES = {"base": "diffusion", "motion": "motion", "controlnets": "controlnet", "ip_adapter": "image-adapter"}

SCHEDULES: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    # As set in diffusers' AnimateDiff documentation for mm_sd_v15_v2, AnimateLCM and AnimateDiff-Lightning.
    "ddim": (
        DDIMScheduler,
        {"beta_schedule": "linear", "clip_sample": False, "timestep_spacing": "linspace", "steps_offset": 1},
    ),
    "lcm": (LCMScheduler, {"beta_schedule": "linear"}),
    "euler-lightning": (EulerDiscreteScheduler, {"beta_schedule": "linear", "timestep_spacing": "trailing"}),
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


def load_animatediff(settings: AnimateDiffSettings, *, device: str) -> AnimateDiff:
    """Load the backend that the settings name.

    Args:
        settings: Names of the cards.
        device: ``cpu`` or ``cuda``; half precision on a GPU.

    Raises:
        ModelError: `model.unavailable`, `model.hash_mismatch`, or `model.wrong_part` naming the card.
    """
    dtype = torch.float16 if device == "cuda" else torch.float32
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    base = located_as(settings.base, "diffusion")
    cards = [base]
    with folder_of(base) as root:
        unet = part_of(base, UNet2DConditionModel.from_pretrained, root / "unet", low_cpu_mem_usage=False)
        vae = part_of(base, AutoencoderKL.from_pretrained, root / "vae", low_cpu_mem_usage=False)
        text = part_of(base, CLIPTextModel.from_pretrained, root / "text_encoder")
        tokenizer = tokenizer_of(base, root / "tokenizer")
    motion = located_as(settings.motion, "motion")
    adapter = load_motion(motion, unet)
    nets = []
    for name in settings.controlnets:
        located = located_as(name, "controlnet")
        with folder_of(located) as root:
            nets.append(part_of(located, ControlNetModel.from_pretrained, root, low_cpu_mem_usage=False))
        cards.append(located)
    image = located_as(settings.ip_adapter, "image-adapter") if settings.ip_adapter else None
    encoder = None
    if image:
        with folder_of(image) as root:
            encoder = part_of(image, CLIPVisionModelWithProjection.from_pretrained, root / "image_encoder")
    kind, options = SCHEDULES[settings.scheduler]
    pipe = AnimateDiffControlNetPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        motion_adapter=adapter,
        controlnet=nets if len(nets) > 1 else nets[0],
        scheduler=kind(**BETAS, **options),
        feature_extractor=feature_extractor_of(encoder),
        image_encoder=encoder,
    )
    if image:
        load_image_adapter(pipe, image)
    cards += [motion, *([image] if image else [])]
    for module in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.controlnet, pipe.image_encoder):
        if module is not None:
            module.to(device, dtype).eval().requires_grad_(False)
    licences = {located.card.licence for located in cards}
    return AnimateDiff(pipe, settings, licence=" AND ".join(sorted(licences)))


def load_motion(located: LocatedCard, unet: UNet2DConditionModel) -> MotionAdapter:
    """Load a motion module, in diffusers' layout or as the original checkpoint.

    A pickle is read with torch's `weights_only` and converted once to safetensors, in the store.

    Raises:
        ModelError: `model.wrong_part`.
    """
    [(name, path)] = located.files.items()
    try:
        if path.suffix == ".safetensors" or name.endswith(".safetensors"):
            state = load_file(path)
        else:
            kept = cache_root() / "converted" / f"{located.sha256[name]}.safetensors"
            if not kept.exists():
                raw = torch.load(path, map_location="cpu", weights_only=True)
                _save(original_motion_keys(raw.get("state_dict", raw)), kept)
            state = load_file(kept)
        adapter = MotionAdapter(**motion_config(state, unet))
        missing, unexpected = adapter.load_state_dict(state, strict=False)
        wrong = [key for key in missing if not key.endswith("pos_embed.pe")] + list(unexpected)
        if wrong:
            raise ValueError(f"{len(wrong)} weights do not fit, the first is {wrong[0]}")
    except Exception as error:
        raise wrong_part(located, error) from error
    return adapter


def original_motion_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map names of the original AnimateDiff checkpoint to diffusers' (as in its `loaders/single_file_utils.py`)."""
    renamed = {}
    for key, value in state.items():
        if "pos_encoder" in key:
            continue  # diffusers computes the position code
        name = key.removeprefix("module.").replace(".norms.0", ".norm1").replace(".norms.1", ".norm2")
        name = name.replace(".ff_norm", ".norm3").replace(".attention_blocks.0", ".attn1")
        name = name.replace(".attention_blocks.1", ".attn2").replace(".temporal_transformer", "")
        renamed[name] = value.contiguous()
    return renamed


def motion_config(state: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, Any]:
    """Arguments of a `MotionAdapter` that holds these weights inside this UNet."""
    width = list(unet.config["block_out_channels"])
    heads = unet.config["attention_head_dim"]  # SD 1.5's config uses this name for its number of heads
    middle = any(key.startswith("mid_block.") for key in state)
    return {
        "block_out_channels": width,
        "motion_layers_per_block": unet.config["layers_per_block"],
        "motion_mid_block_layers_per_block": 1,
        "motion_num_attention_heads": heads,
        "motion_norm_num_groups": unet.config["norm_num_groups"],
        # Version 2 introduced the middle block and 32 positions; version 1 has 24.
        "motion_max_seq_length": 32 if middle else 24,
        "use_motion_mid_block": middle,
    }


def _save(state: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(state, temporary)
    os.replace(temporary, path)
