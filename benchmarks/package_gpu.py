"""Depth and identity through the pipeline, compared with a plain loop over the same networks, on one GPU, in one run.

Networks have the real architectures and sizes (Depth-Anything-V2-Small, CLIP ViT-B/32) with random weights, which is valid
for speed but says nothing about quality. Photos are JPEGs of one megapixel; masks come from `null-model`, because the mask
network runs on the CPU and is not measured here.

    python benchmarks/package_gpu.py [PRODUCTS] [REFERENCE_SIDE]
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

VIEWS = 8
BATCH = 64


def write_photos(root: Path, products: int) -> None:
    """Write JPEGs of 1024 x 1024 with texture; every file's bytes are unique."""
    rng = np.random.default_rng(0)
    bodies = []
    for _ in range(32):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).resize((1024, 1024), Image.BICUBIC)
        noisy = np.clip(np.asarray(coarse, int) + rng.normal(0, 9, (1024, 1024, 1)), 0, 255).astype(np.uint8)
        sink = io.BytesIO()
        Image.fromarray(noisy).save(sink, "JPEG", quality=90)
        bodies.append(sink.getvalue())
    for product in range(products):
        folder = root / f"sku-{product:05d}"
        folder.mkdir(parents=True)
        for view in range(VIEWS):
            unique = f"{product}/{view}".encode()
            body = bodies[(product * VIEWS + view) % len(bodies)]
            (folder / f"v_{view * 45:03d}.jpg").write_bytes(body + unique)  # after the end marker: ignored by decoders
    print(f"{products * VIEWS} photos of {len(bodies[0]) / 1e3:.0f} kB")


def write_networks(root: Path) -> None:
    """Write random weights of the real sizes where `GAPRAY_MODELS` finds them."""
    import open_clip
    from safetensors.torch import save_file
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(backbone_config=backbone, neck_hidden_sizes=[48, 96, 192, 384], fusion_hidden_size=64)
    DepthAnythingForDepthEstimation(config).save_pretrained(root / "depth-anything-v2-small")
    (root / "clip-vit-b-32-openai").mkdir()
    clip = open_clip.create_model("ViT-B-32", force_quick_gelu=True)
    save_file(clip.state_dict(), root / "clip-vit-b-32-openai" / "open_clip_model.safetensors")


def plain_loop(settings, photos: list[Path], views: int) -> dict[str, float]:
    """Views/s of the two networks in one process: alone, and with decoding before them."""
    from gapray.capture.decode import decode_photo
    from gapray.models.depth import MaskedSet
    from gapray.models.load import load_depth, load_identity
    from gapray.models.mask import NullMask
    from gapray.packaging.steps import work_image

    depth = load_depth(settings, device="cuda", batch=BATCH)
    identity = load_identity(settings, device="cuda", batch=BATCH)
    started = time.perf_counter()
    work = []
    for path in photos[:BATCH]:
        pixels = decode_photo(path.read_bytes(), settings.decode)
        work.append(work_image(pixels, NullMask().predict([pixels])[0], settings.depth.work_side))
    decode_rate = BATCH / (time.perf_counter() - started)
    masked_set = MaskedSet(work, [0.0] * BATCH)
    for _ in range(3):
        depth.predict([masked_set]), identity.predict(work)
    torch.cuda.synchronize()
    started = time.perf_counter()
    rounds = max(1, views // BATCH)
    for _ in range(rounds):
        depth.predict([masked_set])
        identity.predict(work)
    torch.cuda.synchronize()
    networks = rounds * BATCH / (time.perf_counter() - started)
    reference = depth.predict([masked_set])[0]
    assert all(np.isfinite(view).all() for view in reference)
    del depth, identity
    torch.cuda.empty_cache()
    return {"networks alone": networks, "decode on one core": decode_rate}


def pipeline(source: Path, out: Path, overrides: list[str]) -> dict[str, float]:
    """Views/s of `gapray.package`: over the whole run, and between a quarter and nine tenths of it."""
    import gapray
    from gapray.profile import load_profile

    seen: list[tuple[float, int]] = []
    started = time.perf_counter()
    profile = load_profile("sd15", overrides=overrides, environment={})
    summary = gapray.package(
        source, out=out, profile=profile, on_progress=lambda s: seen.append((time.perf_counter(), s.views))
    )
    total = time.perf_counter() - started
    assert summary.rejected == 0, summary.rejects
    begin = next(progress for progress in seen if progress[1] >= summary.views * 0.25)
    end = next(progress for progress in seen if progress[1] >= summary.views * 0.9)
    return {"whole run": summary.views / total, "steady state": (end[1] - begin[1]) / (end[0] - begin[0])}


def main() -> None:
    products = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 512
    root = Path(tempfile.mkdtemp(prefix="gapray-gpu-"))
    os.environ["GAPRAY_MODELS"], os.environ["GAPRAY_CACHE"] = str(root / "models"), str(root / "cache")
    (root / "models").mkdir()
    from gapray.profile import load_profile

    write_photos(root / "shoot", products)
    write_networks(root / "models")
    overrides = [
        "mask.model=null-model",
        "mask.backdrop_key=false",
        "mask.cleanup=false",
        f"decode.reference_side={side}",
        "run.network_batch=64",
        "run.products_per_block=8",
        *sys.argv[3:],
    ]
    settings = load_profile("sd15", overrides=overrides, environment={}).packaging
    photos = sorted((root / "shoot").rglob("*.jpg"))
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, torch {torch.__version__}")
    rates = plain_loop(settings, photos, 2048)
    rates |= {f"pipeline, {name}": rate for name, rate in pipeline(root / "shoot", root / "catalog", overrides).items()}
    for name, rate in rates.items():
        print(f"{name:28s} {rate:9.1f} views/s   {rate / rates['networks alone']:.3f} of the plain loop")
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
