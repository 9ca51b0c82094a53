"""Run `serve_configs/sd15-1gpu.yaml` on one GPU with random weights at real size: do all replicas fit, what does HTTP add, and
does a scorer that exceeds its share of memory affect the others?

python benchmarks/serve_gpu.py [--clips 3] [--set NAME=VALUE…]

Random weights are valid for speed and memory, but say nothing about quality. The mask network is left out (`null-model`): it
runs on the CPU. LPIPS needs its real backbone (`GAPRAY_MODELS` or the store).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "gapray" / "serve" / "page" / "sample"
PORT = 8199


def write_stack(root: Path) -> None:
    """Write SD 1.5, AnimateDiff, ControlNet, IP-Adapter Plus, Depth-Anything and CLIP at real size, where cards find them."""
    import json

    from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter, UNet2DConditionModel
    from package_gpu import write_networks
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    from tests.video.tiny import ip_state, original_motion_state, vocabulary

    write_networks(root)
    with torch.device("cuda"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).half()
        controlnet = ControlNetModel.from_unet(unet).half()
        motion = MotionAdapter(motion_max_seq_length=32, use_motion_mid_block=True).half()
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
        ).half()
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary()),
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                bos_token_id=vocabulary()["<|startoftext|>"],
                eos_token_id=vocabulary()["<|endoftext|>"],
                pad_token_id=vocabulary()["<|endoftext|>"],
            )
        ).half()
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
        ).half()
    base = root / "stable-diffusion-v1-5"
    for name, module in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        module.save_pretrained(base / name)
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary()))
    (base / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    controlnet.save_pretrained(root / "controlnet-depth-sd15")
    (root / "mm-sd-v15-v2").mkdir()
    torch.save({"state_dict": original_motion_state(motion)}, root / "mm-sd-v15-v2" / "mm_sd_v15_v2.ckpt")
    card = root / "ip-adapter-plus-sd15"
    vision.save_pretrained(card / "image_encoder")
    state = ip_state(unet, True, encoder_width=1280, tokens=16)
    flat = {
        f"{group}.{key}": value.half().contiguous() for group, inner in state.items() for key, value in inner.items()
    }
    save_file(flat, card / "ip-adapter-plus_sd15.safetensors")
    del unet, controlnet, motion, vae, text, vision
    torch.cuda.empty_cache()


def used_gb() -> float:
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def clip_over_http(form: list) -> tuple[float, dict]:
    began = time.monotonic()
    video = requests.post(f"http://127.0.0.1:{PORT}/v1/videos", files=form, data={"format": "webp"}, timeout=60).json()[
        "id"
    ]
    while True:
        told = requests.get(f"http://127.0.0.1:{PORT}/v1/videos/{video}", timeout=20).json()
        if told["status"] in ("completed", "failed"):
            return time.monotonic() - began, told
        time.sleep(0.05)


def force_the_scorer(form: list) -> list[tuple[str, str]]:
    """Send pictures that do not fit into a tenth of the GPU directly to the scorer's handle, while a clip is being drawn."""
    from ray import serve

    from gapray.fidelity.shown import NormalizedView
    from gapray.serve.work import find_gapray_error

    side = 8192
    blank = np.zeros((side, side), np.uint8)
    pictures = [NormalizedView(45.0 * step, np.full((side, side, 3), 9 * step, np.uint8), blank) for step in range(8)]
    video = requests.post(f"http://127.0.0.1:{PORT}/v1/videos", files=form, data={"format": "webp"}, timeout=60).json()[
        "id"
    ]
    try:
        serve.get_deployment_handle("scorer", "gapray").judge_foreign.remote(pictures, pictures).result(timeout_s=300)
        said = "no error: the pictures fitted"
    except Exception as error:
        known = find_gapray_error(error)
        said = f"{known.code}: {known.message[:120]}" if known else f"{type(error).__name__}: {str(error)[:300]}"
    while True:
        told = requests.get(f"http://127.0.0.1:{PORT}/v1/videos/{video}", timeout=20).json()
        if told["status"] in ("completed", "failed"):
            break
        time.sleep(0.2)
    scores = told["gap"].get("scores", {})
    lived = f"clip beside it {told['status']}, its scores {'error ' + scores['error']['code'] if 'error' in scores else 'there'}"
    return [("scorer beyond its share", said), ("… and the generator", lived)]


def direct(settings: dict, clips: int) -> list[float]:
    from gapray.serve.jobs import GenerationParams, JobInput
    from gapray.serve.local import LocalWorkers
    from gapray.serve.runpod_handler import local_job
    from gapray.serve.settings import serve_settings
    from gapray.serve.work import run_job

    chosen = serve_settings(settings).resolved()
    workers = LocalWorkers(chosen)

    async def silent(stage: str, percent: int) -> None:
        del stage, percent

    captures = sorted(Path(str(chosen.artifacts)).glob("uploads/*/capture.zip"))
    job = local_job(
        "0" * 32, GenerationParams(format="webp"), JobInput(capture=str(captures[0].relative_to(str(chosen.artifacts))))
    )
    spent = []
    for _ in range(clips + 1):
        began = time.monotonic()
        asyncio.run(run_job(job, workers, silent))
        torch.cuda.synchronize()
        spent.append(time.monotonic() - began)
    return spent[1:]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--clips", type=int, default=3)
    options.add_argument("--set", action="append", default=[])
    chosen = options.parse_args()
    state = Path(tempfile.mkdtemp())
    mirror = state / "models"
    mirror.mkdir()
    given = os.environ.get("GAPRAY_MODELS")
    if given:
        for path in Path(given).iterdir():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, mirror / path.name)
    os.environ |= {"GAPRAY_MODELS": str(mirror), "GAPRAY_STATE": str(state), "HF_HUB_OFFLINE": "1"}
    os.environ |= {"RAY_worker_niceness": "0", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    began = time.monotonic()
    write_stack(mirror)
    print(f"random weights at real size: {time.monotonic() - began:.0f} s", flush=True)

    import ray
    from ray import serve

    from gapray.serve.deployments import build

    config = yaml.safe_load((ROOT / "serve_configs" / "sd15-1gpu.yaml").read_text())
    arguments = config["applications"][0]["args"] | {"open": True}
    arguments["overrides"] = ["mask.model=null-model", *chosen.set]
    name = torch.cuda.get_device_name()
    before = used_gb()
    ray.init("local", num_gpus=1, include_dashboard=False, object_store_memory=4 * 2**30)
    began = time.monotonic()
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "request_timeout_s": None})
    serve.run(build(arguments), name="gapray", route_prefix="/")
    rows = [
        ("deployed and warmed up", f"{time.monotonic() - began:.0f} s"),
        ("memory of all replicas", f"{used_gb() - before:.1f} GB"),
    ]
    deployed = serve.status().applications["gapray"].deployments
    rows.append(("replicas", ", ".join(f"{deployment} {state.status.value}" for deployment, state in deployed.items())))
    form = [("input_reference[]", (path.name, path.read_bytes(), "image/jpeg")) for path in sorted(SAMPLE.iterdir())]
    over, inside = [], []
    for index in range(chosen.clips + 1):
        took, told = clip_over_http(form)
        assert told["status"] == "completed", told
        scores = told["gap"]["scores"]
        print(
            f"clip {index}: {took:.2f} s, stages {told['gap']['seconds']}, scores {scores.get('error') or scores['lpips']}",
            flush=True,
        )
        if index:
            over.append(took)
            inside.append(took - sum(told["gap"]["seconds"].values()))
    rows.append(("memory while clips are made", f"{used_gb() - before:.1f} GB"))
    rows += force_the_scorer(form)
    took, told = clip_over_http(form)
    rows.append(
        (
            "a clip after that",
            f"{told['status']}, {took:.2f} s, scores {'error' if 'error' in told['gap']['scores'] else 'there'}",
        )
    )
    serve.shutdown()
    ray.shutdown()
    time.sleep(3)
    plain = direct(arguments, chosen.clips)
    rows.append(
        (
            "clip with scores over HTTP / direct, medians",
            f"{statistics.median(over):.2f} / {statistics.median(plain):.2f} s",
        )
    )
    rows.append(("… of it outside the stages", f"{statistics.median(inside):.2f} s"))
    print(f"\n| {name}, torch {torch.__version__} | |\n| --- | --- |")
    for what, value in rows:
        print(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
