"""Cards -> a loaded AnimateDiff pipeline. Every part is checked: a wrong one is an error, never a weaker mode."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

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
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from gapray.config import AnimateDiffSettings
from gapray.errors import ModelError
from gapray.models.cards import card_named
from gapray.models.store import LocatedCard, cache_root, locate
from gapray.video.animatediff.backend import AnimateDiff

ROLES = {"base": "diffusion", "motion": "motion", "controlnets": "controlnet", "ip_adapter": "image-adapter"}
_Module = TypeVar("_Module")

SCHEDULES: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    # As diffusers' AnimateDiff documentation sets them for mm_sd_v15_v2, AnimateLCM and AnimateDiff-Lightning.
    "ddim": (
        DDIMScheduler,
        {"beta_schedule": "linear", "clip_sample": False, "timestep_spacing": "linspace", "steps_offset": 1},
    ),
    "lcm": (LCMScheduler, {"beta_schedule": "linear"}),
    "euler-lightning": (EulerDiscreteScheduler, {"beta_schedule": "linear", "timestep_spacing": "trailing"}),
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


def load_animatediff(settings: AnimateDiffSettings, *, device: str) -> AnimateDiff:
    """Load what the settings name.

    Args:
        settings: Names of the cards.
        device: ``cpu`` or ``cuda``; half precision on a GPU.

    Raises:
        ModelError: `model.unavailable`, `model.hash_mismatch`, or `model.wrong_part` naming the card.
    """
    dtype = torch.float16 if device == "cuda" else torch.float32
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    if settings.compile:
        # Kernels that one actor compiled serve the next one on this node.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
    base = _located(settings.base, "diffusion")
    cards = [base]
    with _folder(base) as root:
        unet = _part(base, UNet2DConditionModel.from_pretrained, root / "unet", low_cpu_mem_usage=False)
        vae = _part(base, AutoencoderKL.from_pretrained, root / "vae", low_cpu_mem_usage=False)
        text = _part(base, CLIPTextModel.from_pretrained, root / "text_encoder")
        tokenizer = _tokenizer(base, root / "tokenizer")
    motion = _located(settings.motion, "motion")
    adapter = load_motion(motion, unet)
    nets = []
    for name in settings.controlnets:
        located = _located(name, "controlnet")
        with _folder(located) as root:
            nets.append(_part(located, ControlNetModel.from_pretrained, root, low_cpu_mem_usage=False))
        cards.append(located)
    image = _located(settings.ip_adapter, "image-adapter") if settings.ip_adapter else None
    encoder = None
    if image:
        with _folder(image) as root:
            encoder = _part(image, CLIPVisionModelWithProjection.from_pretrained, root / "image_encoder")
    kind, options = SCHEDULES[settings.scheduler]
    pipe = AnimateDiffControlNetPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        motion_adapter=adapter,
        controlnet=nets if len(nets) > 1 else nets[0],
        scheduler=kind(**BETAS, **options),
        feature_extractor=_feature_extractor(encoder),
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
    """A motion module, from diffusers' layout or the original checkpoint.

    A pickle is read through torch's `weights_only` and converted once to safetensors, in the store.

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
        raise _wrong(located, error) from error
    return adapter


def original_motion_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the original AnimateDiff checkpoint -> diffusers' (as its `loaders/single_file_utils.py` maps them)."""
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
    """What `MotionAdapter` needs to know to hold these weights inside this UNet."""
    width = list(unet.config["block_out_channels"])
    heads = unet.config["attention_head_dim"]  # SD 1.5's config calls its number of heads so
    middle = any(key.startswith("mid_block.") for key in state)
    return {
        "block_out_channels": width,
        "motion_layers_per_block": unet.config["layers_per_block"],
        "motion_mid_block_layers_per_block": 1,
        "motion_num_attention_heads": heads,
        "motion_norm_num_groups": unet.config["norm_num_groups"],
        # Version 2 brought the middle block and 32 positions; version 1 has 24.
        "motion_max_seq_length": 32 if middle else 24,
        "use_motion_mid_block": middle,
    }


def load_image_adapter(pipe: AnimateDiffControlNetPipeline, located: LocatedCard) -> None:
    """Load an IP-Adapter into a pipeline's UNet.

    Raises:
        ModelError: `model.wrong_part`.
    """
    [path] = [file for name, file in located.files.items() if name.startswith("ip-adapter")]
    try:
        flat = load_file(path)
        state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in flat.items():
            group, _, rest = key.partition(".")
            state[group][rest] = value
        pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
        layers = [one for one in pipe.unet.attn_processors.values() if isinstance(one, IPAdapterAttnProcessor2_0)]
        if not layers:
            raise ValueError("no layer took its weights")
    except Exception as error:
        raise _wrong(located, error) from error


def _located(name: str, role: str) -> LocatedCard:
    card = card_named(name)
    if card.role != role:
        raise ModelError("model.wrong_part", f"{name} is a {card.role} card, and {role} is needed here")
    return locate(card)


@contextmanager
def _folder(located: LocatedCard) -> Iterator[Path]:
    """A folder of links in the layout that `from_pretrained` reads: files of a card may lie in different places."""
    with tempfile.TemporaryDirectory() as name:
        for file, path in located.files.items():
            link = Path(name) / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        yield Path(name)


def _part(located: LocatedCard, load: Any, folder: Path, **options: Any) -> Any:
    try:
        return load(str(folder), local_files_only=True, **options)
    except Exception as error:
        raise _wrong(located, error) from error


def _tokenizer(located: LocatedCard, folder: Path) -> CLIPTokenizer:
    try:
        vocabulary = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#")]
        return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77)
    except Exception as error:
        raise _wrong(located, error) from error


def _feature_extractor(encoder: CLIPVisionModelWithProjection | None) -> CLIPImageProcessor:
    side = encoder.config.image_size if encoder is not None else 224
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _save(state: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(state, temporary)
    os.replace(temporary, path)


def _wrong(located: LocatedCard, error: Exception) -> ModelError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError("model.wrong_part", f"{located.card.name} could not be loaded: {type(error).__name__}: {first}")
