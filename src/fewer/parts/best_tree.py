"""The best draft tree of a given size and depth, when a child's rank alone says how likely it stands; and the best size.

rates[k] is the chance that the k-th child of a node that stands, and none of its siblings, is what comes next. A tree then
gains the sum over its nodes of the product of rates on their paths, and the best tree follows from

    V(l, k, n) = max over y of  rates[k] * (1 + V(l - 1, 0, y - 1)) + V(l, k + 1, n - y)        or 0: no further child

the most that n nodes gain in l levels below a node that has k children already: its next child gets a subtree of y nodes,
child included, the children after it the rest. What pays best on a machine is the size and depth with the greatest

    tokens a unit of time = (1 + V(l, 0, n)) / (C(1 + n) + l * step)        C(m): cost of m rows; step: of drafting a level

Paper: Chen et al. 2024 (Sequoia). Does not: use what the drafter thinks of its own tokens, let rates depend on the depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NodeCounts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Shape:
    """children[i]: how many children node i of the level before has, level by level; the certain token is level 0.

    gain: expected number of nodes that stand.
    """

    children: NodeCounts
    gain: float

    @property
    def nodes(self) -> int:
        return sum(map(sum, self.children))


class Table:
    """V for up to `nodes` nodes and `levels` levels, and the trees behind it."""

    def __init__(self, rates: tuple[float, ...], nodes: int, levels: int) -> None:
        ranks = len(rates)
        self.gain = np.zeros((levels + 1, ranks + 1, nodes + 1))
        self._first = np.zeros(
            (levels + 1, ranks + 1, nodes + 1), np.int64
        )  # nodes of the next child's subtree; 0 = none
        for level in range(1, levels + 1):
            below = self.gain[level - 1, 0]
            for rank in range(ranks - 1, -1, -1):
                later = self.gain[level, rank + 1]
                for n in range(1, nodes + 1):
                    gains = rates[rank] * (1 + below[:n]) + later[n - 1 :: -1]
                    y = int(gains.argmax())
                    if gains[y] > 0:
                        self.gain[level, rank, n], self._first[level, rank, n] = gains[y], y + 1

    def shape(self, nodes: int, levels: int) -> Shape:
        """The best tree of at most so many nodes and levels."""
        children: list[tuple[int, ...]] = []
        here = [nodes]  # what each node of this level may have below it
        for level in range(levels, 0, -1):
            parts = [self._split(level, n) for n in here]
            if not any(parts):
                break
            children.append(tuple(map(len, parts)))
            here = [n - 1 for part in parts for n in part]
        return Shape(tuple(children), float(self.gain[levels, 0, nodes]))

    def _split(self, level: int, nodes: int) -> list[int]:
        """Sizes of the subtrees of a node's children, in the order of their ranks."""
        out: list[int] = []
        while nodes and len(out) < self._first.shape[1] and (first := int(self._first[level, len(out), nodes])):
            out.append(first)
            nodes -= first
        return out


@lru_cache(maxsize=64)
def table(rates: tuple[float, ...], nodes: int, levels: int) -> Table:
    return Table(rates, nodes, levels)


def fastest(rates: tuple[float, ...], nodes: int, levels: int, cost: Callable[[int], float], step: float) -> Shape:
    """The tree of 1 to so many nodes and levels that yields the most tokens a unit of time."""
    t = table(rates, nodes, levels)
    spent = np.array([cost(1 + n) for n in range(1, nodes + 1)]) + step * np.arange(1, levels + 1)[:, None]
    level, n = np.unravel_index(np.argmax((1 + t.gain[1:, 0, 1:]) / spent), spent.shape)
    return t.shape(int(n) + 1, int(level) + 1)
