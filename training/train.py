"""Train the network on products that are made while it learns.

python -m training.train --out FOLDER [--resume FOLDER] [--minutes M] [--steps N] …
torchrun --nproc-per-node G -m training.train …        # G GPUs, each with its own products

Several processes make examples (`training.pool`), and the trainer draws batches from all that it has so far. It stops after the
given minutes or steps and writes the state to resume from, the averaged weights, a validation table, a sheet of pictures, and a
line for the log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gapray.errors import ModelError
from gapray.fidelity.lpips import Lpips
from gapray.orbit.synthesis.draw import load_network, save_network
from gapray.orbit.synthesis.network import Synthesis
from training.checkpoint import Position, load_state, save_state
from training.evaluate import (
    HELD_OUT_SEED,
    Measure,
    Prepared,
    Scores,
    as_text,
    held_out,
    means,
    measure_with,
    prepared,
    score_sets,
    sheet,
    validation,
)
from training.examples import Recipe
from training.losses import Perceptual, Plain, losses, weighed
from training.pool import Pool
from training.sets import load_sets
from training.store import Store, varied


@dataclass(frozen=True)
class TrainingSettings:
    """All settings of a run."""

    out: Path
    resume: Path | None = None
    start: Path | None = None
    """Weights to start from if there is no state to resume from."""
    minutes: float = 8.0
    """Measured from the start of the process."""
    steps: int = 1_000_000
    batch: int = 16
    """Frames for each step and GPU."""
    rate: float = 4e-4
    warm_up: int = 300
    """Steps over which the learning rate rises."""
    cool: float = 0.2
    """Last fraction of the minutes (or steps, if they end sooner) over which it falls to nearly nothing."""
    average: float = 0.999
    """Decay of the exponential moving average of weights, for each step."""
    size: int = 256
    skins: int = 3
    targets: int = 6
    voxels: int = 144
    capacity: int = 1500
    """Products that are kept on a GPU."""
    first: int = 48
    """Products that are made before the first step."""
    workers: int = 14
    """Processes for each GPU that make products; they render on the GPU."""
    scene_device: str = "cpu"
    """Device on which they reconstruct: `cpu` or `cuda`."""
    held_out: int = 24
    every: float = 90.0
    """Seconds between validations."""
    sets: Path | None = None
    log: Path | None = None
    compile: bool = False
    note: str = ""


class Clock:
    """How much of a run is over, by time and by steps."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.begun, self.settings = time.monotonic(), settings

    @property
    def seconds(self) -> float:
        """Time since the start [s]."""
        return time.monotonic() - self.begun

    def over(self, step: int) -> float:
        """Fraction of the run that is over, from 0; 1 = finished."""
        return max(self.seconds / 60 / self.settings.minutes, step / self.settings.steps)


@dataclass(frozen=True)
class DistributedState:
    """This process among those that train together."""

    rank: int
    world: int
    device: str

    @staticmethod
    def initialize() -> DistributedState:
        """Read torchrun's environment variables and join the other processes."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        cuda = torch.cuda.is_available()
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        if world > 1:
            # The first process evaluates for a minute while the others wait for it.
            torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=10))
        return DistributedState(rank, world, device)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all stop at the same step."""
        if self.world == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MAX)
        return bool(count > 0)


class Learner:
    """The network, its averaged weights, and the optimiser."""

    def __init__(
        self, settings: TrainingSettings, state: DistributedState, network: Callable[[], Synthesis] = Synthesis
    ) -> None:
        torch.manual_seed(0)
        self.settings, self.state = settings, state
        self.network = network().to(state.device).to(memory_format=torch.channels_last)
        if settings.start:
            self.network.load_state_dict(load_network(settings.start, state.device).state_dict())
        self.average = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), settings.rate, betas=(0.9, 0.99), weight_decay=1e-2
        )
        self.position = Position()
        if settings.resume:
            self.position = load_state(settings.resume, self.network, self.average, self.optimiser)
        self.perceptual = _perceptual(state.device)
        self.generator = torch.Generator().manual_seed(self.position.next_seed * 64 + state.rank)
        self._forward: nn.Module = self.network
        if settings.compile:
            self._forward = torch.compile(self.network)  # type: ignore[assignment]  # a module, says its documentation
        if state.world > 1:
            self._forward = DistributedDataParallel(self._forward, [state.rank] if state.device != "cpu" else None)

    def learn(self, store: Store, over: float) -> dict[str, Tensor]:
        """Take one step on random frames of the store, with `over` of the run behind it; returns the terms of its loss."""
        settings, device = self.settings, self.state.device
        level = min(1.0, (self.position.step + 1) / settings.warm_up, max(0.02, (1 - over) / settings.cool))
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate * level
        batch = varied(store.drawn(settings.batch, self.generator), self.generator)
        white = torch.rand(settings.batch, 1, 1, 1, generator=self.generator) < 0.4
        background = torch.where(white, 1.0, torch.rand(settings.batch, 3, 1, 1, generator=self.generator)).to(device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
            drawn = self._forward(batch.frames, batch.photos)
        parts = losses(drawn, batch, background, self.perceptual)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(weighed(parts))
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        keep = min(settings.average, (1 + self.position.step) / (10 + self.position.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.network.parameters()), 1 - keep)
        self.position.step += 1
        return {name: part.detach() for name, part in parts.items()}

    @contextmanager
    def averaged(self) -> Iterator[Synthesis]:
        """The network with its averaged weights, for the duration of the block."""
        kept = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self._put(self.average)
        try:
            yield self.network
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, value in self.network.named_parameters():
            value.copy_(weights[name])


@dataclass
class Run:
    """One run in one process."""

    settings: TrainingSettings
    state: DistributedState
    clock: Clock
    learner: Learner
    store: Store
    held: Store | None = None
    """Held-out products, once they are made; only in the first process."""
    measure: Measure | None = None
    steps: int = 0
    made: int = 0
    shapes: int = 0
    dropped: int = 0
    trace: list[dict[str, object]] = field(default_factory=list)

    def say(self, *words: object) -> None:
        """Print with the time, in the first process."""
        if self.state.rank == 0:
            print(f"[{self.clock.seconds:6.1f} s]", *words, flush=True)

    def train(self, pool: Pool) -> None:
        """Train until time or steps are used up."""
        while len(self.store) < self.settings.first and not pool.exhausted:
            self._take(pool, patience=20.0)
        self.say(f"{len(self.store)} products, {self.store.targets} frames each; training on {self.state.device}")
        begun = validated = time.monotonic()
        while not self.state.any(self.clock.over(self.steps) >= 1):
            if self.steps % 10 == 9:
                self._take(pool)
            parts = self.learner.learn(self.store, self.clock.over(self.steps))
            self.steps += 1
            if self.steps % 200 == 1:
                rate = self.steps / (time.monotonic() - begun)
                text = {name: round(float(part), 4) for name, part in parts.items()}
                self.say(f"step {self.learner.position.step} ({rate:.1f}/s), {self.made} products, {text}")
            if time.monotonic() - validated > self.settings.every:
                self.validate()
                validated = time.monotonic()
        own = pool.asked - (self.held.capacity if self.held is not None else 0)
        self.learner.position.next_seed += own * self.state.world
        self.learner.position.minutes = round(self.learner.position.minutes + self.clock.seconds / 60, 2)
        self.say(f"stopped at step {self.learner.position.step}, {self.steps} of them now; {self.made} products")

    def validate(self) -> None:
        """Score held-out products."""
        if self.held and self.measure:
            with self.learner.averaged() as network:
                scores = means(validation(self.held, {"network": network}, self.measure))
            self.say("validation", scores)
            self.trace.append({"step": self.learner.position.step, "made": self.made, **scores})

    def _take(self, pool: Pool, *, patience: float = 0.0) -> None:
        """Move finished examples from the pool to the store."""
        try:
            for example in pool.ready(patience=patience):
                if self.held is not None and int(example.name.split(".")[0]) >= HELD_OUT_SEED:
                    self.held.add(example)
                else:
                    self.store.add(example)
        except BrokenProcessPool as error:
            if len(self.store) == 0:
                raise
            self.say(f"no more products: {error}")
            pool.give_up()
        self.made, self.shapes, self.dropped = pool.made, pool.finished, pool.dropped


def main(arguments: list[str] | None = None) -> None:
    """Train from the command line."""
    settings = _parse_arguments(arguments)
    clock, state = Clock(settings), DistributedState.initialize()
    recipe = Recipe(
        settings.size,
        settings.skins,
        settings.targets,
        settings.voxels,
        lattice=settings.voxels,
        renderer=state.device,
        device=state.device if settings.scene_device == "cuda" else "cpu",
    )
    learner = Learner(settings, state)
    run = Run(settings, state, clock, learner, Store(settings.capacity, recipe, state.device))
    subjects: list[Future[Prepared]] = []
    executor = None
    seeds = itertools.count(learner.position.next_seed + state.rank, state.world)
    jobs: Iterator[tuple[int, Recipe]] = ((seed, recipe) for seed in seeds)
    if state.rank == 0:
        # Held-out products come first, from the same processes.
        run.held = Store(settings.held_out, recipe, state.device)
        jobs = itertools.chain(held_out(settings.held_out, recipe), jobs)
        if isinstance(learner.perceptual, Perceptual):
            run.measure = measure_with(Lpips("alex", device=state.device))
        if settings.sets:
            executor = ProcessPoolExecutor(2, get_context("spawn"))
            subjects = [executor.submit(prepared, subject) for subject in load_sets(settings.sets)]
    with Pool(jobs, settings.workers) as pool:
        run.train(pool)
    if state.rank == 0:
        save_state(settings.out, learner.network, learner.average, learner.optimiser, learner.position)
        save_network(learner.average, settings.out / "synthesis.safetensors")
        _report(run, subjects)
    if executor:
        executor.shutdown(wait=False, cancel_futures=True)
    if state.world > 1:
        torch.distributed.destroy_process_group()


def _report(run: Run, subjects: list[Future[Prepared]]) -> None:
    """Evaluate, draw the sheet, and write ``run.json`` and the line for the log."""
    settings, position, cards = run.settings, run.learner.position, run.state.world
    minutes = round(run.clock.seconds / 60, 2)
    groups: dict[str, Scores] = {}
    with run.learner.averaged() as network:
        if run.held:
            cv2.imwrite(str(settings.out / "sheet.jpg"), sheet(run.held, network, 12)[..., ::-1])
        if run.measure:
            groups = score_sets(
                (subject.result() for subject in subjects), {"network": network}, run.measure, run.state.device
            )
            if run.held:
                groups["procedural"] = validation(run.held, {"network": network}, run.measure)
    print(as_text(groups), flush=True)
    line = {
        "steps": position.step,
        "steps_now": run.steps,
        "minutes": minutes,
        "minutes_in_all": position.minutes,
        "made": run.made * cards,
        "shapes": run.shapes * cards,
        "dropped": run.dropped * cards,
        "batch": settings.batch * cards,
        "size": settings.size,
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cards": cards,
        "commit": _commit(),
        "note": settings.note,
        "trace": run.trace,
        "sets": {group: means(table) for group, table in groups.items()},
    }
    (settings.out / "run.json").write_text(json.dumps({**line, "objects": groups}))
    if settings.log:
        with settings.log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def _perceptual(device: str) -> nn.Module:
    try:
        return Perceptual().to(device)
    except ModelError as error:
        print(f"no LPIPS, neither to learn from nor to measure with: {error}", flush=True)
        return Plain()


def _commit() -> str:
    """Commit of the working tree; the environment variable GIT_COMMIT if there is no repository."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT", "")


def _parse_arguments(arguments: list[str] | None) -> TrainingSettings:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for setting in fields(TrainingSettings):
        flag = "--" + setting.name.replace("_", "-")
        if setting.type == "bool":
            parser.add_argument(flag, action="store_true")
        else:
            kind = {"int": int, "float": float, "str": str}.get(str(setting.type), Path)
            parser.add_argument(
                flag,
                type=kind,
                default=None if setting.name == "out" else setting.default,
                required=setting.name == "out",
            )
    return TrainingSettings(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
