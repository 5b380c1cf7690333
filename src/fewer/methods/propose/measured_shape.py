"""Draft trees whose shape is the best for how often children of each rank have stood, and for what rows cost.

    hazard[k] = how often the k-th child of a node stood when those before it failed     learned on line, from a stated prior
    rate[k]   = hazard[k] * product of (1 - hazard[j]) over j < k

A dynamic program (parts/best_tree.py) finds the tree that gains most under these rates, and of all sizes and depths the one
with the most tokens a unit of time. Its nodes are then filled level by level: siblings are drawn from a second model
without replacement and judged by recursive rejection, and greedy requests get its likeliest tokens, in order.

Paper: Chen et al. 2024 (Sequoia), which measures rates and costs once, offline, for a pair of models and a machine. Does
not: look at the odds of the tokens at hand when it chooses the shape (methods/propose/best_first.py does).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fewer.parts.acceptance import RecursiveRejection
from fewer.parts.best_tree import fastest
from fewer.parts.draft_model import DraftModel, draw
from fewer.parts.rates import Rates
from fewer.parts.trees import stood
from fewer.seams import Accept, Propose, Work, knob
from fewer.types import EMPTY_TREE, Rng, Told, Tree

# Over 449 greedy tokens, code and chat, of Qwen2.5-Coder 1.5B with 0.5B as the draft model (code alone: 0.92, 0.67, 0.5).
HAZARDS = (0.8, 0.55, 0.45, 0.25, 0.25, 0.15)
STEP = 0.02  # rates are rounded to this, so that a shape is found once and used for a while


@dataclass
class Standing:
    """One request's lane, what it has learned about ranks, and the draft that is out."""

    lane: DraftModel = field(default_factory=DraftModel)
    hazards: Rates = field(default_factory=lambda: Rates(HAZARDS))
    tree: Tree = EMPTY_TREE

    def rates(self) -> tuple[float, ...]:
        """Chance that the k-th child is what comes next, for every rank."""
        out, left = [], 1.0
        for rank in range(len(HAZARDS)):
            out.append(round(left * self.hazards[rank] / STEP) * STEP)
            left *= 1 - self.hazards[rank]
        return tuple(out)

    def heard(self, new: list[int]) -> None:
        """The text went on with `new`."""
        path = stood(self.tree, new)
        for node, nxt in zip([-1, *path], [*path, None]):
            for rank, child in enumerate(self.tree.children(node)):
                self.hazards.note(rank, child == nxt)
                if child == nxt:
                    break
        self.tree = EMPTY_TREE


@dataclass(frozen=True)
class MeasuredShape(Propose):
    """The shape that has paid best so far, of at most `budget` nodes."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    budget: int = knob(16, "tokens of a draft at most, all branches together", low=1)
    length: int = knob(8, "tokens of one branch at most", low=1)

    def law(self) -> str:
        return "distinct"

    def judge(self) -> Accept:
        return RecursiveRejection()

    def start(self, told: Told) -> Standing:
        return Standing()

    def draft(self, context: list[int], limit: int, told: Told, state: Standing, rng: Rng) -> Work:
        lane, levels = state.lane, min(limit, self.length)
        shape = fastest(state.rates(), self.budget, levels, told.cost, told.weights.get("draft", 1.0))
        yield from lane.begin(context, told)
        tips: list[int | None] = [-1]
        for level, counts in enumerate(shape.children):
            if level:
                yield from lane.expand([t for t, n in zip(tips, counts) if n and t is not None], told)
            below: list[int | None] = []
            for tip, count in zip(tips, counts):
                nodes = list[int]()
                if tip is not None and count:
                    nodes = [lane.add(tip, token) for token in draw(lane.odds[tip], count, told, rng)]
                below += nodes
                below += [None] * (count - len(nodes))  # fewer tokens are possible than the shape has room for
            tips = below
        state.tree = lane.tree(drawn=not told.greedy)
        return state.tree

    def learn(self, context: list[int], new: list[int], told: Told, state: Standing) -> None:
        state.heard(new)
