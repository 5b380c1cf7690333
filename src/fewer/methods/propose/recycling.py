"""Token Recycling: what the model thought might come next, and usually throws away, is the next draft.

At every node of a verified tree, standing or rejected, the model's `breadth` likeliest next tokens overwrite that node's
row of an adjacency matrix. A draft is a breadth of successors of the last token, successors of those, and so on: of all
paths through the matrix the `budget` likeliest, where a path's chance is the product of its ranks' rates (parts/adjacency.py).
From Luo et al., "Turning Trash into Treasure" (2024). The matrix belongs to the engine and gets better over requests: drafts
differ with what ran before, texts do not.
Does not: read the prompt's logits (the engine computes none), use the paper's fixed tree of 80 nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from fewer.parts.adjacency import Adjacency, rank_rates
from fewer.parts.rates import Rates
from fewer.parts.topk import topk
from fewer.seams import Propose, Target, knob
from fewer.types import Told, Tree


@dataclass(slots=True)
class Heard:
    """One request: the engine's matrix, rates of its ranks, and what the model said last (nodes, their best successors)."""

    matrix: Adjacency
    rates: Rates
    nodes: list[int] = field(default_factory=list)
    best: np.ndarray | None = None
    vocab: int = 0

    def hear(self, tree: Tree, path: list[int], target: Target) -> None:
        """Keep the best successors at the certain token and every node; nodes that stand go last, so that theirs count."""
        order = [*(i for i in range(len(tree)) if i not in path and tree.tokens[i] >= 0), *path]
        self.vocab = target.logits.shape[1]
        best = topk(target.logits, min(self.matrix.breadth, self.vocab))[1].numpy()
        self.nodes, self.best = tree.tokens[order].tolist(), best[[0, *(i + 1 for i in order)]]

    def learn(self, context: list[int], new: list[int]) -> None:
        """Grade the ranks by what came, then put what was heard into the matrix."""
        certain = len(context) - len(new) - 1
        for i in range(certain, len(context) - 1):
            self.matrix.note(self.rates, context[i], context[i + 1])
        if self.best is not None:
            self.matrix.store(np.array([context[certain], *self.nodes]), self.best, self.vocab)
            self.best = None


@dataclass(frozen=True)
class TokenRecycling(Propose):
    """Draft from an adjacency matrix of the likeliest successors the model saw at each token, right or wrong."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    budget: int = knob(7, "tokens of a draft, all branches together", low=1)
    length: int = knob(6, "tokens of one branch", low=1)
    breadth: int = knob(8, "successors kept a token", low=1, high=12)

    def remember(self, told: Told) -> Adjacency:
        return Adjacency(self.breadth)

    def start(self, told: Told) -> Heard:
        return Heard(told.remembered(self), rank_rates(self.breadth))

    def guess(self, context: list[int], limit: int, told: Told, state: Heard) -> Tree:
        return state.matrix.grow(context[-1], state.rates, self.budget, min(self.length, limit))

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Heard) -> None:
        state.hear(tree, path, target)

    def learn(self, context: list[int], new: list[int], told: Told, state: Heard) -> None:
        state.learn(context, new)
