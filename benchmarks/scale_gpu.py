"""Views/s of packaging and clips/h of rendering on 1, 2, … GPUs of one host: how much does another GPU add?

    python benchmarks/scale_gpu.py [--gpus 1 2 4] [--products 3000] [--clips 6] [--also run.device_gb=32]

Each number of GPUs gets a Ray of its own, in a process that sees only that many devices (CUDA_VISIBLE_DEVICES) and may run only
on their share of the host's cores (its CPU affinity, and Ray's `num_cpus`): 16 cores a GPU on a host of 32 cores and 2 GPUs.
Otherwise one GPU would be fed by the whole host and every other number would look bad. Work grows with the GPUs (`--products`
and `--clips` are for one GPU), so that each run lasts as long as the first one if scaling is perfect.

Networks have the real architectures and sizes with random weights, which is valid for speed but says nothing about quality.
Masks come from `null-model`, because the mask network runs on the CPU; canny is left out as well. Clips are the profile's own:
24 frames of 512 px, a schedule of 25 steps of which the second half is run from the view morph (`strength` 0.5), eager kernels.

Steady state: for packaging, views between a quarter and nine tenths of the run; for rendering, each worker's clips after its
first one, over the time between the ends of its first and last clip, summed over the workers. Efficiency is rate(n) / (n rate(1)).
"Whole run" begins with Ray up and the manifest written, and includes loading models. `--also` packages again with another setting
on every number of GPUs except the first. `--smoke` tries the script on a machine without a GPU: small photos, no networks, the
view morph instead of AnimateDiff.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # also where gapray is not installed
VIEWS = 8
BODIES = 64
COMPARED = 64
STORE_BYTES = 10 * 2**30
"""Size of the object store for each GPU."""
PACKAGING = (
    "mask.model=null-model",
    "mask.backdrop_key=false",
    "mask.cleanup=false",
    "run.network_batch=64",
    "run.products_per_block=8",
)


def write_photos(root: Path, products: int, side: int) -> None:
    """Write JPEGs with texture and little noise; every file's bytes are unique."""
    rng = np.random.default_rng(0)
    bodies = []
    for _ in range(BODIES):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
        noisy = np.clip(np.asarray(coarse, int) + rng.normal(0, 3, (side, side, 1)), 0, 255).astype(np.uint8)
        sink = io.BytesIO()
        Image.fromarray(noisy).save(sink, "JPEG", quality=90)
        bodies.append(sink.getvalue())

    def write_product(product: int) -> None:
        folder = root / f"sku-{product:05d}"
        folder.mkdir(parents=True)
        for view in range(VIEWS):
            body = bodies[(product * VIEWS + view) % BODIES]
            unique = f"{product}/{view}".encode()
            (folder / f"v_{view * 45:03d}.jpg").write_bytes(body + unique)  # after the end marker: ignored by decoders

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_product, range(products)))
    print(f"{products * VIEWS} photos of {side} px, {sum(map(len, bodies)) / BODIES / 1e3:.0f} kB", flush=True)


def prepare(work: Path, products: int, smoke: bool) -> None:
    """Write photos, their manifest and the networks' weights."""
    from gapray.capture.discover import DiscoverOptions, scan
    from gapray.capture.manifest import write_manifest

    began = time.monotonic()
    write_photos(work / "shoot", products, 256 if smoke else 1024)
    write_manifest(scan(str(work / "shoot"), DiscoverOptions()), str(work / "all.parquet"))
    print(f"photos and manifest: {time.monotonic() - began:.0f} s", flush=True)
    began = time.monotonic()
    (work / "models").mkdir()
    if smoke:
        return
    code = f"from pathlib import Path; from serve_gpu import write_stack; write_stack(Path({str(work / 'models')!r}))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": paths})
    print(f"random weights at real size: {time.monotonic() - began:.0f} s", flush=True)


class Watch:
    """Samples the GPUs and the cores once a second."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, list[float], list[float]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        import psutil

        psutil.cpu_percent(percpu=True)
        while not self._over.wait(1.0):
            gpus: list[float] = []
            if shutil.which("nvidia-smi"):
                ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
                gpus = [float(line) for line in subprocess.check_output(ask, text=True).split()]
            self._samples.append((time.time(), gpus, psutil.cpu_percent(percpu=True)))

    def means(self, window: tuple[float, float], gpus: int, cores: int) -> dict[str, Any]:
        """Mean use of the GPUs and cores that a run had, in percent, within a window of its time."""
        inside = [sample for sample in self._samples if window[0] <= sample[0] <= window[1]]
        if not inside:
            return {"gpu": [], "cpu": 0.0}
        each = [statistics.mean(sample[1][gpu] for sample in inside) for gpu in range(min(gpus, len(inside[0][1])))]
        return {"gpu": each, "cpu": statistics.mean(statistics.mean(sample[2][:cores]) for sample in inside)}


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a process of its own, on its share of the host."""
    result = Path(job["result"])
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(job["gpus"]))),
        "GAPRAY_MODELS": f"{job['work']}/models",
        "GAPRAY_CACHE": f"{job['work']}/cache",
        "GAPRAY_LOG": "debug" if job["kind"] == "render" else "info",
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_worker_niceness": "0",
        "RAY_memory_monitor_refresh_ms": "0",  # some hosts show little memory until it is used
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("RAY_ADDRESS", None)
    with Watch() as watch:
        subprocess.run(
            [sys.executable, __file__, "--job", json.dumps(job)],
            check=True,
            env=environment,
            preexec_fn=None if job["smoke"] else lambda: os.sched_setaffinity(0, job["cores"]),
        )
        told: dict[str, Any] = json.loads(result.read_text())
    told |= watch.means(tuple(told["window"]), job["gpus"], len(job["cores"]))
    use = "/".join(f"{percent:.0f}" for percent in told["gpu"]) or "-"
    print(
        f"{job['label']}: {told['rate']:.1f} steady, {told['whole']:.1f} whole, {told['seconds']:.0f} s, GPU {use} %, "
        f"cores {told['cpu']:.0f} %, loads {told['loads']}, stages {told['stages']}",
        flush=True,
    )
    return told


def work_on(job: dict[str, Any]) -> None:
    """Run one job with one Ray; called in the child process."""
    import ray

    from gapray.profile import load_profile

    shared = shutil.disk_usage("/dev/shm").free
    logs = Path(job["ray"])
    ray.init(
        "local",
        num_cpus=4 * job["gpus"] if job["smoke"] else len(job["cores"]),
        num_gpus=0 if job["smoke"] else job["gpus"],
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=int(min(STORE_BYTES * job["gpus"], shared * 0.8, 2**29 if job["smoke"] else 2**62)),
        _temp_dir=str(logs),
    )
    profile = load_profile("sd15", overrides=job["overrides"], environment={})
    told = (packaged if job["kind"] == "package" else rendered)(job, profile, logs)
    ray.shutdown()
    Path(job["result"]).write_text(json.dumps(told))


def packaged(job: dict[str, Any], profile: Any, logs: Path) -> dict[str, Any]:
    """Views/s of `gapray.package`; checks that every product is there once."""
    import gapray

    seen: list[tuple[float, int]] = []
    began = time.time()
    summary = gapray.package(
        job["manifest"], out=job["catalog"], profile=profile, on_progress=lambda s: seen.append((time.time(), s.views))
    )
    seconds = time.time() - began
    names = gapray.open_catalog(job["catalog"]).dataset("products").to_table(columns=["product_id"])["product_id"]
    assert summary.rejected == 0, summary.rejects
    assert len(names) == len(names.unique()) == summary.packaged == job["products"], (len(names), summary)
    assert summary.views == job["products"] * VIEWS
    first = next(progress for progress in seen if progress[1])
    begin = next(progress for progress in seen if progress[1] >= summary.views * 0.25)
    end = next(progress for progress in seen if progress[1] >= summary.views * 0.9)
    told = recorded(job, logs, unit=summary.views)
    return told | {
        "whole": summary.views / seconds,
        "rate": (end[1] - begin[1]) / max(1e-9, end[0] - begin[0]),
        "first": first[0] - began,
        "seconds": seconds,
        "window": (begin[0], end[0]),
    }


def rendered(job: dict[str, Any], profile: Any, logs: Path) -> dict[str, Any]:
    """Clips/h of `gapray.render`; checks that every video is there once."""
    import gapray

    names = sorted(gapray.open_catalog(job["catalog"]).products()["product_id"].to_pylist())[: job["clips"]]
    began = time.time()
    summary = gapray.render(job["catalog"], profile=profile, products=names)
    seconds = time.time() - began
    videos = gapray.open_catalog(job["catalog"]).dataset("videos").to_table(columns=["product_id"])["product_id"]
    assert summary.rejected == 0, summary.rejects
    assert sorted(videos.to_pylist()) == names, videos
    ends: dict[str, list[tuple[float, float]]] = {}
    for worker, line in log_lines(logs):
        if line["message"] == "stage done" and line["stage"] == "render.draw":
            ends.setdefault(worker, []).append((datetime.fromisoformat(line["time"]).timestamp(), line["seconds"]))
    rate, warm, later = 0.0, [], []
    for spans in ends.values():
        spans.sort()
        warm.append(spans[0][1])
        later += [span[1] for span in spans[1:]]
        if len(spans) > 1:
            rate += 3600 * (len(spans) - 1) / (spans[-1][0] - spans[0][0])
    told = recorded(job, logs, unit=len(names))
    return told | {
        "whole": 3600 * len(names) / seconds,
        "rate": rate,
        "first": statistics.mean(warm),
        "draw": statistics.mean(later) if later else 0.0,
        "clips_by_worker": [len(spans) for spans in ends.values()],
        "seconds": seconds,
        "window": (min(spans[0][0] for spans in ends.values()), max(spans[-1][0] for spans in ends.values())),
    }


def recorded(job: dict[str, Any], logs: Path, *, unit: int) -> dict[str, Any]:
    """Summarise the run's record and its workers' logs: milliseconds by stage for each item, loading times, spilling."""
    from gapray.catalog.runs import runs
    from gapray.catalog.storage import Folder

    record = runs(Folder.at(job["catalog"]), limit=1)[0]
    assert record["state"] == "finished", record["error"]
    loads: dict[str, list[float]] = {}
    for _, line in log_lines(logs):
        if line["message"] == "models loaded":
            loads.setdefault(line["stage"].partition(".")[2], []).append(round(line["seconds"], 1))
    return {
        "spilled": record["spilled_bytes"],
        "stages": {
            name.partition(".")[2]: round(1000 * totals["seconds"] / unit, 2)
            for name, totals in record["stages"].items()
        },
        "loads": {stage: (min(seconds), max(seconds)) for stage, seconds in loads.items()},
    }


def log_lines(logs: Path) -> list[tuple[str, dict[str, Any]]]:
    """JSON lines that workers logged, each with its worker."""
    found = []
    for path in logs.glob("session_2*/logs/worker-*.err"):
        lines = path.read_text(errors="replace").splitlines()
        found += [(path.stem, json.loads(line)) for line in lines if line.startswith('{"time"')]
    return found


def compared(first: str, second: str, videos: bool) -> dict[str, Any]:
    """Compare the first products of two catalogues, column by column, and videos by PSNR where their bytes differ."""
    from gapray.catalog.reader import open_catalog
    from gapray.gap.images import decode_grey16
    from gapray.video.decode import read_frames

    left, right = open_catalog(first), open_catalog(second)
    homes = [{row["product_id"]: row for row in side.parts_of_views().to_pylist()} for side in (left, right)]
    names = sorted(homes[0])
    told: dict[str, Any] = {"products": 0, "equal": 0, "depth_steps": 0, "identity": 0.0}
    for name in names[:: max(1, len(names) // COMPARED)]:
        here, there = homes[0][name], homes[1][name]
        assert here["key"] == there["key"], name
        pairs = zip(
            sorted(left.views_of(name, here["key"], here["part"]), key=lambda row: row["azimuth_deg"]),
            sorted(right.views_of(name, there["key"], there["part"]), key=lambda row: row["azimuth_deg"]),
            strict=True,
        )
        same = True
        for a, b in pairs:
            assert all(a[column] == b[column] for column in ("reference", "mask", "canny", "sha256")), name
            steps = np.abs(decode_grey16(a["depth"]).astype(int) - decode_grey16(b["depth"])).max()
            far = np.abs(np.asarray(a["identity"]) - np.asarray(b["identity"])).max()
            told["depth_steps"], told["identity"] = (
                max(told["depth_steps"], int(steps)),
                max(told["identity"], float(far)),
            )
            same = same and steps == 0 and far == 0
        told["products"] += 1
        told["equal"] += int(same)
    if videos:
        rows = [{row["key"]: row for row in side.dataset("videos").to_table().to_pylist()} for side in (left, right)]
        shared = sorted(set(rows[0]) & set(rows[1]))
        worst, equal = float("inf"), 0
        for key in shared:
            [name] = [file for file in rows[0][key]["files"] if file.endswith(".mp4")]
            paths = [Path(folder) / name for folder in (first, second)]
            if paths[0].read_bytes() == paths[1].read_bytes():
                equal += 1
                continue
            frames = [np.stack(read_frames(path)).astype(float) for path in paths]
            error = max(1e-12, float(np.mean((frames[0] - frames[1]) ** 2)))
            worst = min(worst, 10 * math.log10(255**2 / error))
        told |= {"videos": len(shared), "videos_of": len(rows[0]), "videos_equal": equal, "least_psnr": worst}
    return told


def shares(counts: list[int], gpus: int | None) -> dict[int, list[int]]:
    """Cores for each number of GPUs: as many for each GPU as the host has."""
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // max(gpus or 1, max(counts))
    return {count: cores[: each * count] for count in counts}


def table(results: dict[str, dict[str, Any]], counts: list[int]) -> None:
    """Print one table of all results."""
    print("| what | GPUs | steady | whole run | efficiency | first s | load s | GPU % | cores % | spilled |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for label, told in results.items():
        kind, count = told["kind"], told["gpus"]
        base = results.get(f"{kind} {counts[0]}")
        efficiency = told["rate"] * counts[0] / (count * base["rate"]) if base and base["rate"] else float("nan")
        unit = "views/s" if kind == "package" else "clips/h"
        load = told["loads"].get("describe" if kind == "package" else "draw", (0, 0))[1]
        use = "/".join(f"{percent:.0f}" for percent in told["gpu"]) or "-"
        print(
            f"| {label.replace(f' {count}', '', 1)} | {count} | {told['rate']:.1f} {unit} | {told['whole']:.1f} {unit} | {efficiency:.3f} "
            f"| {told['first']:.1f} | {load:.1f} | {use} | {told['cpu']:.0f} | {told['spilled'] / 1e9:.1f} GB |"
        )
    names = sorted({stage for told in results.values() for stage in told["stages"]})
    print("\n| worker ms a view or clip | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for label, told in results.items():
        print(f"| {label} | " + " | ".join(f"{told['stages'].get(name, 0):.1f}" for name in names) + " |")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    options.add_argument("--products", type=int, default=3000, help="for one GPU")
    options.add_argument("--clips", type=int, default=6, help="for one GPU; 0 = no rendering")
    options.add_argument("--set", action="append", default=[], help="a setting for all packaging runs")
    options.add_argument("--also", action="append", default=[], help="package again with this setting")
    options.add_argument("--only", choices=("prepare", "package", "render"), action="append")
    options.add_argument("--work", type=Path, default=Path("/tmp/gapray-scale"), help="continues with what is there")
    options.add_argument("--smoke", action="store_true")
    options.add_argument("--job", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.job:
        work_on(json.loads(chosen.job))
        return
    counts, work, smoke = sorted(chosen.gpus), chosen.work, chosen.smoke
    steps = chosen.only or ["prepare", "package", "render"]
    name, there = "no GPU", None
    if not smoke:
        asked = subprocess.check_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], text=True)
        name, there = asked.splitlines()[0], len(asked.splitlines())
        counts = [count for count in counts if count <= there]
    cores = shares(counts, there)
    print(
        f"{there or 0} x {name}, {len(os.sched_getaffinity(0))} cores, {len(cores[counts[0]])} for {counts[0]} GPU",
        flush=True,
    )
    if "prepare" in steps:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        prepare(work, chosen.products * counts[-1], smoke)
    kept = work / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}

    def run(label: str, job: dict[str, Any]) -> None:
        number = len(list(work.glob("r*.json")))
        job |= {"label": label, "work": str(work), "smoke": smoke, "cores": cores[job["gpus"]]}
        job |= {"result": str(work / f"r{number}.json"), "ray": f"/tmp/gs{os.getpid()}-{number}"}
        results[label] = {"kind": job["kind"], "gpus": job["gpus"]} | measured(job)
        kept.write_text(json.dumps(results))

    null = ["depth.model=null-model", "identity.model=null-model"] if smoke else []
    common = [*PACKAGING, *null, "decode.reference_side=512", *chosen.set]
    variants = [([], count) for count in counts] + [([also], count) for also in chosen.also for count in counts[1:]]
    for extra, count in variants if "package" in steps else []:
        import pyarrow.parquet as pq

        manifest = work / f"manifest-{count}.parquet"
        pq.write_table(pq.read_table(work / "all.parquet").slice(0, chosen.products * count), manifest)
        label = " ".join(["package", str(count), *extra])
        catalog = str(work / "-".join(["catalog", str(count), *(setting.replace("=", "_") for setting in extra)]))
        job = {"kind": "package", "gpus": count, "manifest": str(manifest), "catalog": catalog}
        run(label, job | {"products": chosen.products * count, "overrides": [*common, *extra]})
    backend = ["video.backend=morph", "orbit.size=64", "orbit.voxels=32", "orbit.frames=8"] if smoke else []
    for count in counts if "render" in steps and chosen.clips else []:
        job = {
            "kind": "render",
            "gpus": count,
            "catalog": str(work / f"catalog-{count}"),
            "clips": chosen.clips * count,
        }
        run(f"render {count}", job | {"overrides": [*common, "run.videos_per_part=1", *backend]})
    print(f"\n{there or 0} x {name}, {len(cores[counts[0]]) // counts[0]} cores a GPU\n")
    if results:
        table(results, counts)
        first = str(work / f"catalog-{counts[0]}")
        for other in sorted(work.glob("catalog-*")):
            if str(other) != first:
                with_videos = (other / "videos").is_dir() and (Path(first) / "videos").is_dir()
                print(f"\n{Path(first).name} against {other.name}: {compared(first, str(other), with_videos)}")


if __name__ == "__main__":
    main()
