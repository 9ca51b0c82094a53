"""Compare `gapray package` with a plain loop, with rembg's own command, and with itself at a hundred times the size. One run.

    python benchmarks/package.py speed [PRODUCTS]      views/s at 8 views a product (default 25: 200 views)
    python benchmarks/package.py growth [COUNT …]      overhead a product with null models (default 100 1000 10000)

`speed` runs the plain loop in this process, the pipeline in another, and ``rembg p`` in a temporary environment, made by uv if
it is installed. The whole run includes loading the models on both sides and, on ours, the start of five processes on a Ray
that is already running, as on a cluster; one line adds the start of Ray itself. Steady state counts parts as they are committed
between a quarter and nine tenths of the products, so it also counts what earlier stages had done ahead.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model"]


def copies_of_samples(root: Path, products: int) -> Path:
    """Copies of the samples' captures, with each photo's bytes made unique."""
    for index in range(products):
        source = ROOT / "samples" / "captures" / ("mug", "supplement")[index % 2]
        folder = root / f"sku-{index:04d}"
        folder.mkdir(parents=True)
        for photo in source.iterdir():
            (folder / photo.name).write_bytes(photo.read_bytes() + str(index).encode())
    return root


def tiny_products(root: Path, products: int) -> Path:
    """Products of eight 64-pixel photos, so that the time measured is that of the pipeline itself."""
    rng = np.random.default_rng(0)
    bodies = [cv2.imencode(".jpg", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes() for _ in range(8)]
    for index in range(products):
        folder = root / f"sku-{index:05d}"
        folder.mkdir(parents=True)
        for view, body in enumerate(bodies):
            (folder / f"v_{view * 45:03d}.jpg").write_bytes(body + f"{index}/{view}".encode())
    return root


def plain_loop(source: Path, out: Path) -> dict[str, float]:
    """Load the models, then package and commit products one after the other, in one process."""
    from gapray.capture.discover import discover
    from gapray.catalog.import_package import import_package
    from gapray.catalog.storage import Folder
    from gapray.packaging.build import PackagingModels, build_package
    from gapray.profile import load_profile

    started = time.perf_counter()
    settings = load_profile("classic", environment={}).packaging
    models = PackagingModels.load(settings, device="cpu", threads=os.cpu_count() or 1)
    loaded, views = time.perf_counter(), 0
    for capture in discover(str(source)):
        package = build_package(capture, models, settings)
        import_package(Folder.at(str(out)), package, uri=capture.uri)
        views += len(package.views)
    end = time.perf_counter()
    return {"whole run": views / (end - started), "steady state": views / (end - loaded)}


def pipeline(source: Path, out: Path, overrides: list[str]) -> dict[str, float]:
    """Run `gapray.package` and record the times at which parts are committed."""
    import ray

    import gapray
    from gapray.profile import load_profile

    profile = load_profile("classic", overrides=overrides, environment={})
    seen: list[tuple[float, int, int]] = []
    before = time.perf_counter()
    ray.init("local", include_dashboard=False, log_to_driver=False)
    started = time.perf_counter()
    summary = gapray.package(
        source,
        out=out,
        profile=profile,
        on_progress=lambda s: seen.append((time.perf_counter(), s.views, s.done)),
    )
    total = time.perf_counter() - started
    assert summary.rejected == 0, summary.rejects
    begin = next(progress for progress in seen if progress[1] >= summary.views * 0.25)
    end = next(progress for progress in seen if progress[1] >= summary.views * 0.9)
    return {
        "whole run": summary.views / total,
        "with Ray's start": summary.views / (total + started - before),
        "steady state": (end[1] - begin[1]) / max(end[0] - begin[0], 1e-9),
        "seconds": total,
        "steady seconds a product": (end[0] - begin[0]) / max(end[2] - begin[2], 1),
        "driver MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def rembg_command(source: Path, weights: Path) -> float | None:
    """Views/s of ``rembg p`` with the same weights, in an environment of its own; None without uv."""
    uv = shutil.which("uv")
    if uv is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        environment, home = Path(folder) / "env", Path(folder) / "home"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
        python = str(environment / "bin" / "python")
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "rembg[cpu,cli]"]
        subprocess.run(install, check=True)
        (home / "models" / "u2netp").mkdir(parents=True)
        shutil.copy(weights, home / "models" / "u2netp" / "u2netp.onnx")
        flat, out = Path(folder) / "in", Path(folder) / "out"
        flat.mkdir()
        for photo in source.rglob("*.jpg"):
            shutil.copy(photo, flat / f"{photo.parent.name}-{photo.name}")
        command = [str(environment / "bin" / "rembg"), "p", "-m", "u2netp", "-om", str(flat), str(out)]
        settings = os.environ | {"REMBG_HOME": str(home)}
        one = Path(folder) / "one"
        one.mkdir()
        shutil.copy(next(flat.iterdir()), one)
        subprocess.run([*command[:-2], str(one), str(out)], check=True, env=settings, capture_output=True)  # compiles
        started = time.perf_counter()
        subprocess.run(command, check=True, env=settings, capture_output=True)
        return len(list(flat.iterdir())) / (time.perf_counter() - started)


def in_another_process(mode: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, mode, *arguments], check=True, capture_output=True, text=True, cwd=ROOT
    )
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def speed(products: int) -> None:
    from gapray.models.cards import card_named
    from gapray.models.store import locate

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = copies_of_samples(root / "shoot", products)
        plain = in_another_process("plain", str(source), str(root / "plain"))
        ours = in_another_process("ours", str(source), str(root / "ours"))
        command = rembg_command(source, locate(card_named("u2netp")).files["u2netp.onnx"])
    print(f"{products * 8} views of 768 px, {os.cpu_count()} cores, profile classic")
    for name, against in (
        ("with Ray's start", "whole run"),
        ("whole run", "whole run"),
        ("steady state", "steady state"),
    ):
        ratio = ours[name] / plain[against]
        print(f"{name:16s} gapray {ours[name]:6.2f} views/s, plain loop {plain[against]:6.2f}, ratio {ratio:.3f}")
    print(f"rembg p, masks alone: {command:.2f} views/s" if command else "rembg p: not measured, no uv")


def growth(counts: list[int]) -> None:
    print("products  seconds  ms a product (whole)  ms a product (steady)  driver MB")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            source = tiny_products(Path(folder) / "shoot", count)
            found = in_another_process("null", str(source), str(Path(folder) / "catalog"))
        whole, steady = 1e3 * found["seconds"] / count, 1e3 * found["steady seconds a product"]
        print(f"{count:8d} {found['seconds']:8.1f} {whole:21.1f} {steady:22.1f} {found['driver MB']:10.0f}", flush=True)


def main() -> None:
    mode, arguments = (sys.argv[1] if len(sys.argv) > 1 else "speed"), sys.argv[2:]
    if mode == "plain":
        print(json.dumps(plain_loop(Path(arguments[0]), Path(arguments[1]))))
    elif mode == "ours":
        print(json.dumps(pipeline(Path(arguments[0]), Path(arguments[1]), ["run.products_per_part=2"])))
    elif mode == "null":
        small = ["run.products_per_part=128", "run.products_per_block=64", "mask.backdrop_key=false"]
        print(json.dumps(pipeline(Path(arguments[0]), Path(arguments[1]), [*NULL, *small])))
    elif mode == "growth":
        growth([int(count) for count in arguments] or [100, 1000, 10000])
    else:
        speed(int(arguments[0]) if arguments else 25)


if __name__ == "__main__":
    main()
