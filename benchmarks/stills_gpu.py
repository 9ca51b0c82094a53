"""Seconds per picture on one GPU: diffusers' own SDXL ControlNet pipeline and gapray's loop, random weights at real size.

python benchmarks/stills_gpu.py [--offload-only] [--no-compile] [--side 1024] [--steps 30]

1024 px, 30 steps, guidance, two full ControlNets, IP-Adapter-Plus, half precision. All in one process, after a warm-up, timed
with synchronisation; "first" includes compilation. `--offload-only` compares diffusers with itself under CPU offload, which is how
the RunPod handler that gapray replaces ran it. The lower bound is arithmetic: 779 TFLOP a picture at 790 TFLOP/s (dense half
precision of an H100 SXM or H200) = 0.99 s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from gapray.stills.sdxl.backend import Sdxl
from gapray.stills.sdxl.engine import Picture
from gapray.stills.sdxl.load import SCHEDULE
from gapray.stills.sdxl.prompts import encoded
from gapray.stills.sdxl.settings import SdxlSettings

FLOOR_S = 0.99
PROMPT, NEGATIVE = "a mug on a white marble kitchen counter, morning sun", "text, watermark, deformed"


def tokenizer(pad: str) -> CLIPTokenizer:
    characters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    characters += [chr(256 + index) for index in range(256 - len(characters))]
    words = [*characters, *(character + "</w>" for character in characters)]
    words += [f"<filler{index}>" for index in range(49406 - len(words))] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token=pad)


def text_config(width: int, layers: int, heads: int) -> CLIPTextConfig:
    return CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
                          projection_dim=width, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)  # fmt: skip


def ip_state(unet: UNet2DConditionModel) -> dict[str, dict[str, torch.Tensor]]:
    """A random IP-Adapter-Plus (ViT-H) in h94's layout."""
    layers, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        sizes = unet.config.block_out_channels
        block = sizes[::-1] if name.startswith("up") else sizes
        width = sizes[-1] if name.startswith("mid") else block[int(name.split(".")[1])]
        for kind in ("k", "v"):
            layers[f"{number}.to_{kind}_ip.weight"] = (
                torch.randn(width, 2048, device="cuda", dtype=torch.float16) * 0.02
            )
        number += 2
    reference = IPAdapterPlusImageProjection(
        embed_dims=1280, output_dims=2048, hidden_dims=1280, dim_head=64, heads=20, num_queries=16, depth=4
    ).state_dict()
    projection = {}
    for key, value in reference.items():
        if ".attn.to_k." in key:
            both = torch.cat([value, reference[key.replace("to_k", "to_v")]])
            projection[key.replace(".attn.to_k.", ".0.to_kv.")] = both
        elif ".attn.to_v." not in key:
            name = (
                key.replace(".ln0.", ".0.norm1.").replace(".ln1.", ".0.norm2.").replace(".attn.to_out.0.", ".0.to_out.")
            )
            name = name.replace(".attn.to_q.", ".0.to_q.").replace(".ff.0.", ".1.0.")
            projection[name.replace(".ff.1.net.0.proj.", ".1.1.").replace(".ff.1.net.2.", ".1.3.")] = value
    return {"image_proj": projection, "ip_adapter": layers}


def pipeline() -> StableDiffusionXLControlNetPipeline:
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.float16)
        unet = UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
        nets = [
            ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96, 256)) for _ in range(2)
        ]
        for net in nets:
            for layer in [
                *net.controlnet_down_blocks,
                net.controlnet_mid_block,
                net.controlnet_cond_embedding.conv_out,
            ]:
                torch.nn.init.normal_(layer.weight, std=0.02)
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=1024,
                            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                            scaling_factor=0.13025, force_upcast=True)  # fmt: skip
        first = CLIPTextModel(text_config(768, 12, 12))
        second = CLIPTextModelWithProjection(text_config(1280, 32, 20))
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14, projection_dim=1024)
        )  # fmt: skip
        state = ip_state(unet)
        torch.set_default_dtype(torch.float32)
    pipe = StableDiffusionXLControlNetPipeline(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=tokenizer("<|endoftext|>"), tokenizer_2=tokenizer("!"),
        unet=unet, controlnet=nets, scheduler=DPMSolverMultistepScheduler(**SCHEDULE), feature_extractor=CLIPImageProcessor(),
        image_encoder=vision, add_watermarker=False,
    )  # fmt: skip
    pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(0.6)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda", torch.float16)


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Seconds of the first call and of the fastest later one, and peak memory [GB]."""
    torch.cuda.reset_peak_memory_stats()
    spent = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        started = time.monotonic()
        work()
        torch.cuda.synchronize()
        spent.append(time.monotonic() - started)
    return spent[0], min(spent[1:]), torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--offload-only", action="store_true", help="diffusers alone, with and without CPU offload")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    began = time.monotonic()
    pipe = pipeline()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; built in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (given.side, given.side, 3), np.uint8) for _ in range(2)]
    reference = Image.fromarray(rng.integers(0, 255, (224, 224, 3), np.uint8))
    rows: list[tuple[str, int, float, float, float]] = []

    def stock(count: int, steps: int = given.steps, **more: object) -> object:
        return pipe(
            prompt=[PROMPT] * count, negative_prompt=[NEGATIVE] * count, image=[Image.fromarray(picture) for picture in pictures],
            height=given.side, width=given.side, num_inference_steps=steps, guidance_scale=5.0,
            controlnet_conditioning_scale=[0.5, 0.5], ip_adapter_image=reference, **more,
        ).images  # fmt: skip

    def measure(label: str, count: int, work: Callable[[], object], repeats: int = 2) -> None:
        first, best, memory = timed(work, repeats)
        rows.append((label, count, first, best, memory))
        print(
            f"{label:44s} {count} {first:7.2f} {best:7.2f} {best / count:7.2f} s a picture {memory:6.1f} GB", flush=True
        )

    measure("diffusers, one at a time", 1, lambda: stock(1))
    if given.offload_only:
        pipe.enable_model_cpu_offload()
        measure("diffusers with CPU offload, as the prototype", 1, lambda: stock(1), 1)
        return
    measure("diffusers, four at once", 4, lambda: stock(4), 1)
    side = given.side // 8
    noise = torch.randn((4, 4, side, side), generator=torch.Generator().manual_seed(1))
    theirs = stock(1, 2, latents=noise[:1].half().cuda(), output_type="latent")
    pipe.vae.to(torch.bfloat16)  # as gapray's loader
    chosen = SdxlSettings(
        steps=given.steps, control_scale=(0.5, 0.5), control_end=(1.0, 1.0), masked=False, references=1
    )
    backend = Sdxl(pipe, licence="x")
    engine = backend.engine
    prompts, pooled = encoded(pipe, [NEGATIVE, PROMPT])
    controls = [torch.from_numpy(picture).permute(2, 0, 1).float() / 255 for picture in pictures]
    with torch.no_grad():
        tokens = engine.image_tokens(backend._embeds([np.asarray(reference)]))
        zero = engine.image_tokens(backend._encoded(torch.zeros_like(backend._features([np.asarray(reference)]))))
    plain = Picture(prompts, pooled, controls, torch.stack([zero, tokens]), None, noise[0])

    def ours(count: int, settings: SdxlSettings = chosen) -> object:
        # Prompts and reference are encoded every time, as in diffusers' pipeline.
        states, vector = encoded(pipe, [NEGATIVE, PROMPT])
        with torch.no_grad():
            image_tokens = torch.stack([zero, engine.image_tokens(backend._embeds([np.asarray(reference)]))])
        batch = [
            replace(plain, prompts=states, pooled=vector, tokens=image_tokens, noise=noise[index])
            for index in range(count)
        ]
        return backend.decode(engine.denoise(batch, settings))

    short = chosen.model_copy(update={"steps": 2})
    own = engine.denoise([plain], short)
    print(
        f"two steps against diffusers': {float((own - theirs).abs().max() / theirs.abs().max()):.1e} relative",
        flush=True,
    )
    measure("gapray, one at a time, not compiled", 1, lambda: ours(1))
    measure("gapray, four at once, not compiled", 4, lambda: ours(4), 1)
    if not given.no_compile:
        backend.compile()
        own = engine.denoise([plain, *(replace(plain, noise=noise[index]) for index in (1, 2, 3))], short)
        print(
            f"compiled, two steps: {float((own[:1] - theirs).abs().max() / theirs.abs().max()):.1e} relative",
            flush=True,
        )
        measure("gapray, four at once, compiled", 4, lambda: ours(4))
        early = chosen.model_copy(update={"control_end": (0.8, 0.8)})
        measure("gapray, as above, ControlNets end at 80 %", 4, lambda: ours(4, early), 1)
    stock_one = next(best for label, _, _, best, _ in rows if label.startswith("diffusers, one"))
    stock_four = next(best / 4 for label, _, _, best, _ in rows if label.startswith("diffusers, four"))
    print(
        f"\nfloor {FLOOR_S} s a picture\n\n| | pictures at once | s a picture | against diffusers one at a time | four at once | peak GB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for label, count, _, best, memory in rows:
        print(
            f"| {label} | {count} | {best / count:.2f} | {stock_one / (best / count):.2f} x | {stock_four / (best / count):.2f} x | {memory:.1f} |"
        )


if __name__ == "__main__":
    main()
