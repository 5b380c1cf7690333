"""Token Recycling: what the model thought might come next, and usually throws away, is the next draft.

At every node of a verified tree, standing or rejected, the model's `breadth` likeliest next tokens overwrite that node's
row of an adjacency matrix. A draft is a breadth of successors of the last token, successors of those, and so on: of all
paths through the matrix the `budget` likeliest, where a path's chance is the product of its ranks' rates (parts/adjacency.py).
From Luo et al., "Turning Trash into Treasure" (2024). The matrix belongs to the engine and gets better over requests: drafts
differ with what ran before, texts do not.
Does not: read the prompt's logits (the engine computes none), use the paper's fixed tree of 80 nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fewer.parts.adjacency import Adjacency, Recycled
from fewer.seams import BEST, Propose, Target, knob
from fewer.types import Told, Tree


@dataclass(frozen=True)
class TokenRecycling(Propose):
    """Draft from an adjacency matrix of the likeliest successors the model saw at each token, right or wrong."""

    needs: ClassVar[frozenset[str]] = frozenset({"best"})

    budget: int = knob(7, "tokens of a draft, all branches together", low=1)
    length: int = knob(6, "tokens of one branch", low=1)
    breadth: int = knob(8, "successors kept a token", low=1, high=BEST)

    def remember(self, told: Told) -> Adjacency:
        return Adjacency(self.breadth)

    def start(self, told: Told) -> Recycled:
        return Recycled(told.remembered(self), told.vocab)

    def guess(self, context: list[int], limit: int, told: Told, state: Recycled) -> Tree:
        return state.grow(context[-1], self.budget, min(self.length, limit))

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Recycled) -> None:
        state.hear(tree, path, target)

    def learn(self, context: list[int], new: list[int], told: Told, state: Recycled) -> None:
        state.learn(context, new)
