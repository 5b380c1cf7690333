"""Draft trees grown where they are most likely to stand: every node's worth is estimated from the draft model's odds.

    chance(node) = product of the odds along its path                        an estimate that the target says this path
    likeliest:  value of the next child of a node = chance of that child     (children in the order of their odds)
    drawn:      value of the next child of a node = chance(node) * odds of all tokens that are not its children yet

The `budget` children of the greatest value make the tree. A value never exceeds those above and before it, so they are a
tree, and they are found best first: the `width` most likely open nodes are read in one forward of the draft model, until
none could have a child among the best. Whatever the width, the tree is the same; it only trades forwards for rows.

DySpec (Xiong et al. 2024) draws: a value says how likely a child will be tried, when all before it failed, and does not
look at the token drawn there, so recursive rejection stays exact. width = 1 is its Algorithm 1; `floor` with a large
budget is its threshold variant. SpecExec (Svirschevski et al. 2024) takes the likeliest and lets the target draw: all its
distributions over the tree are kept, and the walk goes on until it leaves the tree, which is the engine's own acceptance.
Greedy requests always get the likeliest. Does not: learn how far the odds can be trusted (the pace does, where it cuts).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from heapq import heappop, heappush, heappushpop, nlargest
from typing import ClassVar

import numpy as np
import torch

from fewer.parts.acceptance import RecursiveRejection
from fewer.parts.draft_model import DraftModel, likeliest
from fewer.seams import Accept, Propose, Work, knob
from fewer.types import Rng, Told, Tree


class Likely:
    """The children of a node in the order of their odds."""

    def __init__(self, odds: torch.Tensor, most: int) -> None:
        self._left = likeliest(odds, most)[::-1]

    def share(self) -> float:
        """Of the node's chance, what the next child is worth; 0 = there is none."""
        return self._left[-1][1] if self._left else 0.0

    def take(self, rng: Rng) -> int:
        return self._left.pop()[0]


class Drawn:
    """The children of a node as drawn without replacement; what one is worth is known before it is drawn."""

    def __init__(self, odds: torch.Tensor) -> None:
        self._left = odds.clone()

    def share(self) -> float:
        return float(self._left.sum())

    def take(self, rng: Rng) -> int:
        token = rng.categorical(self._left.cpu())
        self._left[token] = 0
        return token


@dataclass
class Growth:
    """A tree being grown: the values of its nodes, and the next child of every node whose odds are known."""

    lane: DraftModel
    most: int
    floor: float
    values: list[float] = field(default_factory=list)
    _best: list[float] = field(default_factory=list)  # the `most` greatest values, smallest first
    _heap: list[tuple[float, int, Likely | Drawn]] = field(default_factory=list)  # -value, node: of its next child

    def wants(self, value: float) -> bool:
        """Would a node of this value be in the tree, as far as is known?"""
        return value > 0 and value >= self.floor and (len(self._best) < self.most or value > self._best[0])

    def open(self, node: int, children: Likely | Drawn) -> None:
        """A node whose odds are known."""
        self._offer(self.values[node] if node >= 0 else 1.0, node, children)

    def sprout(self, rng: Rng) -> list[int]:
        """Add children, best first, as long as they are wanted; the new nodes."""
        new = []
        while self._heap and self.wants(-self._heap[0][0]):
            less, node, children = heappop(self._heap)
            new.append(self.lane.add(node, children.take(rng)))
            self.values.append(-less)
            (heappush if len(self._best) < self.most else heappushpop)(self._best, -less)
            self._offer(-less, node, children)
        return new

    def tree(self, drawn: bool) -> Tree:
        """The nodes of the greatest values."""
        tree = self.lane.tree(drawn)
        if not len(tree):
            return tree
        best = np.argsort(-np.array(self.values), kind="stable")[: self.most]
        return replace(tree, chance=np.array(self.values)).only(np.sort(best))

    def _offer(self, above: float, node: int, children: Likely | Drawn) -> None:
        """Queue the next child; rounding may not lift it above what it hangs on or comes after."""
        share = children.share()
        if share > 0:
            chance = self.lane.chance[node] if node >= 0 else 1.0
            heappush(self._heap, (-min(above, chance * share), node, children))


@dataclass(frozen=True)
class BestFirst(Propose):
    """The `budget` nodes that the draft model believes in most."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    budget: int = knob(8, "tokens of a draft, all branches together", low=1)
    length: int = knob(8, "tokens of one branch", low=1)
    floor: float = knob(0.0, "nodes of a smaller value are not drafted", low=0.0, high=1.0)
    width: int = knob(4, "nodes that one forward of the draft model goes on from", low=1)
    drawn: bool = knob(False, "draw the children, to be judged by recursive rejection; else take the likeliest")

    def law(self) -> str:
        return "distinct" if self.drawn else ""

    def judge(self) -> Accept | None:
        return RecursiveRejection() if self.drawn else None

    def start(self, told: Told) -> DraftModel:
        return DraftModel()

    def draft(self, context: list[int], limit: int, told: Told, state: DraftModel, rng: Rng) -> Work:
        drawn, levels = self.drawn and not told.greedy, min(limit, self.length)
        growth = Growth(state, self.budget, self.floor)
        yield from state.begin(context, told)
        fresh, unread = [-1], list[int]()
        while fresh:
            for node in fresh:
                odds = state.odds[node]
                growth.open(node, Drawn(odds) if drawn else Likely(odds, self.budget))
            unread = [n for n in unread if n not in fresh]
            unread += [n for n in growth.sprout(rng) if len(state.path(n)) < levels]
            unread = [n for n in unread if growth.wants(state.chance[n])]
            fresh = sorted(nlargest(self.width, unread, key=state.chance.__getitem__))
            if fresh:
                yield from state.expand(fresh, told)
        return growth.tree(drawn)
