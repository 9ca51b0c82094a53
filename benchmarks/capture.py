"""Measure how close to the true angles the views picked from a turntable video are.

    python benchmarks/capture.py [--shots 12] [--spins ../shared/data/spins] [--seed 7]

Samples: both products, re-projected by their true depth at every degree, are filmed at 512 pixels from any start, in both
directions, over 1.03 to 2.2 turns of 5 to 10 s, with speed varying by up to 20 % over one or two cycles a turn, at 24, 30 and 60
frames a second, stored rotated by 0 to 270 degrees, H.264 at crf 18 to 30; half of them with a hand in view for half a second,
half with jittering frame times. A pick is right if its frame shows its angle to within 4 degrees. Spins: photo series shown one
by one; their steps are up to 10 degrees, so a pick is judged by the azimuth written for it. A refused video counts as eight
wrong picks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from gapray.errors import InputError
from gapray.inspect.film import pick_frames, read_turntable
from tests.inspect.turns import Shot, film, pick_errors, play, sample_turn, spin_turn

RIGHT_DEG = 4.0
WORST = 180.0


def shots(count: int, rng: np.random.Generator) -> list[Shot]:
    return [
        Shot(
            start_deg=rng.uniform(0, 360),
            turns=rng.uniform(1.03, 2.2),
            direction=int(rng.choice([1, -1])),
            fps=int(rng.choice([24, 30, 60])),
            seconds=rng.uniform(5, 10),
            ripple=0.2,
            cycles=float(rng.choice([1, 2])),
            phase=rng.uniform(0, 6.28),
            crf=int(rng.choice([18, 23, 30])),
            rotation=int(rng.choice([0, 90, 180, 270])),
            hand=float(rng.uniform(0.1, 0.9)) if rng.random() < 0.5 else None,
            jitter=float(rng.choice([0, 0.5])),
        )
        for _ in range(count)
    ]


def of_sample(product: str, count: int, rng: np.random.Generator, path: Path) -> list[float]:
    turn, errors = sample_turn(product, 512), []
    for shot in shots(count, rng):
        shown = film(path, turn, shot)
        try:
            errors.extend(pick_errors(pick_frames(read_turntable(path)), shown))
        except InputError as error:
            print(f"  {product} {shot}: {error.code}: {error.message}", file=sys.stderr)
            errors.extend([WORST] * 8)
    return errors


def of_spin(folder: Path, count: int, rng: np.random.Generator, path: Path) -> list[float]:
    photos, errors = spin_turn(folder), []
    for _ in range(count):
        start, turns, direction = int(rng.integers(len(photos))), rng.uniform(1.05, 1.8), int(rng.choice([1, -1]))
        shown = play(path, photos, start=start, turns=turns, direction=direction)
        try:
            found = read_turntable(path)
            true = found.turn.direction * shown
            errors.extend(abs((true[one.frame] - one.azimuth_deg + 180) % 360 - 180) for one in pick_frames(found))
        except InputError as error:
            print(f"  {folder.name} from {start}, {turns:.2f}: {error.code}: {error.message}", file=sys.stderr)
            errors.extend([WORST] * 8)
    return errors


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shots", type=int, default=12, help="videos of each product")
    options.add_argument("--spins", type=Path, default=Path("../shared/data/spins"))
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    rng = np.random.default_rng(chosen.seed)
    began, everything = time.monotonic(), {"samples": [], "spins": []}
    print(f"{'product':24}{'picks':>7}{'within 4°':>11}{'median':>8}{'95 %':>7}{'worst':>7}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turn.mp4"
        jobs = [
            ("samples", name, lambda n=name: of_sample(n, chosen.shots, rng, path)) for name in ("mug", "supplement")
        ]
        spins = (
            sorted(spin for spin in chosen.spins.glob("*") if not spin.name.startswith("eth80")) if chosen.spins else []
        )
        jobs += [("spins", spin.name, lambda f=spin: of_spin(f, chosen.shots, rng, path)) for spin in spins]
        for kind, name, job in jobs:
            errors = np.array(job())
            everything[kind].extend(errors)
            line(name, errors)
    for kind, errors in everything.items():
        if errors:
            line(f"all {kind}", np.array(errors))
    print(f"{time.monotonic() - began:.0f} s")


def line(name: str, errors: np.ndarray) -> None:
    right, median, high, worst = (
        (errors <= RIGHT_DEG).mean(),
        np.median(errors),
        np.percentile(errors, 95),
        errors.max(),
    )
    print(f"{name:24}{len(errors):7}{right:11.1%}{median:8.2f}{high:7.2f}{worst:7.2f}", flush=True)


if __name__ == "__main__":
    main()
