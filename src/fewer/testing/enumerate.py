"""Exact sampling: run a random program down every branch of its draws and add up the probabilities.

All randomness goes through `Rng.categorical(p)`. An `Rng` that is told which branch to take at each draw turns a program
into a tree; a leaf's probability is the product of its branches. So two distributions are compared to the last digit and
no statistics are needed. What this does not do: large vocabularies (a leaf is one whole run).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import numpy as np
import torch

from fewer.types import Rng

Outcome = TypeVar("Outcome", bound=Hashable)


class Scripted(Rng):
    """Takes the branches it is given, then the first possible one; remembers the others and the probability so far."""

    def __init__(self, script: tuple[int, ...] = ()) -> None:
        self.script, self.taken = script, list[int]()
        self.probability = 1.0
        self.others: list[tuple[int, ...]] = []  # scripts of the branches left aside

    def spawn(self) -> Rng:
        """Itself: drafts and text are enumerated together."""
        return self

    def categorical(self, p: torch.Tensor | np.ndarray) -> int:
        w = np.asarray(p, dtype=np.float64)
        possible = np.flatnonzero(w)
        if (w < 0).any() or not np.isfinite(w).all() or not len(possible):
            raise ValueError(f"categorical needs finite non-negative weights, at least one of them positive; got {w}")
        n = len(self.taken)
        if n < len(self.script):
            choice = self.script[n]
        else:
            choice = int(possible[0])
            self.others += [(*self.taken, int(i)) for i in possible[1:]]
        self.taken.append(choice)
        self.probability *= float(w[choice] / w.sum())
        return choice


def distribution(run: Callable[[Rng], Outcome], limit: int = 100_000) -> dict[Outcome, float]:
    """Every outcome of `run(rng)` with its exact probability. `run` must draw only through the rng it is given.

    Raises ValueError for more than `limit` branches.
    """
    out: dict[Outcome, float] = {}
    todo: list[tuple[int, ...]] = [()]
    for _ in range(limit):
        rng = Scripted(todo.pop())
        result = run(rng)
        out[result] = out.get(result, 0.0) + rng.probability
        todo += rng.others
        if not todo:
            return out
    raise ValueError(f"more than {limit} branches: shorten the run or shrink the vocabulary")


def total_variation(a: dict[Outcome, float], b: dict[Outcome, float]) -> float:
    """Half the summed difference of two distributions: 0 = equal, 1 = disjoint."""
    return 0.5 * sum(abs(a.get(k, 0.0) - b.get(k, 0.0)) for k in a.keys() | b.keys())
