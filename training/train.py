"""Train the network on products that are made while it learns.

python -m training.train --out FOLDER [--resume FOLDER] [--minutes M] [--steps N] …
torchrun --nproc-per-node G -m training.train …        # G GPUs, each with its own products

Several processes make examples (`training.pool`), the trainer draws batches from all that it has so far. It stops after so
many minutes or steps, writes the state to resume from, the averaged weights, a validation table, a sheet of pictures, and a
line for the log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gapray.errors import ModelError
from gapray.fidelity.lpips import Lpips
from gapray.synthesis.draw import save_network
from gapray.synthesis.network import Synthesis
from training.checkpoint import Position, load_state, save_state
from training.evaluate import (
    Prepared,
    as_text,
    held_out,
    means,
    measure_with,
    prepared,
    score_sets,
    sheet,
    stored,
    validation,
)
from training.examples import Recipe
from training.losses import Perceptual, Plain, losses, weighed
from training.pool import BrokenProcessPool, Pool
from training.sets import load_sets
from training.store import Store, varied


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run."""

    out: Path
    resume: Path | None = None
    minutes: float = 8.0
    """From the start of the process."""
    steps: int = 1_000_000
    batch: int = 16
    """Frames a step and GPU."""
    rate: float = 4e-4
    warm_up: int = 300
    """Steps over which the learning rate rises."""
    cool: float = 0.2
    """Last share of the minutes (or steps, when they end sooner) over which it falls to nearly nothing."""
    average: float = 0.999
    """Of the exponential average of weights, a step."""
    size: int = 256
    targets: int = 8
    voxels: int = 144
    capacity: int = 3000
    """Products that are kept on a GPU."""
    first: int = 48
    """Products that are there before the first step."""
    workers: int = 14
    """Processes a GPU that make products."""
    scene_device: str = "cpu"
    """Where those work: `cpu` or `cuda`."""
    held_out: int = 32
    every: float = 90.0
    """Seconds between validations."""
    sets: Path | None = None
    log: Path | None = None
    compile: bool = False
    note: str = ""


class Clock:
    """How much of a run is over."""

    def __init__(self, plan: Plan) -> None:
        self.begun, self.plan = time.monotonic(), plan

    @property
    def minutes(self) -> float:
        """Since the start."""
        return (time.monotonic() - self.begun) / 60

    def over(self, step: int) -> float:
        """0 … 1."""
        return max(self.minutes / self.plan.minutes, step / self.plan.steps)


def main(arguments: list[str] | None = None) -> None:
    """Train."""
    plan = _plan(arguments)
    clock, rank, world = Clock(plan), int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if world > 1:
        torch.distributed.init_process_group("nccl" if cuda else "gloo")

    def say(*words: object) -> None:
        if rank == 0:
            print(f"[{clock.minutes * 60:6.1f} s]", *words, flush=True)

    maker = device if plan.scene_device == "cuda" else "cpu"
    recipe = Recipe(plan.size, plan.targets, plan.voxels, lattice=plan.voxels, device=maker)
    # Held-out products come first, from the same processes that go on to make training's.
    held = stored(held_out(plan.held_out, recipe, plan.workers), recipe, device) if rank == 0 else None
    say(f"{len(held) if held else 0} held-out products")
    executor = ProcessPoolExecutor(4, get_context("spawn")) if plan.sets and rank == 0 else None
    subjects = [executor.submit(prepared, one) for one in load_sets(plan.sets)] if executor and plan.sets else []

    torch.manual_seed(0)
    network = Synthesis().to(device).to(memory_format=torch.channels_last)
    average = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimiser = torch.optim.AdamW(network.parameters(), plan.rate, betas=(0.9, 0.99), weight_decay=1e-2)
    position = load_state(plan.resume, network, average, optimiser) if plan.resume else Position()
    perceptual = _perceptual(device)
    learner: nn.Module = torch.compile(network) if plan.compile else network  # type: ignore[assignment]
    if world > 1:
        learner = DistributedDataParallel(learner, [torch.device(device).index] if cuda else None)
    store = Store(plan.capacity, recipe, device)
    seeds = itertools.count(position.next_seed + rank, world)
    generator = torch.Generator().manual_seed(position.next_seed * 64 + rank)
    begun, trace = position.step, []
    measure = measure_with(Lpips("alex", device=device)) if isinstance(perceptual, Perceptual) and rank == 0 else None
    with Pool(seeds, recipe, plan.workers) as pool:
        while len(store) < plan.first:
            _take(pool, store, say, patience=20.0)
        say(f"{len(store)} products, {store.targets} frames each; training on {device}")
        validated = time.monotonic()
        sums: dict[str, float] = {}
        step = 0
        while not _agreed(clock.over(step) >= 1, world, device):
            if step % 10 == 0:
                _take(pool, store, say)
            for group in optimiser.param_groups:
                group["lr"] = plan.rate * _level(plan, position.step, clock.over(step))
            parts = _step(plan, learner, optimiser, store, generator, perceptual, device)
            _blend(average, network, min(plan.average, (1 + position.step) / (10 + position.step)))
            position.step += 1
            step += 1
            if step % 200 == 0 or step == 1:
                sums = {name: round(float(part), 4) for name, part in parts.items()}
                rate = step / max(1e-9, clock.minutes * 60)
                say(f"step {position.step} ({rate:.1f}/s) {pool.made} made, {pool.dropped} dropped, {sums}")
            if rank == 0 and held and measure and time.monotonic() - validated > plan.every:
                with _averaged(network, average):
                    found = means(validation(held, network, measure))
                say("validation", found)
                trace.append({"step": position.step, "made": pool.made, **found})
                validated = time.monotonic()
        position.next_seed += pool.asked * world
        position.minutes = round(position.minutes + clock.minutes, 2)
        say(f"stopped at step {position.step}, {step} of them now; {pool.made} products made")
    if rank == 0:
        _finish(plan, network, average, optimiser, position, held, measure, subjects, trace, step, pool, clock, device)
    if executor:
        executor.shutdown(wait=False, cancel_futures=True)
    if world > 1:
        torch.distributed.destroy_process_group()


def _finish(plan, network, average, optimiser, position, held, measure, subjects, trace, step, pool, clock, device):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    save_state(plan.out, network, average, optimiser, position)
    save_network(average, plan.out / "synthesis.safetensors")
    line = {
        "steps": position.step,
        "now": step,
        "minutes": round(clock.minutes, 2),
        "minutes_in_all": position.minutes,
        "made": pool.made,
        "dropped": pool.dropped,
        "batch": plan.batch * int(os.environ.get("WORLD_SIZE", "1")),
        "size": plan.size,
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cards": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": _commit(),
        "note": plan.note,
        "trace": trace,
    }
    with _averaged(network, average):
        groups = {}
        if held:
            cv2.imwrite(str(plan.out / "sheet.jpg"), sheet(held, network, 12)[..., ::-1])
        if measure:
            ready: list[Prepared] = [one.result() for one in subjects]
            groups = score_sets(ready, network, measure, device)
            if held:
                groups["procedural"] = validation(held, network, measure)
            print(as_text(groups), flush=True)
    line["sets"] = {group: means(table) for group, table in groups.items()}
    (plan.out / "run.json").write_text(json.dumps({**line, "objects": groups}))
    if plan.log:
        with plan.log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def _take(pool: Pool, store: Store, say, *, patience: float = 0.0) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    try:
        for example in pool.ready(patience=patience):
            store.add(example)
    except BrokenProcessPool as error:
        if len(store) == 0:
            raise
        say(f"no more products: {error}")
        pool._ahead.clear()


def _step(
    plan: Plan,
    learner: nn.Module,
    optimiser: torch.optim.Optimizer,
    store: Store,
    generator: torch.Generator,
    perceptual: nn.Module,
    device: str,
) -> dict[str, Tensor]:
    batch = varied(store.drawn(plan.batch, generator), generator)
    white = torch.rand(plan.batch, 1, 1, 1, generator=generator) < 0.4
    background = torch.where(white, 1.0, torch.rand(plan.batch, 3, 1, 1, generator=generator)).to(device)
    with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
        drawn = learner(batch.frames, batch.photos)
    parts = losses(drawn, batch, background, perceptual)
    optimiser.zero_grad(set_to_none=True)
    weighed(parts).backward()
    nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    optimiser.step()
    return {name: part.detach() for name, part in parts.items()}


def _level(plan: Plan, step: int, over: float) -> float:
    """Of the learning rate: up, level, and down at the end of the run."""
    return min(1.0, (step + 1) / plan.warm_up, max(0.02, (1 - over) / plan.cool))


@torch.no_grad()
def _blend(average: dict[str, Tensor], network: nn.Module, keep: float) -> None:
    torch._foreach_lerp_(list(average.values()), [one.detach() for one in network.parameters()], 1 - keep)


class _averaged:  # noqa: N801  # reads as a verb
    """The network with its averaged weights, for as long as the block lasts."""

    def __init__(self, network: nn.Module, average: dict[str, Tensor]) -> None:
        self.network, self.average = network, average

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.network.named_parameters():
            kept = value.clone()
            value.copy_(self.average[name])
            self.average[name].copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error: object) -> None:
        self._swap()


def _agreed(over: bool, world: int, device: str) -> bool:
    """All processes stop at the same step: when the first of them wants to."""
    if world == 1:
        return over
    flag = torch.tensor(float(over), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag > 0)


def _perceptual(device: str) -> nn.Module:
    try:
        return Perceptual().to(device)
    except ModelError as error:
        print(f"no LPIPS, neither to learn from nor to measure with: {error}", flush=True)
        return Plain()


def _commit() -> str:
    try:
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT", "")


def _plan(arguments: list[str] | None) -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for one in fields(Plan):
        flag = "--" + one.name.replace("_", "-")
        if one.type == "bool":
            parser.add_argument(flag, action="store_true")
        else:
            kind = {"int": int, "float": float, "str": str}.get(str(one.type), Path)
            parser.add_argument(flag, type=kind, default=None if one.name == "out" else one.default, required=one.name == "out")
    return Plan(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
