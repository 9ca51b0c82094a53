"""Worker processes that make examples while the trainer trains."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from types import TracebackType

from training.examples import Example, Recipe, examples


class Pool:
    """Makes the examples of a stream of seeds, a few ahead of time.

    Args:
        jobs: Seeds and their recipes, in order; examples are returned in the order in which they are finished.
        workers: Number of processes; with 0, `ready` makes one example whenever it is called.
    """

    def __init__(self, jobs: Iterable[tuple[int, Recipe]], workers: int) -> None:
        self.workers = workers
        self.made = self.dropped = self.asked = self.finished = 0
        self.exhausted = False
        """Whether all seeds are used up and all their examples have been taken."""
        self._jobs = iter(jobs)
        self._ahead: set[Future[list[Example]]] = set()
        self._executor: ProcessPoolExecutor | None = None
        if workers:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(workers, context, initializer=_settle)
        self._ask()

    def _ask(self) -> None:
        if self._executor:
            for seed, recipe in itertools.islice(self._jobs, 2 * self.workers - len(self._ahead)):
                self.asked += 1
                self._ahead.add(self._executor.submit(examples, seed, recipe))

    def _made_here(self) -> None:
        for seed, recipe in itertools.islice(self._jobs, 1):
            self.asked += 1
            made: Future[list[Example]] = Future()
            made.set_result(examples(seed, recipe))
            self._ahead.add(made)

    def ready(self, *, patience: float = 0.0) -> Iterator[Example]:
        """Yield finished examples, waiting at most `patience` seconds for the first.

        Raises:
            concurrent.futures.process.BrokenProcessPool: A process has died.
        """
        if not self._executor:
            self._made_here()
        if not self._ahead:
            self.exhausted = True
            return
        done, self._ahead = wait(self._ahead, timeout=patience, return_when=FIRST_COMPLETED)
        self._ask()
        for future in done:
            made = future.result()
            self.finished += 1
            self.dropped += not made
            self.made += len(made)
            yield from made

    def give_up(self) -> None:
        """Request nothing more."""
        self._jobs, self._ahead = iter(()), set()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._executor:
            return
        # Unfinished examples are no longer wanted.
        for process in list(self._executor._processes.values()):
            process.kill()
        self._executor.shutdown(wait=False, cancel_futures=True)


def every(jobs: Iterable[tuple[int, Recipe]], workers: int) -> Iterator[Example]:
    """All examples of these jobs that can be made, in any order."""
    with Pool(jobs, workers) as pool:
        while not pool.exhausted:
            yield from pool.ready(patience=60.0)


def _settle() -> None:
    import cv2
    import torch

    os.nice(5)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
