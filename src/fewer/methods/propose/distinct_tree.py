"""Draft trees whose siblings are drawn without replacement from a second model (RSD: Jeon et al. 2024).

Siblings that repeat each other are rows wasted. Both shapes draw different ones, in the order that recursive rejection
(parts/acceptance.py) needs, with one forward of the draft model a level:

    branches    RSD-C: every node of level i gets branches[i] children, x1 ~ q, x2 ~ q without x1, ... (Gumbel top-k)
    beam        RSD-S: stochastic beam search. The lines of a level are a sample without replacement of the lines of that
                length, so likely lines have more children and unlikely ones none.

A beam is drawn here as a race instead of by perturbed log probabilities, which gives the same law in discrete draws. A
line's arrival is exponential with its probability as rate; so is that of its next child, with what its drawn children
leave. Given the order of arrival of the last level's lines, who comes next is either a further child of a line that has
arrived, with odds P(line) q(child), or the first child of the next line, with odds 1 - P(all lines arrived). Greedy
requests get the likeliest children instead, which is ordinary beam search.

Does not: keep lines that fell out of the beam beyond their level, choose the shape from measured acceptance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fewer.parts.acceptance import RecursiveRejection
from fewer.parts.draft_model import DraftModel, draw, likeliest
from fewer.seams import Accept, Propose, Work, knob
from fewer.types import Rng, Told


@dataclass(frozen=True)
class _DistinctTree(Propose):
    """What both shapes share: grow level by level, judge by recursive rejection."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    def law(self) -> str:
        return "distinct"

    def judge(self) -> Accept:
        return RecursiveRejection()

    def start(self, told: Told) -> DraftModel:
        return DraftModel()

    def draft(self, context: list[int], limit: int, told: Told, state: DraftModel, rng: Rng) -> Work:
        yield from state.begin(context, told)
        tips = [-1]
        for level in range(min(limit, self.levels())):
            if level:
                yield from state.expand(tips, told)
            tips = self.grow(level, tips, told, state, rng)
        return state.tree(drawn=True)

    def levels(self) -> int:
        """How deep the tree may be."""
        raise NotImplementedError

    def grow(self, level: int, tips: list[int], told: Told, state: DraftModel, rng: Rng) -> list[int]:
        """The nodes of a level, added below those of the last one."""
        raise NotImplementedError


@dataclass(frozen=True)
class Branches(_DistinctTree):
    """A fixed number of children a node, level by level."""

    branches: str = knob("2,2,1", "children of every node, level by level")

    def __post_init__(self) -> None:
        if not all(width.strip().isdigit() and int(width) for width in str(self.branches).split(",")):
            raise ValueError(f"branches={self.branches!r} must be numbers from 1 on with commas between, e.g. 2,2,1")

    def widths(self) -> list[int]:
        return [int(width) for width in str(self.branches).split(",")]

    def most(self) -> int:
        return int(np.cumprod(self.widths()).sum())

    def levels(self) -> int:
        return len(self.widths())

    def grow(self, level: int, tips: list[int], told: Told, state: DraftModel, rng: Rng) -> list[int]:
        width = self.widths()[level]
        return [state.add(tip, token) for tip in tips for token in draw(state.odds[tip], width, told, rng)]


@dataclass(frozen=True)
class Beam(_DistinctTree):
    """The `width` first lines of a race on every level."""

    width: int = knob(3, "lines on every level", low=1)
    length: int = knob(3, "levels", low=1)

    def most(self) -> int:
        return self.width * self.length

    def levels(self) -> int:
        return self.length

    def grow(self, level: int, tips: list[int], told: Told, state: DraftModel, rng: Rng) -> list[int]:
        lines = [state.chance[t] if t >= 0 else 1.0 for t in tips]
        odds = [state.odds[t] for t in tips]
        order = self._likeliest(lines, odds) if told.greedy else race(lines, odds, self.width, rng)
        return [state.add(tips[line], token) for line, token in order]

    def _likeliest(self, lines: list[float], odds: list[torch.Tensor]) -> list[tuple[int, int]]:
        every = [(p * q, i, t) for i, p in enumerate(lines) for t, q in likeliest(odds[i], self.width)]
        return [(i, t) for _, i, t in sorted(every, key=lambda e: -e[0])[: self.width]]


def race(lines: list[float], odds: list[torch.Tensor], width: int, rng: Rng) -> list[tuple[int, int]]:
    """(line, token) of the first `width` children to arrive. lines: probabilities of the lines, in order of arrival;
    odds: what may follow each (V,)."""
    out: list[tuple[int, int]] = []
    left = [q.clone() for q in odds]
    arrived = 0
    while len(out) < width:
        rates = [lines[i] * float(left[i].sum()) for i in range(arrived)]
        others = max(0.0, 1.0 - sum(lines[:arrived])) if arrived < len(lines) else 0.0
        if not others and not any(rates):
            break
        who = rng.categorical(np.array([*rates, others]))
        arrived = max(arrived, who + 1)
        out.append((who, rng.categorical(left[who].cpu())))
        left[who][out[-1][1]] = 0
    return out
