"""Measure how fast examples are made on this machine.

python -m training.measure [--seconds 40] [--workers 8 16] [--devices cpu cuda]

Prints, for each number of processes and each device for reconstruction, the shapes and frames made per second once the
processes have warmed up, and the errors of calibration on them, which training will see.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
import torch

from training.examples import Example, Recipe
from training.pool import Pool

SEED = 2_000_000_000


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[14])
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--size", type=int, default=256)
    chosen = parser.parse_args()
    renderer = "cuda" if torch.cuda.is_available() else "cpu"
    for workers, device in itertools.product(chosen.workers, chosen.devices):
        recipe = Recipe(size=chosen.size, renderer=renderer, device=device)
        made: list[Example] = []
        jobs = ((seed, recipe) for seed in itertools.count(SEED))
        with Pool(jobs, workers) as pool:
            while not made:
                made += pool.ready(patience=60)
            begun, before = time.perf_counter(), pool.finished
            while time.perf_counter() - begun < chosen.seconds:
                made += pool.ready(patience=1)
            spent, shapes = time.perf_counter() - begun, pool.finished - before
        off = [abs(example.facts["found_elevation_deg"] - example.facts["elevation_deg"]) for example in made]
        print(
            f"{workers} processes, reconstruction on {device}: {shapes / spent:.2f} shapes/s, "
            f"{len(made) * recipe.targets / spent:.1f} frames/s, {pool.dropped} of {pool.finished} dropped; elevation off by "
            f"{np.median(off):.1f} degrees (median), {np.quantile(off, 0.9):.1f} (90 %), "
            f"turned round {sum(example.facts['direction'] < 0 for example in made)} of {len(made)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
