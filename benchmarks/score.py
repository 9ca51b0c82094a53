"""LPIPS pairs a second: the batch path through Ray Data, a plain batched loop, and one pair at a time.

python benchmarks/score.py [PAIRS] [--workers N]

The same uint8 pairs of 256 px are in memory (the object store, or an array) before each clock starts; all three upload, convert
and return one number for each pair. One pair at a time is the way of the `lpips` package's own example. The lower bound is the
network alone on a batch that is already on the device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from gapray.fidelity.lpips import Lpips

SIDE, BATCH = 256, 64


class Stage:
    """What `gapray.batch.score_stages.Judge` does with pixels, without the catalogue."""

    def __init__(self) -> None:
        self._metric = Lpips(device="cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"lpips": self._metric.distance(batch["image"], batch["truth"], batch=BATCH)}


def timed(what: str, pairs: int, work: Callable[[], object]) -> float:
    best = 0.0
    for _ in range(3):
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = max(best, pairs / (time.perf_counter() - begun))
    print(f"{what:34s} {best:9.1f} pairs/s", flush=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="?", type=int, default=512)
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    gpu = torch.cuda.is_available()
    block = 512 if gpu else BATCH
    device = "cuda" if gpu else "cpu"
    rng = np.random.default_rng(0)
    images, truths = (rng.integers(0, 256, (chosen.pairs, SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2))
    metric = Lpips(device=device)
    metric.distance(images[:BATCH], truths[:BATCH])
    ready = metric._ready(images[:BATCH]), metric._ready(truths[:BATCH])

    def network_alone() -> None:
        with torch.no_grad():
            for _ in range(0, chosen.pairs, BATCH):
                metric._model(*ready)

    floor = timed("network alone, batch 64", chosen.pairs, network_alone)
    plain = timed("plain loop, batch 64", chosen.pairs, lambda: metric.distance(images, truths, batch=BATCH))
    some = min(chosen.pairs, 200 if gpu else 64)
    single = timed(
        "one pair at a time",
        some,
        lambda: [metric.distance(images[at : at + 1], truths[at : at + 1]) for at in range(some)],
    )
    ray.init(
        "local", include_dashboard=False, log_to_driver=False, object_store_memory=max(2 * 10**9, 5 * images.nbytes)
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    batches = []
    for through in range(2):  # the first pass starts the actors
        tables = [
            {"image": images[at : at + block], "truth": truths[at : at + block]} for at in range(0, chosen.pairs, block)
        ]
        held = ray.data.from_blocks([_table(columns) for columns in tables]).materialize()
        begun = time.perf_counter()
        stage = held.map_batches(
            Stage,
            batch_size=block,
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=chosen.workers, max_tasks_in_flight_per_actor=4),
            num_cpus=0.5,
            num_gpus=1 / chosen.workers if gpu else 0,
        )
        stamps, count = [], 0
        for batch in stage.iter_batches(batch_size=None):
            stamps.append(time.perf_counter())
            count += len(batch["lpips"])
        assert count == chosen.pairs
        # Steady state: from the first finished block on, so that starting processes is not counted.
        rate = (count - block) / (stamps[-1] - stamps[0]) if len(stamps) > 1 else count / (stamps[-1] - begun)
        batches.append(rate)
        print(
            f"Ray Data, {chosen.workers} workers, pass {through}: {rate:9.1f} pairs/s steady, "
            f"{count / (stamps[-1] - begun):9.1f} with the start of its actors",
            flush=True,
        )
    peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if gpu else ""
    print(
        f"batch path / plain loop {max(batches) / plain:.2f}; / one at a time {max(batches) / single:.1f}; "
        f"plain loop / network alone {plain / floor:.2f}{peak}"
    )


def _table(columns: dict[str, np.ndarray]) -> pa.Table:
    from ray.data.extensions import ArrowTensorArray

    return pa.table({name: ArrowTensorArray.from_numpy(values) for name, values in columns.items()})


if __name__ == "__main__":
    main()
