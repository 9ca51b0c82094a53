"""Examples made by processes of their own while the trainer trains."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from training.examples import Example, Recipe, example


class Pool:
    """Makes the examples of a stream of seeds, a few ahead.

    Args:
        seeds: In this order; examples come out in the order in which they are done.
        recipe: Of the examples.
        workers: Processes.
    """

    def __init__(self, seeds: Iterable[int], recipe: Recipe, workers: int) -> None:
        self.recipe, self.workers = recipe, workers
        self.made = self.dropped = self.asked = 0
        self._seeds = iter(seeds)
        self._ahead: set[Future[Example | None]] = set()
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(workers, context, initializer=_settle)
        self._ask()

    def _ask(self) -> None:
        for seed in itertools.islice(self._seeds, 2 * self.workers - len(self._ahead)):
            self.asked += 1
            self._ahead.add(self._executor.submit(example, seed, self.recipe))

    def ready(self, *, patience: float = 0.0) -> Iterator[Example]:
        """Examples that are done, waiting for the first at most so many seconds.

        Raises:
            BrokenProcessPool: A process has died.
        """
        if not self._ahead:
            return
        done, self._ahead = wait(self._ahead, timeout=patience, return_when=FIRST_COMPLETED)
        self._ask()
        for future in done:
            made = future.result()
            if made is None:
                self.dropped += 1
            else:
                self.made += 1
                yield made

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # What is in the making is not wanted any more.
        for process in list(self._executor._processes.values()):
            process.kill()
        self._executor.shutdown(wait=False, cancel_futures=True)


def every(seeds: Iterable[int], recipe: Recipe, workers: int) -> Iterator[Example]:
    """All examples of these seeds that can be made, in any order."""
    with Pool(seeds, recipe, workers) as pool:
        while pool._ahead:
            yield from pool.ready(patience=60.0)


def _settle() -> None:
    import cv2
    import torch

    os.nice(5)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


__all__ = ["BrokenProcessPool", "Pool", "every"]
