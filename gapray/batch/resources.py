"""Resource planning: how many workers each stage has, and the CPUs and GPU memory of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from gapray.errors import ResourceError
from gapray.models.cards import WEIGHTLESS, card_named
from gapray.profile import Profile

CORES_PER_WORKER = 2
"""Cores for each worker of a heavy stage, because a worker takes 10 CPU-seconds to start (rembg, Ray Data)."""
MASK_CPU = 0.5
"""Minimum logical CPUs of a mask actor. Less than its cores, because the read tasks need a whole CPU: logical CPUs only limit
what Ray runs at once, while the operating system shares the cores. On larger clusters it gets more (`_cpus_per_worker`)."""
LIGHT_CPU = 0.125
"""Logical CPUs of every other actor and task, which wait more than they compute."""
RENDER_CPU = 0.5
"""Minimum logical CPUs of a render worker; less than its cores for the same reason as `MASK_CPU`."""
READ_CPU = 1.0
"""Logical CPUs of Ray Data's own tasks that list, read and split the manifest, which cannot be reduced."""
DESCRIBE_PER_GPU = 2
"""Depth and identity actors that share a GPU, because a single actor stalls while it unpacks. Throughput relative to a plain
loop over the same networks (H200, 16 cores): 0.53 with one actor, 0.92 with two, 0.98 with three (benchmarks/package_gpu.py)."""
SCORE_GB = 4.0
"""GPU memory of a scorer [GB]. LPIPS of 64 pairs at 256 pixels peaks at 1.15 GB (H200, benchmarks/score.py); the context adds
0.5 GB."""
DEFAULT_VRAM_GB = 8.0
"""GPU memory reserved for a network whose card has no measured figure [GB]."""


@contextmanager
def preserved_thread_counts() -> Iterator[None]:
    """Restore the thread counts of torch and OpenCV when the block ends, for stages that run in the caller's process."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@dataclass(frozen=True)
class GpuShare:
    """A share of one GPU, enforced by the process that holds it, because Ray's GPU fractions are only bookkeeping."""

    gb: float
    """Memory of the share [GB]."""
    device_gb: float
    """Memory of the whole GPU, as planned [GB]."""
    processes_per_device: int | None = None
    """Processes intended for one GPU. Ray fills one GPU before it uses the next, so that by memory alone all processes of a small
    network would share the first one (measured utilisation of two GPUs: 46 % and 0 %)."""

    @property
    def num_gpus(self) -> float:
        """The fraction of a GPU to request from Ray, 0 … 1."""
        by_count = 1 / self.processes_per_device if self.processes_per_device else 0.0
        return min(1.0, max(self.gb / self.device_gb, by_count))

    def cap_this_process(self) -> None:
        """Limit this process's allocations to its share of the actual device; a whole GPU is not limited."""
        import torch

        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, self.gb / total) if self.num_gpus < 1 else 1.0)


def configure_worker(gpu: GpuShare | None, threads: int | None = None) -> str:
    """Limit the calling worker process to its planned resources. Every stage that may use a GPU calls this first.

    Args:
        gpu: Its share of a GPU; None = it runs on CPUs.
        threads: Threads of torch and OpenCV on CPUs; None leaves them unchanged.

    Returns:
        The device to load networks to: ``cuda`` or ``cpu``.
    """
    if gpu:
        gpu.cap_this_process()
        return "cuda"
    if threads is not None:
        import cv2
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    return "cpu"


@dataclass(frozen=True)
class PackageWorkers:
    """Workers of each stage of a packaging run."""

    decode_workers: int
    mask_workers: int
    describe_workers: int
    encode_workers: int
    mask_cpus: float
    """Logical CPUs of a mask actor."""
    describe_gpu: GpuShare | None


def plan_stages(profile: Profile, cluster: Mapping[str, float]) -> PackageWorkers:
    """Distribute the stages of a packaging run over a cluster.

    Args:
        profile: Models, and numbers of workers that the user has set.
        cluster: Ray resources by name, as from `ray.cluster_resources()`.
    """
    run = profile.run
    cores = max(1, int(cluster.get("CPU", 1)))
    names = [profile.packaging.depth.model, profile.packaging.identity.model]
    networks = [card_named(name) for name in names if name not in WEIGHTLESS]
    gpu, gpus = None, int(cluster.get("GPU", 0))
    mask_workers = run.mask_workers or max(1, cores // CORES_PER_WORKER)
    # Without a GPU these actors carve hulls or run the networks on CPU cores, next to the mask actors.
    describe_workers = run.describe_workers or (DESCRIBE_PER_GPU * gpus if networks and gpus else max(1, cores // 8))
    if networks and gpus:
        gb = sum(DEFAULT_VRAM_GB if card.vram_gb is None else card.vram_gb for card in networks)
        max_processes = max(1, int(run.device_gb // gb))
        wanted_processes = max(DESCRIBE_PER_GPU, math.ceil(describe_workers / gpus))
        gpu = GpuShare(gb, run.device_gb, processes_per_device=min(max_processes, wanted_processes))
    # With a GPU, masks and PNGs take most of the CPU time; without one, the mask network does.
    encode_workers = run.encode_workers or max(1, cores // (2 if gpu else 4))
    reserved_cpus = READ_CPU + LIGHT_CPU * (2 + describe_workers + encode_workers)
    return PackageWorkers(
        decode_workers=run.decode_workers or max(1, cores // 2),
        mask_workers=mask_workers,
        describe_workers=describe_workers,
        encode_workers=encode_workers,
        mask_cpus=_cpus_per_worker(cores, reserved_cpus, mask_workers, MASK_CPU),
        describe_gpu=gpu,
    )


def _cpus_per_worker(cores: int, reserved_cpus: float, workers: int, min_cpus: float) -> float:
    """Return the logical CPUs of each worker of the heaviest stage: an equal part of what the other stages leave.

    At least `min_cpus` and at most `CORES_PER_WORKER`. With fewer, Ray would place all workers on the first nodes, and an autoscaler would
    add no others.
    """
    return max(
        min_cpus, min(float(CORES_PER_WORKER), math.floor((cores - reserved_cpus) / workers / LIGHT_CPU) * LIGHT_CPU)
    )


@dataclass(frozen=True)
class RenderWorkers:
    """Workers of the drawing stage of a render run."""

    render_workers: int
    threads: int
    """CPU threads of a worker without a GPU."""
    cpus: float
    """Logical CPUs of a worker."""
    gpu: GpuShare | None


def plan_render(
    profile: Profile, vram_gb: float | None, cluster: Mapping[str, float], *, backend: str | None = None
) -> RenderWorkers:
    """Distribute rendering over a cluster: one generator or four geometry workers per GPU, or one worker per two cores.

    Args:
        profile: Numbers of workers that the user has set.
        vram_gb: GPU memory that the backend's networks need [GB]; None = no network, a GPU only accelerates the geometry.
        cluster: Ray resources by name, as from `ray.cluster_resources()`.
        backend: Backend to name in the error message; default: the profile's video backend.

    Raises:
        ResourceError: `resource.insufficient`: the generator needs a GPU and the cluster has none.
    """
    run = profile.run
    cores, gpus = max(1, int(cluster.get("CPU", 1))), int(cluster.get("GPU", 0))
    if vram_gb is not None and not gpus and not run.generators_on_cpu:
        name, other = (backend, "composite") if backend else (profile.video.backend, "morph")
        raise ResourceError(
            "resource.insufficient", f"{name} needs a GPU and there is none; --backend {other} does not"
        )
    if gpus:
        # A generator needs a GPU to itself. Geometry alone is small: four workers share a GPU.
        share = GpuShare(run.device_gb if vram_gb is not None else run.device_gb / 4, run.device_gb)
        per_gpu = 1 if vram_gb is not None else 4
        return RenderWorkers(run.render_workers or per_gpu * gpus, run.worker_threads, LIGHT_CPU, share)
    workers = run.render_workers or max(1, cores // CORES_PER_WORKER)
    cpus = _cpus_per_worker(cores, READ_CPU + 3 * LIGHT_CPU, workers, RENDER_CPU)
    return RenderWorkers(workers, run.worker_threads, cpus, None)


@dataclass(frozen=True)
class ScoreWorkers:
    """Workers of each stage of a scoring run."""

    compare_workers: int
    judge_workers: int
    gpu: GpuShare | None
    """Share of a GPU that each judge holds."""
    draw: RenderWorkers | None
    """Workers that draw left-out views; None if every video has held-out photos."""


def plan_score(profile: Profile, vram_gb: float | None, cluster: Mapping[str, float], *, draws: bool) -> ScoreWorkers:
    """Distribute scoring over a cluster.

    Args:
        profile: Numbers of workers that the user has set.
        vram_gb: Largest GPU memory that a video's backend needs, as for `plan_render` [GB]. Without a GPU videos of such backends
            become rejects; the others are scored.
        cluster: Ray resources by name, as from `ray.cluster_resources()`.
        draws: Whether views have to be left out and redrawn.
    """
    cores, gpus = max(1, int(cluster.get("CPU", 1))), int(cluster.get("GPU", 0))
    share = GpuShare(SCORE_GB, profile.run.device_gb) if gpus else None
    compare, judge = max(1, cores // (2 * CORES_PER_WORKER)), 1
    draw = None
    if draws:
        full = plan_render(profile, vram_gb if gpus else None, cluster)
        # The scorer's GPU memory is taken from the drawing workers. Few logical CPUs are left when all stages run at once.
        gpu = GpuShare(max(1.0, full.gpu.gb - SCORE_GB), full.gpu.device_gb) if full.gpu else None
        reserved_cpus = READ_CPU + MASK_CPU * compare + LIGHT_CPU * (2 + judge)
        cpus = LIGHT_CPU if gpu else _cpus_per_worker(cores, reserved_cpus, full.render_workers, LIGHT_CPU)
        draw = RenderWorkers(full.render_workers, full.threads, cpus, gpu)
    return ScoreWorkers(compare, judge, share, draw)


def check_resources(needs: Mapping[str, float], cluster: Mapping[str, float]) -> None:
    """Check that all stages fit at once, because otherwise the run would wait forever.

    Args:
        needs: Ray resources by name, from `gapray.batch.pipeline.Pipeline.needs`.
        cluster: Available Ray resources by name.

    Raises:
        ResourceError: `resource.insufficient`, naming what is missing.
    """
    short = [
        f"{amount:g} {name} needed, {cluster.get(name, 0):g} there"
        for name, amount in needs.items()
        if amount > cluster.get(name, 0) + 1e-9
    ]
    if short:
        raise ResourceError("resource.insufficient", "the stages do not fit at once: " + "; ".join(short))
