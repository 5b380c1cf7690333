"""An adjacency matrix of tokens: for every token the k likeliest successors when a model last looked at it, best first.

(V, k) int32, allocated when the vocabulary is known and touched only where something is stored: 4.9 MB for 152k tokens
and k = 8. Trees grow from it best first, with a rate a rank: how often the text really went on with the successor of that
rank (learned on line). Does not: keep probabilities, look further back than one token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import numpy as np

from fewer.parts.rates import Rates
from fewer.parts.trees import Sapling
from fewer.seams import Target
from fewer.types import Tree

RANKS = (0.4, 0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.01)  # of the model's own successors, when the token comes again


def rank_rates(breadth: int) -> Rates:
    """Rates of `breadth` ranks to begin with."""
    return Rates([RANKS[min(i, len(RANKS) - 1)] for i in range(breadth)], weight=16)


class Adjacency:
    """The matrix; it may serve many requests of one model."""

    def __init__(self, breadth: int) -> None:
        self.breadth = breadth
        self.rows = np.zeros((0, breadth), np.int32)  # token + 1; 0 = none

    def store(self, tokens: np.ndarray, best: np.ndarray, vocab: int) -> None:
        """tokens (n,), best (n, at most k) successors, best first. Of equal tokens the last one counts."""
        if not len(self.rows):
            self.rows = np.zeros((vocab, self.breadth), np.int32)
        self.rows[tokens, : best.shape[1]] = best + 1

    def successors(self, token: int) -> list[int]:
        """The stored successors, best first; [] if there are none."""
        if not len(self.rows):
            return []
        return [t - 1 for t in self.rows[token].tolist() if t]

    def note(self, rates: Rates, token: int, follower: int) -> None:
        """`follower` came after `token`: teach the rates of all ranks."""
        for rank, successor in enumerate(self.successors(token)):
            rates.note(rank, successor == follower)

    def grow(self, token: int, rates: Rates, nodes: int, levels: int) -> Tree:
        """The `nodes` likeliest nodes of the tree of successors of successors below `token`, `levels` deep."""
        draft, order, heap = Sapling(), count(), list[tuple]()
        by_rank = [rates[rank] for rank in range(self.breadth)]

        def offer(parent: int, token: int, level: int, chance: float) -> None:
            for successor, rate in zip(self.successors(token), by_rank):
                heappush(heap, (-chance * rate, next(order), parent, successor, level))

        offer(-1, token, 0, 1.0)
        while heap and len(draft) < nodes:
            less, _, parent, token, level = heappop(heap)
            here = draft.add(parent, token, -less)
            if level + 1 < levels:
                offer(here, token, level + 1, -less)
        return draft.tree()


@dataclass(slots=True)
class Recycled:
    """One request's use of a matrix: rates of its ranks, and what the model said last (nodes, their best successors)."""

    matrix: Adjacency
    vocab: int
    rates: Rates = field(init=False)
    nodes: list[int] = field(default_factory=list)
    best: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.rates = rank_rates(self.matrix.breadth)

    def grow(self, token: int, nodes: int, levels: int) -> Tree:
        """A draft below `token`; see Adjacency.grow."""
        return self.matrix.grow(token, self.rates, nodes, levels)

    def hear(self, tree: Tree, path: list[int], target: Target) -> None:
        """Keep the best successors at the certain token and every node; nodes that stand go last, so that theirs count."""
        order = [*(i for i in range(len(tree)) if i not in path and tree.tokens[i] >= 0), *path]
        self.nodes = tree.tokens[order].tolist()
        self.best = target.best[[0, *(i + 1 for i in order)], : self.matrix.breadth]

    def learn(self, context: list[int], new: list[int]) -> None:
        """Grade the ranks by what came, then put what was heard into the matrix."""
        certain = len(context) - len(new) - 1
        for i in range(certain, len(context) - 1):
            self.matrix.note(self.rates, context[i], context[i + 1])
        if self.best is not None:
            self.matrix.store(np.array([context[certain], *self.nodes]), self.best, self.vocab)
            self.best = None
