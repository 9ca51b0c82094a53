"""Package, render and score the samples repeatedly while workers are killed at random: does anything leak or get lost?

    python benchmarks/soak.py [--minutes 30] [--kill-every 120] [--seed N]

One Ray and one driver are used throughout. Each round works on copies of the samples with unique bytes, into a catalogue of its
own, so that nothing is skipped. Every two minutes one worker process is killed by SIGKILL. After every round the catalogue must
hold each product once, with a video and scores, and the driver's memory, its open files, those of Ray's daemons, and the number
of Ray's processes are recorded. At the end a line is fitted to each: its slope per hour shows whether something leaks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SMALL = ["orbit.size=128", "orbit.voxels=64", "orbit.frames=8", "fidelity.leave_out=1", "fidelity.size=128"]
PARTS = ["run.products_per_part=1", "run.products_per_block=1", "run.videos_per_part=1"]


class Killer(threading.Thread):
    """Kills one of the run's worker processes at regular intervals."""

    def __init__(self, every: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.every, self.random, self.killed = every, random.Random(seed), 0
        self.over = threading.Event()

    def run(self) -> None:
        due = time.monotonic() + self.every
        while not self.over.wait(0.5):
            if time.monotonic() < due:
                continue
            victims = [
                process
                for process in ray_processes()
                if any(word in title(process) for word in ("MapWorker", "MapBatches"))
            ]
            if not victims:
                continue
            victim = self.random.choice(victims)
            print(f"  killed {title(victim)[:50]}", flush=True)
            victim.kill()
            self.killed += 1
            due = time.monotonic() + self.every


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def ray_processes() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def daemons() -> list[psutil.Process]:
    return [
        process
        for process in ray_processes()
        if any(name in title(process) for name in ("gcs_server", "raylet/raylet"))
    ]


def over(processes: list[psutil.Process], read: Callable[[psutil.Process], int]) -> int:
    total = 0
    for process in processes:
        try:
            total += read(process)
        except psutil.Error:
            continue
    return total


def vital_signs() -> dict[str, float]:
    me = psutil.Process()
    return {
        "driver MB": me.memory_info().rss / 1e6,
        "driver files": me.num_fds(),
        "driver threads": me.num_threads(),
        "daemons MB": over(daemons(), lambda process: process.memory_info().rss) / 1e6,
        "daemons files": over(daemons(), lambda process: process.num_fds()),
        "Ray processes": len(ray_processes()),
    }


def one_round(folder: Path, number: int, profile: Any) -> dict[str, int]:
    """Package, render and score fresh copies of the samples; returns the number of rejects."""
    import gapray

    source, catalog = folder / f"shoot-{number}", folder / f"catalog-{number}"
    for name in ("mug", "supplement"):
        target = source / name
        target.mkdir(parents=True)
        for photo in (ROOT / "samples" / "captures" / name).iterdir():
            (target / photo.name).write_bytes(photo.read_bytes() + f"round {number}".encode())
    runs = [
        gapray.package(source, out=catalog, profile=profile),
        gapray.render(catalog, profile=profile, preset="webp"),
        gapray.score(catalog, profile=profile),
    ]
    opened = gapray.open_catalog(str(catalog))
    names = ["mug", "supplement"]
    for table in (opened.products(), opened.videos()):
        assert table["product_id"].to_pylist() == names, (number, table)
    ours = [row["product_id"] for row in opened.verdicts().to_pylist() if row["label"] == "gapray"]
    assert ours == names, (number, ours)
    assert all(len(opened.package(name).views) == 8 for name in names)
    shutil.rmtree(source)
    shutil.rmtree(catalog)
    return {"rejected": sum(run.rejected for run in runs)}


def slope_an_hour(hours: list[float], values: list[float]) -> float:
    return float(np.polyfit(hours, values, 1)[0]) if len(hours) > 2 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kill-every", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    from gapray.profile import load_profile

    profile = load_profile("classic", overrides=[*SMALL, *PARTS], environment={})
    folder = Path(tempfile.mkdtemp(prefix="gapray-soak-"))
    ray.init("local", include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    killer = Killer(given.kill_every, given.seed)
    killer.start()
    print(f"seed {given.seed}, {given.minutes:g} minutes, a kill every {given.kill_every:g} s", flush=True)
    started, number, signs, seconds, rejected = time.monotonic(), 0, [], [], 0
    while time.monotonic() - started < given.minutes * 60:
        begun = time.monotonic()
        rejected += one_round(folder, number, profile)["rejected"]
        seconds.append(time.monotonic() - begun)
        number += 1
        signs.append({"hours": (time.monotonic() - started) / 3600, **vital_signs()})
        shown = "  ".join(f"{name} {value:.0f}" for name, value in signs[-1].items() if name != "hours")
        print(f"round {number:3d} {seconds[-1]:6.1f} s  {shown}", flush=True)
    killer.over.set()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    # The first rounds load libraries and fill caches.
    kept = signs[len(signs) // 5 :]
    hours = [sign["hours"] for sign in kept]
    print(
        f"{number} rounds, {2 * number} products, {killer.killed} kills, {rejected} rejected, 0 lost; "
        f"median round {statistics.median(seconds):.1f} s, slowest {max(seconds):.1f} s"
    )
    summary = {}
    for name in kept[0]:
        if name != "hours":
            values = [sign[name] for sign in kept]
            summary[name] = {"first": values[0], "last": values[-1], "an hour": slope_an_hour(hours, values)}
            print(f"{name:16s} {values[0]:8.0f} -> {values[-1]:8.0f}, slope {summary[name]['an hour']:+8.1f} an hour")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
