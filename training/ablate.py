"""Ablations: networks that each lack one idea, trained side by side for the same number of steps.

python -m training.ablate --out FOLDER --ideas network|data [--minutes M] [--sets sets.zip]

All are trained at once on one device, one step each in turn, from the same seeds and the same initial weights. Ideas about the
network share their products; ideas about data have products of their own, made from the same seeds. All are measured on the
same held-out products, which lack nothing, and on the photo sets.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

from gapray.fidelity.lpips import Lpips
from gapray.orbit.synthesis.inputs import NEAREST, Frames, Photos
from gapray.orbit.synthesis.network import GROUPS, SIDES, DrawingPlan, PhotoSamples, Search, Synthesis
from training.evaluate import Prepared, as_text, held_out, means, measure_with, prepared, score_sets, validation
from training.examples import Recipe
from training.pool import Pool, every
from training.sets import load_sets
from training.store import Store
from training.train import DistributedState, Learner, TrainingSettings

NEVER = -1e4
"""Logit of a candidate that is never shown."""


class WithoutCandidate(Synthesis):
    """A network that sees one of the candidates but never shows it."""

    hidden: int
    """Index of that candidate."""

    def _decided(self, frames: Frames, photos: Photos) -> tuple[DrawingPlan, PhotoSamples]:
        plan, samples = super()._decided(frames, photos)
        shown = torch.arange(plan.logits.shape[1], device=plan.logits.device) != self.hidden
        logits = plan.logits.masked_fill(~shown[:, None, None], NEVER)
        return replace(plan, logits=logits), samples


class WithoutMorph(WithoutCandidate):
    """A network that never shows the view morph."""

    hidden = NEAREST


class WithoutFlow(WithoutCandidate):
    """A network that never shows the photos warped by optical flow."""

    hidden = NEAREST + 1


class FixedSearch(Search):
    """A search that corrects nothing: photos are sampled at the hull's front."""

    def forward(self, frames: Frames, photos: Photos, hull: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return what `Search.forward` returns, with the hull's front for every surface and no shifts."""
        surfaces, shifts, memory = super().forward(frames, photos, hull)
        return [surface * 0 + hull for surface in surfaces], shifts * 0, memory


class HideAgreement(nn.Module):
    """Zeroes the channels that tell how well the photos agree."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, s, s], whose first channels are agreements."""
        costs = (2 * SIDES + 1) * 2 * GROUPS
        return torch.cat([x[:, :costs] * 0, x[:, costs:]], 1)


def without_moving() -> Synthesis:
    """A network whose search corrects nothing."""
    network = Synthesis()
    search = FixedSearch()
    search.load_state_dict(network.search.state_dict())
    network.search = search
    return network


def without_searching() -> Synthesis:
    """A network that corrects the surface without looking at the photos around it."""
    network = Synthesis()
    network.search.look = nn.Sequential(HideAgreement(), *network.search.look)
    return network


@dataclass(frozen=True)
class Variant:
    """A network and the data that it is trained on."""

    network: Callable[[], Synthesis] = Synthesis
    recipe: tuple[tuple[str, object], ...] = ()
    """Fields of `Recipe` that differ from the base recipe."""
    products: int = 400
    """Number of products to learn from."""


IDEAS = {
    "network": {
        "all": Variant(),
        "no morph among the candidates": Variant(WithoutMorph),
        "no flow among the candidates": Variant(WithoutFlow),
        "photos read at the hull": Variant(without_moving),
        "moved without a search": Variant(without_searching),
    },
    "data": {
        "all": Variant(),
        "one ray a pixel": Variant(recipe=(("rays", 1),)),
        "patterns for labels": Variant(recipe=(("labels", False),)),
        "no phone's faults": Variant(recipe=(("faults", False),)),
        "24 products": Variant(products=24),
    },
}


def streams(recipes: Iterable[Recipe]) -> dict[Recipe, Iterator[tuple[int, Recipe]]]:
    """The jobs of each recipe, with the same seeds for all."""
    return {recipe: zip(itertools.count(), itertools.repeat(recipe)) for recipe in set(recipes)}


def main(arguments: list[str] | None = None) -> None:
    """Train all variants, measure them and write ``ablation.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ideas", choices=sorted(IDEAS), required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="from the start of the process to the last step")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of each variant")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--voxels", type=int, default=144)
    parser.add_argument("--first", type=int, default=24, help="products of each recipe before the first step")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--sets", type=Path)
    chosen = parser.parse_args(arguments)
    begun, state = time.monotonic(), DistributedState.initialize()
    base = Recipe(chosen.size, voxels=chosen.voxels, lattice=chosen.voxels, renderer=state.device)
    run = TrainingSettings(chosen.out, minutes=chosen.minutes, steps=chosen.steps, batch=chosen.batch, warm_up=100)
    variants = IDEAS[chosen.ideas]
    recipes = {name: replace(base, **dict(variant.recipe)) for name, variant in variants.items()}  # type: ignore[arg-type]
    workers = chosen.workers // len(set(recipes.values()))  # for each recipe; with 0 everything is made in this process
    held = Store(chosen.held_out, base, state.device)
    for example in every(held_out(chosen.held_out, base), chosen.workers):
        held.add(example)
    executor = ProcessPoolExecutor(2, get_context("spawn")) if chosen.sets else None
    subjects = [executor.submit(prepared, subject) for subject in load_sets(chosen.sets)] if executor else []
    at_work = contextlib.ExitStack()
    pools = {recipe: at_work.enter_context(Pool(jobs, workers)) for recipe, jobs in streams(recipes.values()).items()}
    # Variants that learn from the same products share their store.
    kinds = {(recipes[name], variant.products) for name, variant in variants.items()}
    shared = {kind: Store(kind[1], base, state.device) for kind in kinds}
    stores = {name: shared[recipes[name], variant.products] for name, variant in variants.items()}
    learners = {name: Learner(run, state, variant.network) for name, variant in variants.items()}

    def take(patience: float) -> None:
        for recipe, pool in pools.items():
            for example in pool.ready(patience=patience):
                for (wanted, products), store in shared.items():
                    if wanted == recipe and store.added < products:
                        store.add(example)

    while min(len(store) for store in stores.values()) < min(
        chosen.first, *(variant.products for variant in variants.values())
    ):
        take(5.0)
    print(f"[{time.monotonic() - begun:6.1f} s] { {name: len(store) for name, store in stores.items()} }", flush=True)
    for step in itertools.count():
        over = max((time.monotonic() - begun) / 60 / chosen.minutes, step / chosen.steps)
        if over >= 1:
            break
        if step % 3 == 2:
            take(0.0)
        found = {name: learner.learn(stores[name], over)["perceptual"] for name, learner in learners.items()}
        if step % 50 == 0:
            text = {name: round(float(value), 4) for name, value in found.items()}
            print(
                f"[{time.monotonic() - begun:6.1f} s] step {step} { {name: s.added for name, s in stores.items()} } {text}",
                flush=True,
            )
    at_work.close()
    _report(chosen.out, learners, held, stores, [subject.result() for subject in subjects], state.device)
    if executor:
        executor.shutdown(wait=False, cancel_futures=True)


def _report(
    out: Path, learners: dict[str, Learner], held: Store, stores: dict[str, Store], ready: list[Prepared], device: str
) -> None:
    """Measure the averaged weights of all variants, print the table and write ``ablation.json``."""
    with contextlib.ExitStack() as stack:
        networks = {name: stack.enter_context(learner.averaged()) for name, learner in learners.items()}
        measure = measure_with(Lpips("alex", device=device))
        groups = score_sets(ready, networks, measure, device)
        groups["procedural"] = validation(held, networks, measure)
    [steps] = {learner.position.step for learner in learners.values()}
    print(f"{steps} steps each\n{as_text(groups)}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    line = {
        "steps": steps,
        "card": card,
        "products": {name: store.added for name, store in stores.items()},
        "sets": {group: means(table) for group, table in groups.items()},
    }
    (out / "ablation.json").write_text(json.dumps(line, indent=1))


if __name__ == "__main__":
    main()
