"""How many actors, and what share of a machine each asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from gapray.config import Profile
from gapray.errors import ResourceError
from gapray.models.cards import WEIGHTLESS, card_named

MASK_THREADS = 2
"""onnxruntime threads of a mask actor. One actor for two cores: each costs 10 CPU-seconds to start (rembg, Ray Data)."""
MASK_CPU = 0.5
"""Logical CPUs of a mask actor at least. Less than its threads, because the read tasks need a whole one: logical CPUs only say
what may run at once, the system's scheduler shares the cores. A larger cluster gives it what is left, see `_each`."""
LIGHT_CPU = 0.125
"""Logical CPUs of every other actor and task: they wait more than they work."""
RENDER_THREADS = 2
"""CPU threads of a render worker: the geometry's tensor operations use both."""
RENDER_CPU = 0.5
"""Logical CPUs of a render worker at least, for the same reason as `MASK_CPU`."""
READ_CPU = 1.0
"""Logical CPUs of Ray Data's own tasks that list, read and split the manifest; they cannot be given less."""
DESCRIBE_PER_GPU = 2
"""Depth and identity actors that share a GPU: one alone is held up by its own unpacking. H200, 16 cores, views/s against a
plain loop over the same networks: 0.53 with one actor, 0.92 with two, 0.98 with three (benchmarks/package_gpu.py)."""
SCORE_GB = 4.0
"""GPU memory of a scorer. LPIPS of 64 pairs at 256 pixels peaks at 1.15 GB (H200, benchmarks/score.py); a context adds .5."""
DEFAULT_VRAM_GB = 8.0
"""Asked for by a network whose card has no measured figure."""


@contextmanager
def threads_kept() -> Iterator[None]:
    """Stages set the threads of the process they run in; afterwards they are as they were, where that is the caller's own."""
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
    """A share of one GPU, kept to by the process that holds it. Ray's fractions are bookkeeping only."""

    gb: float
    device_gb: float
    beside: int | None = None
    """Processes meant for one card. Ray fills a card before it begins the next, so by memory alone all of a small network's
    processes would sit on the first (measured: 46 % and 0 % busy on two)."""

    @property
    def num_gpus(self) -> float:
        """What Ray is asked for."""
        return min(1.0, max(self.gb / self.device_gb, 1 / self.beside if self.beside else 0.0))

    def cap_this_process(self) -> None:
        """Let this process allocate no more than its share of the device that it really has; with a whole one, all of it."""
        import torch

        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, self.gb / total) if self.num_gpus < 1 else 1.0)


def settle(gpu: GpuShare | None, threads: int | None = None) -> str:
    """Keep the calling process, an actor's, to what its plan gives it. Every stage that may use a GPU begins with this.

    Args:
        gpu: None = it works on CPUs.
        threads: Of torch and OpenCV there; None leaves them as they are.

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
    """Workers and shares of each stage."""

    decode_workers: int
    mask_workers: int
    describe_workers: int
    encode_workers: int
    mask_cpus: float
    """Logical CPUs of a mask actor."""
    describe_gpu: GpuShare | None


def plan_stages(profile: Profile, cluster: Mapping[str, float]) -> PackageWorkers:
    """Spread a profile's stages over a cluster.

    Args:
        profile: Models, and numbers of workers where the user set them.
        cluster: Ray's `cluster_resources()`.
    """
    run = profile.run
    cores = max(1, int(cluster.get("CPU", 1)))
    names = [profile.packaging.depth.model, profile.packaging.identity.model]
    networks = [card_named(name) for name in names if name not in WEIGHTLESS]
    gpu, gpus = None, int(cluster.get("GPU", 0))
    mask = run.mask_workers or max(1, cores // MASK_THREADS)
    # Without a GPU they carve or run the networks on cores, beside the masks.
    describe = run.describe_workers or (DESCRIBE_PER_GPU * gpus if networks and gpus else max(1, cores // 8))
    if networks and gpus:
        gb = sum(DEFAULT_VRAM_GB if card.vram_gb is None else card.vram_gb for card in networks)
        fit = max(1, int(run.device_gb // gb))
        gpu = GpuShare(gb, run.device_gb, beside=min(fit, max(DESCRIBE_PER_GPU, math.ceil(describe / gpus))))
    # Beside a GPU the masks and PNGs are the work; on CPUs alone the mask network is.
    encode = run.encode_workers or max(1, cores // (2 if gpu else 4))
    others = READ_CPU + LIGHT_CPU * (2 + describe + encode)
    return PackageWorkers(
        decode_workers=run.decode_workers or max(1, cores // 2),
        mask_workers=mask,
        describe_workers=describe,
        encode_workers=encode,
        mask_cpus=_each(cores, others, mask, MASK_CPU, MASK_THREADS),
        describe_gpu=gpu,
    )


def _each(cores: int, others: float, workers: int, least: float, threads: int) -> float:
    """Logical CPUs of each of the workers that do most of the work: what is left of the cluster, `threads` at most.

    With less, Ray would put all of them on the first nodes, and an autoscaler would bring no others.
    """
    return max(least, min(float(threads), math.floor((cores - others) / workers / LIGHT_CPU) * LIGHT_CPU))


@dataclass(frozen=True)
class RenderWorkers:
    """Workers and shares of a render run."""

    render_workers: int
    threads: int
    """CPU threads of a worker without a GPU."""
    cpus: float
    """Logical CPUs of a worker."""
    gpu: GpuShare | None


def plan_render(
    profile: Profile, vram_gb: float | None, cluster: Mapping[str, float], *, backend: str | None = None
) -> RenderWorkers:
    """Spread rendering over a cluster: one worker a GPU, or one for two cores.

    Args:
        profile: Numbers of workers where the user set them.
        vram_gb: What the backend's networks ask for; None = it has none, and a GPU only speeds the geometry up.
        cluster: Ray's `cluster_resources()`.
        backend: Of the message; default: the profile's video backend.

    Raises:
        ResourceError: `resource.insufficient`: a generator that needs a GPU, and none is there.
    """
    cores, gpus = max(1, int(cluster.get("CPU", 1))), int(cluster.get("GPU", 0))
    if vram_gb is not None and not gpus and not profile.run.generators_on_cpu:
        name, other = (backend, "composite") if backend else (profile.video.backend, "morph")
        raise ResourceError(
            "resource.insufficient", f"{name} needs a GPU and there is none; --backend {other} does not"
        )
    if gpus:
        # A generator is exclusive. The geometry alone is small: four share a card.
        share = GpuShare(
            profile.run.device_gb if vram_gb is not None else profile.run.device_gb / 4, profile.run.device_gb
        )
        per_gpu = 1 if vram_gb is not None else 4
        return RenderWorkers(profile.run.render_workers or per_gpu * gpus, RENDER_THREADS, LIGHT_CPU, share)
    workers = profile.run.render_workers or max(1, cores // RENDER_THREADS)
    cpus = _each(cores, READ_CPU + 3 * LIGHT_CPU, workers, RENDER_CPU, RENDER_THREADS)
    return RenderWorkers(workers, RENDER_THREADS, cpus, None)


@dataclass(frozen=True)
class ScoreWorkers:
    """Workers and shares of a scoring run."""

    compare_workers: int
    judge_workers: int
    gpu: GpuShare | None
    draw: RenderWorkers | None
    """How left-out views are drawn; None when every video has hidden photos."""


def plan_score(profile: Profile, vram_gb: float | None, cluster: Mapping[str, float], *, draws: bool) -> ScoreWorkers:
    """Spread scoring over a cluster.

    Args:
        profile: Numbers of workers where the user set them.
        vram_gb: What the hungriest of the videos' backends asks for, as for `plan_render`. Without a GPU those videos become
            rejects, and the others are scored.
        cluster: Ray's `cluster_resources()`.
        draws: Whether views have to be left out and drawn anew.
    """
    cores, gpus = max(1, int(cluster.get("CPU", 1))), int(cluster.get("GPU", 0))
    share = GpuShare(SCORE_GB, profile.run.device_gb) if gpus else None
    compare, judge = max(1, cores // (2 * MASK_THREADS)), 1
    draw = None
    if draws:
        full = plan_render(profile, vram_gb if gpus else None, cluster)
        # The scorer's share comes off the drawing workers'; logical CPUs are few where all stages run at once.
        gpu = GpuShare(max(1.0, full.gpu.gb - SCORE_GB), full.gpu.device_gb) if full.gpu else None
        others = READ_CPU + MASK_CPU * compare + LIGHT_CPU * (2 + judge)
        cpus = LIGHT_CPU if gpu else _each(cores, others, full.render_workers, LIGHT_CPU, full.threads)
        draw = RenderWorkers(full.render_workers, full.threads, cpus, gpu)
    return ScoreWorkers(compare, judge, share, draw)


def check_resources(needs: Mapping[str, float], cluster: Mapping[str, float]) -> None:
    """Prove that all stages fit at once, instead of waiting for ever.

    Args:
        needs: Ray resources by name: `gapray.batch.pipeline.Pipeline.needs`.
        cluster: Those that there are.

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
