"""Load an SDXL pipeline from cards."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from gapray.models.diffusers_parts import (
    feature_extractor_of,
    folder_of,
    load_image_adapter,
    located_as,
    part_of,
    tokenizer_of,
)
from gapray.stills.sdxl.backend import Sdxl
from gapray.stills.sdxl.settings import SdxlSettings

# DPM++ 2M with Karras' sigmas over SDXL's training schedule (its scheduler/scheduler_config.json).
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "use_karras_sigmas": True,
}


def load_sdxl(settings: SdxlSettings, *, device: str) -> Sdxl:
    """Load the backend that the settings name.

    Args:
        settings: Names of the cards.
        device: ``cpu`` or ``cuda``; half precision on a GPU, with the decoder in bfloat16, because it overflows in float16.

    Raises:
        ModelError: `model.unavailable`, `model.hash_mismatch`, or `model.wrong_part` naming the card.
    """
    dtype = torch.float16 if device == "cuda" else torch.float32
    base = located_as(settings.base, "diffusion-xl")
    cards = [base]
    with folder_of(base) as root:
        unet = part_of(base, UNet2DConditionModel.from_pretrained, root / "unet", low_cpu_mem_usage=False)
        vae = part_of(base, AutoencoderKL.from_pretrained, root / "vae", low_cpu_mem_usage=False)
        first = part_of(base, CLIPTextModel.from_pretrained, root / "text_encoder")
        second = part_of(base, CLIPTextModelWithProjection.from_pretrained, root / "text_encoder_2")
        tokenizers = (
            tokenizer_of(base, root / "tokenizer"),
            tokenizer_of(base, root / "tokenizer", pad_token="!"),  # noqa: S106
        )
    nets = []
    for name in settings.controlnets:
        located = located_as(name, "controlnet-xl")
        with folder_of(located) as root:
            nets.append(part_of(located, ControlNetModel.from_pretrained, root, low_cpu_mem_usage=False))
        cards.append(located)
    image = located_as(settings.ip_adapter, "image-adapter-xl") if settings.ip_adapter else None
    encoder = None
    if image:
        with folder_of(image) as root:
            encoder = part_of(image, CLIPVisionModelWithProjection.from_pretrained, root / "image_encoder")
        cards.append(image)
    pipe = StableDiffusionXLControlNetPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        controlnet=nets if len(nets) > 1 else nets[0],
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
        feature_extractor=feature_extractor_of(encoder),
        image_encoder=encoder,
        add_watermarker=False,
    )
    if image:
        load_image_adapter(pipe, image)
    for module in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2, pipe.controlnet, pipe.image_encoder):
        if module is not None:
            module.to(device, dtype).eval().requires_grad_(False)
    pipe.vae.to(device, torch.bfloat16 if device == "cuda" else dtype).eval().requires_grad_(False)
    licences = {located.card.licence for located in cards}
    return Sdxl(pipe, compiled=settings.compile, licence=" AND ".join(sorted(licences)))
