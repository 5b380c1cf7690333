"""Two models at once: a forward of one in a thread of its own, while this thread runs the other's.

Each works with one thread and none of the pool's, so two cores serve two models; kernels give the same bits either way.
Where that cannot be, because a model is not packed or there is one thread only, the two follow each other; so they do when
the forward has many rows, which all threads share better than two models do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fewer.kernels.cpu import alone, threads
from fewer.models.decoder import Decoder

FEW = 16  # rows of a forward that is limited by reading the weights
T = TypeVar("T")
Timed = tuple[T, float, float]  # a result, when it was begun, when it was there


def timed(work: Callable[[], T]) -> Timed[T]:
    start = time.perf_counter()
    return work(), start, time.perf_counter()


class Lanes:
    """Runs one forward beside other work. The thread lives as long as this object."""

    def __init__(self, models: Iterable[Decoder]) -> None:
        self._apart = threads() > 1 and all(m.packed for m in models)
        self._pool: ThreadPoolExecutor | None = None

    def run(self, forward: Callable[[], T], rows: int, other: Callable[[], None]) -> Timed[T]:
        """`forward` and `other`, at the same time if they can be. Raises what either raises, when both have ended."""
        if not self._apart or rows > FEW:
            out = timed(forward)
            other()
            return out
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "lane")
        future = self._pool.submit(self._alone, forward)
        try:
            with alone():
                other()
        finally:
            out = future.result()
        return out

    @staticmethod
    def _alone(forward: Callable[[], T]) -> Timed[T]:
        with alone():
            return timed(forward)
