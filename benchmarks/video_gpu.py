"""Seconds per clip on one GPU: diffusers' own AnimateDiff pipeline and gapray's loop, random weights at real size.

python benchmarks/video_gpu.py [--only NAME…] [--profile] [--package FOLDER]

24 frames, 512 px, 25 steps, guidance, ControlNet, IP-Adapter, half precision. Both run in one process, after a warm-up, timed
with synchronisation; "first" includes compilation, from inductor's cache if an earlier process filled it. `--only` chooses rows
by a part of their name; `--package` also times the geometry of a GAP package on the GPU.
The lower bound is arithmetic: 1,734 TFLOP at 790 TFLOP/s (dense half precision of an H100 SXM or H200) = 2.20 s.
"""

from __future__ import annotations

import argparse
import functools
import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from gapray.orbit.conditions import OrbitConditions, build_conditions
from gapray.orbit.reconstruct import Calibration
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.weights import even_orbit, key_views, view_weights
from gapray.video.animatediff.backend import AnimateDiff
from gapray.video.animatediff.settings import AnimateDiffSettings

F, V, S = 24, 8, 512
FLOOR_S = 2.20
OFF = {
    "start": "noise",
    "view_blend": False,
    "key_frames": False,
    "shared_keys": False,
    "roll": False,
    "composite": False,
}


def ip_state(unet: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """A random base IP-Adapter in h94's layout."""
    draw = lambda *shape: torch.randn(*shape) * 0.02  # noqa: E731
    layers, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor") or "motion_modules" in name:
            continue
        sizes = unet.config.block_out_channels
        block = sizes[::-1] if name.startswith("up") else sizes
        width = sizes[-1] if name.startswith("mid") else block[int(name.split(".")[1])]
        layers[f"{number}.to_k_ip.weight"], layers[f"{number}.to_v_ip.weight"] = draw(width, 768), draw(width, 768)
        number += 2
    projection = {
        "proj.weight": draw(4 * 768, 1024),
        "proj.bias": draw(4 * 768),
        "norm.weight": torch.ones(768),
        "norm.bias": torch.zeros(768),
    }
    return {"image_proj": projection, "ip_adapter": layers}


def words() -> CLIPTokenizer:
    """A tokenizer of single bytes; the meaning of its tokens does not matter here."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    tokens = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77)


def pipeline() -> AnimateDiffControlNetPipeline:
    torch.manual_seed(0)
    with torch.device("cuda"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        controlnet = ControlNetModel.from_unet(unet)
        for layer in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
            torch.nn.init.normal_(layer.weight, std=0.02)
        torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.02)
        adapter = MotionAdapter(motion_max_seq_length=32, use_motion_mid_block=True)
        for name, parameter in adapter.named_parameters():
            if "proj_out" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=16,
                image_size=224,
                patch_size=14,
                projection_dim=1024,
            )
        )
    schedule = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1
    )
    pipe = AnimateDiffControlNetPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=words(),
        unet=unet,
        motion_adapter=adapter,
        controlnet=controlnet,
        scheduler=schedule,
        feature_extractor=CLIPImageProcessor(),
        image_encoder=vision,
    )
    torch.manual_seed(1)
    pipe.load_ip_adapter(ip_state(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(0.8)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.controlnet, pipe.image_encoder):
        module.to("cuda", torch.float16).eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def conditions() -> OrbitConditions:
    rng = np.random.default_rng(0)
    azimuths, captured = even_orbit(F), even_orbit(V)
    references = rng.integers(0, 256, (V, S, S, 3), dtype=np.uint8)
    depth = np.linspace(0, 1, F * S * S, dtype=np.float32).reshape(F, S, S)
    return OrbitConditions(
        azimuths_deg=azimuths,
        depth=depth,
        silhouette=np.full((F, S, S), 255, np.uint8),
        initial=np.repeat(references, F // V, 0),
        visibility=np.full((F, S, S), 128, np.uint8),
        weights=view_weights(azimuths, captured),
        key_views=key_views(azimuths, captured),
        references=references,
        background=(255, 255, 255),
        calibration=Calibration(0, 0, 0, 1, False, False, False, "morph", {}, (1.0,) * V),
        warnings=(),
    )


class Package:
    """A stand-in for a package: the backend only needs the views' azimuths here."""

    product_id = "random"
    views = tuple(type("View", (), {"azimuth_deg": azimuth})() for azimuth in even_orbit(V))


def timed(what: str, work: Callable[[], object], *, runs: int = 2) -> float:
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    first = time.perf_counter() - begun
    torch.cuda.reset_peak_memory_stats()
    spent = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - begun)
    best = min(spent)
    gib = torch.cuda.max_memory_allocated() / 2**30
    print(f"{what:44s} {best:7.2f} s  {best / FLOOR_S:5.2f} x floor  {gib:5.1f} GiB  (first {first:.1f} s)", flush=True)
    return best


def stock_clip(pipe: AnimateDiffControlNetPipeline, orbit: OrbitConditions, **options: object) -> Callable[[], object]:
    depths = [
        Image.fromarray(np.rint(np.repeat(depth[..., None], 3, 2) * 255).astype(np.uint8)) for depth in orbit.depth
    ]
    return lambda: (
        pipe(
            prompt="a product photo",
            negative_prompt="blurry",
            num_frames=F,
            height=S,
            width=S,
            conditioning_frames=depths,
            controlnet_conditioning_scale=1.0,
            ip_adapter_image=Image.fromarray(orbit.references[0]),
            decode_chunk_size=24,
            generator=torch.Generator().manual_seed(0),
            **{"num_inference_steps": 25, "guidance_scale": 7.5, "output_type": "np"} | options,
        ).frames
    )


def our_clip(orbit: OrbitConditions, **changes: object) -> tuple[AnimateDiff, Callable[[], object]]:
    settings = AnimateDiffSettings().model_copy(update=changes)
    backend = AnimateDiff(pipeline(), settings, licence="none")
    return backend, lambda: backend.generate(Package(), orbit, settings)


def equality(pipe: AnimateDiffControlNetPipeline, orbit: OrbitConditions) -> float:
    """Largest relative difference after one step from the same latents."""
    backend, _ = our_clip(orbit, steps=1, prompt="a product photo", negative_prompt="blurry", **OFF)
    clip = backend.clip(Package(), orbit, 0)
    got = backend.engine.denoise([clip], backend.prompts(), backend.blank())
    # diffusers draws noise in half precision, we in single precision: both get ours.
    noise = clip.noise[None].to("cuda", torch.float16)
    want = stock_clip(pipe, orbit, num_inference_steps=1, output_type="latent", latents=noise)()
    return float((got - want).float().abs().max() / want.float().abs().max())


KINDS = {
    "attention": ("sdpa", "fmha", "flash"),
    "convolution": ("implicit_gemm", "fprop", "conv", "wgrad"),
    "matrix product": ("nvjet", "gemm", "cutlass", "cublas"),
    "layout": ("nchwToNhwc", "nhwcToNchw", "copy"),
    "fused (triton)": ("triton",),
}


def profiled(work: Callable[[], object], steps: int) -> None:
    """Print milliseconds per step by kind of kernel, and the longest kernels."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        work()
        torch.cuda.synchronize()
    totals: dict[str, float] = {}
    rows = []
    for event in traced.key_averages():
        spent = event.self_device_time_total / 1000 / steps
        kind = next((kind for kind, marks in KINDS.items() if any(mark in event.key for mark in marks)), "other")
        totals[kind] = totals.get(kind, 0) + spent
        rows.append((spent, event.count / steps, event.key[:110]))
    for kind, spent in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"    {spent:7.1f} ms a step  {kind}")
    for spent, count, name in sorted(rows, reverse=True)[:25]:
        print(f"      {spent:7.2f} ms {count:6.1f} calls  {name}")


def stock(orbit: OrbitConditions, chosen: argparse.Namespace) -> None:
    rows = [name for name in ("stock, eager", "stock, compiled") if chosen.wants(name)]
    if not rows and not chosen.wants("equality"):
        return
    pipe = pipeline()
    if chosen.wants("equality"):
        print(f"one step from the same latents: largest relative difference {equality(pipe, orbit):.1e}", flush=True)
    for name in rows:
        if name.endswith("compiled"):
            pipe.unet.forward = torch.compile(pipe.unet.forward)
            pipe.controlnet.forward = torch.compile(pipe.controlnet.forward)
        timed(name, stock_clip(pipe, orbit))


def ours(orbit: OrbitConditions, chosen: argparse.Namespace) -> None:
    rows: list[tuple[str, dict[str, object]]] = [
        ("ours, same arithmetic, eager", dict(OFF)),
        ("ours, same arithmetic, compiled", OFF | {"compile": True}),
        ("ours, every refinement, compiled", {"start": "morph", "strength": 1.0, "compile": True}),
        ("ours, 4 steps without guidance, compiled", OFF | {"steps": 4, "guidance": 1.0, "compile": True}),
    ]
    for name, changes in rows:
        if not chosen.wants(name):
            continue
        backend, work = our_clip(orbit, **changes)
        timed(name, work)
        clip, prompts, blank = backend.clip(Package(), orbit, 0), backend.prompts(), backend.blank()
        if chosen.profile:
            profiled(functools.partial(backend.engine.denoise, [clip], prompts, blank), backend.engine.settings.steps)
        begun = time.perf_counter()
        latents = backend.engine.denoise([clip], prompts, blank)
        torch.cuda.synchronize()
        middle = time.perf_counter()
        backend.decode(latents[0])
        torch.cuda.synchronize()
        print(f"    loop {middle - begun:.2f} s, decode {time.perf_counter() - middle:.2f} s", flush=True)
        del backend, work
        gc.collect()
        torch.cuda.empty_cache()


def geometry(folder: Path) -> None:
    from gapray.gap.folder import read

    package = read(folder)
    for what in ("first", "second", "third"):
        begun = time.perf_counter()
        build_conditions(package, OrbitSettings(), device="cuda")
        print(f"conditions of 24 frames, {what}: {time.perf_counter() - begun:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[""], help="rows whose name contains one of these")
    parser.add_argument("--profile", action="store_true", help="print the kernels of our loops")
    parser.add_argument("--package", type=Path, help="a GAP package's folder")
    chosen = parser.parse_args()
    chosen.wants = lambda name: any(part in name for part in chosen.only)
    torch.backends.cudnn.benchmark = True
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    if chosen.package:
        geometry(chosen.package)
    orbit = conditions()
    stock(orbit, chosen)
    gc.collect()
    torch.cuda.empty_cache()
    ours(orbit, chosen)


if __name__ == "__main__":
    main()
