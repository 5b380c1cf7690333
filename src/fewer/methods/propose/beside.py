"""Draft while the target verifies, instead of in turn (PEARL: Liu et al. 2025).

The draft model writes `length` tokens during every forward of the target, behind everything drafted before. What the
target reads meanwhile depends on how the last round went:

    pre-verify      nothing stands that was drafted: it reads the certain token alone, and so already judges the first of
                    the tokens being drafted; if that fails, no row was wasted on what follows
    post-verify     all that was drafted stood: it reads the tokens of the last round, while the next are written behind
                    them; the first of those is judged by the same forward

So the draft's length adapts: it grows while drafts stand and falls to nothing when one does not. Nobody waits if `length`
is the ratio of the two models' speeds. The two lanes, with their times, are in the ledger (`lanes`).

Does not: choose the length on line, share one core; on one thread the lanes follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fewer.parts.acceptance import RecursiveRejection
from fewer.parts.draft_model import DraftModel
from fewer.seams import Accept, Propose, Work, knob
from fewer.types import EMPTY_TREE, Rng, Told, Tree


@dataclass(frozen=True)
class Beside(Propose):
    """`length` tokens from the draft model during each forward of the target."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    length: int = knob(4, "tokens drafted during one forward of the large model", low=1)

    def law(self) -> str:
        return "line"

    def judge(self) -> Accept:
        return RecursiveRejection()

    def most(self) -> int:
        return 2 * self.length

    def start(self, told: Told) -> DraftModel:
        return DraftModel()

    def draft(self, context: list[int], limit: int, told: Told, state: DraftModel, rng: Rng) -> Work:
        return state.tree(drawn=True) if state.follow(context) else EMPTY_TREE
        yield

    def ahead(self, context: list[int], tree: Tree, limit: int, told: Told, state: DraftModel, rng: Rng) -> Work:
        if not state.follow(context):
            yield from state.begin(context, told)
        for _ in range(min(self.length, limit - len(state.tokens))):
            tip = len(state.tokens) - 1
            if tip not in state.odds:
                yield from state.expand([tip], told)
            odds = state.odds[tip]
            state.add(tip, int(odds.argmax()) if told.greedy else rng.categorical(odds.cpu()))

    def grown(self, tree: Tree, told: Told, state: DraftModel) -> Tree:
        return state.tree(drawn=True)
