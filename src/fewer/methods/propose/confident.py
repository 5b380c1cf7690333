"""Let the small model write while it is sure, and the large one correct what it finds too unlikely (BiLD: Kim et al. 2023).

    fallback    the small model writes on until its highest probability is below `fallback` (or `length` tokens are there)
    rollback    of what it wrote, a token x stands while the large model's -log p(x) is at most `rollback`; at the first
                that does not, the large model takes its own token and the rest is discarded

rollback = 0 lets nothing stand that the large model would not have taken itself, which is the lossless text;
fallback = 1 lets the small model write nothing. The distance is that of the authors' code, cross-entropy with the small
model's hard choice.

Does not: align the small model to the large one (the paper's optional fine-tuning), look at the text as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fewer.parts.draft_model import DraftModel
from fewer.seams import Accept, Propose, Target, Work, knob
from fewer.types import Rng, Told, Tree


@dataclass(frozen=True)
class Rollback(Accept):
    """A draft stands unless the target finds it too unlikely."""

    distance: float = knob(0.0, "largest -log p of a token that stands", low=0.0)

    def choose(self, node: int, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> int:
        for kid in tree.children(node):
            token = int(tree.tokens[kid])
            if -target.probs(node, soft=True)[token].log() <= self.distance:
                return token
        return rng.categorical(target.probs(node).cpu())


@dataclass(frozen=True)
class Confident(Propose):
    """A line from the draft model that ends where it is not sure."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    fallback: float = knob(0.6, "the small model stops below this probability", low=0.0, high=1.0)
    rollback: float = knob(2.0, "largest -log p, by the large model, of a token that stands", low=0.0)
    length: int = knob(10, "tokens that the small model writes at most", low=1)

    def judge(self) -> Accept:
        return Rollback(self.rollback)

    def most(self) -> int:
        return self.length

    def start(self, told: Told) -> DraftModel:
        return DraftModel()

    def draft(self, context: list[int], limit: int, told: Told, state: DraftModel, rng: Rng) -> Work:
        yield from state.begin(context, told)
        tip = -1
        for level in range(min(limit, self.length)):
            if level:
                yield from state.expand([tip], told)
            odds = state.odds[tip]
            if float(odds.max()) < self.fallback:
                break
            tip = state.add(tip, int(odds.argmax()) if told.greedy else rng.categorical(odds.cpu()))
        return state.tree()
