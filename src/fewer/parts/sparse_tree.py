"""Dynamic sparse trees: how many rows go to guesses and how many to prompt tokens, which make the next step's guesses.

A step's tree has at most `budget` rows. Guesses of depth d come from the d-th prompt token behind the token that was accepted
last, so with s prompt tokens there the next tree is at most s deep: its state. With rates[d][r], the measured chance that the
guess of rank r at depth d is right if all before it are:

    chance(node) = product of rates along its path        ends(node) = chance(node) - sum of its children's chances
    value(tree)  = sum of chances + sum of ends(node) * h(prompt tokens behind node)

h(s) is what state s is worth beyond state 0 in the long run; trees and h determine each other and are iterated until they
agree (value iteration of an average-reward decision process). For c guesses the c likeliest nodes are best; the prompt tokens
are placed by dynamic programming; all c are tried. Does not: know what rows cost (the budget is what the hardware allows).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush

import numpy as np

Rates = tuple[tuple[float, ...], ...]
ROUNDS = 200


@dataclass(frozen=True)
class Shape:
    """One state's tree. Guess i: its parent guess (-1 = the certain token), depth, rank, chance. prompts[i + 1]: prompt
    tokens behind guess i, prompts[0] behind the certain token. gain: tokens accepted a step while this tree is used."""

    parent: tuple[int, ...]
    depth: tuple[int, ...]
    rank: tuple[int, ...]
    chance: tuple[float, ...]
    prompts: tuple[int, ...]

    def ends(self) -> list[float]:
        """Chance that the walk ends at the certain token, and at each guess."""
        out = [1.0, *self.chance]
        for p, c in zip(self.parent, self.chance):
            out[p + 1] -= c
        return out

    def moves(self, states: int) -> list[float]:
        """Chance of each next state, 0 to states - 1."""
        out = [0.0] * states
        for e, n in zip(self.ends(), self.prompts):
            out[n] += e
        return out


@lru_cache(maxsize=64)
def dynamic(rates: Rates, budget: int) -> tuple[Shape, ...]:
    """The best trees of states 0 to len(rates), each of at most `budget` rows."""
    h = [0.0] * (len(rates) + 1)
    for _ in range(ROUNDS):
        best = [_best(rates, s, budget, h) for s in range(len(h))]
        new = [(old + v - best[0][0]) / 2 for old, (v, _) in zip(h, best)]
        done = max(abs(a - b) for a, b in zip(new, h)) < 1e-7
        h = new
        if done:
            break
    return tuple(shape for _, shape in best)


def gain(shapes: tuple[Shape, ...]) -> float:
    """Guesses accepted a step in the long run, from state 0 on."""
    n = len(shapes)
    lazily = (np.eye(n) + np.array([s.moves(n) for s in shapes])) / 2  # the same long run, and no cycles
    share = np.linalg.matrix_power(lazily, 1 << 24)[0]
    return float(sum(p * sum(s.chance) for p, s in zip(share, shapes)))


def _best(rates: Rates, state: int, budget: int, h: list[float]) -> tuple[float, Shape]:
    """The most valuable tree of a state under h, and its value."""
    found: list[tuple[float, Shape]] = []
    for shape in likeliest(rates[:state], budget):
        worth, prompts = _place(shape.ends(), budget - len(shape.rank), h)
        tree = Shape(shape.parent, shape.depth, shape.rank, shape.chance, prompts)
        found.append((sum(shape.chance) + worth, tree))
    return max(found, key=lambda f: f[0])


def likeliest(rates: Rates, most: int) -> list[Shape]:
    """Trees of 0 to `most` guesses without prompt tokens: the likeliest nodes first."""
    parent, depth, rank, chance = list[int](), list[int](), list[int](), list[float]()
    heap: list[tuple[float, int, int, int]] = []  # -chance, parent, depth, rank

    def offer(node: int, at: int, p: float) -> None:
        if at < len(rates):
            for r, rate in enumerate(rates[at]):
                heappush(heap, (-p * rate, node, at, r))

    offer(-1, 0, 1.0)
    out = [Shape((), (), (), (), (0,))]
    while heap and len(rank) < most:
        less, p, d, r = heappop(heap)
        parent.append(p)
        depth.append(d)
        rank.append(r)
        chance.append(-less)
        offer(len(rank) - 1, d + 1, -less)
        out.append(Shape(tuple(parent), tuple(depth), tuple(rank), tuple(chance), (0,) * (len(rank) + 1)))
    return out


def _place(ends: list[float], rows: int, h: list[float]) -> tuple[float, tuple[int, ...]]:
    """Prompt tokens at each node, `rows` at most in all, that make sum of ends * h largest."""
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] * (rows + 1)  # by rows used at most
    for e in ends:
        best = [
            max((best[n - k][0] + e * h[k], (*best[n - k][1], k)) for k in range(min(n, len(h) - 1) + 1))
            for n in range(rows + 1)
        ]
    return best[rows]
