"""Drafts drawn from a second model, token by token: one line, or several alike that share what they have in common.

One line is speculative sampling (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; Chen
et al. 2023 have the same rule): x1 ~ q(.|text), x2 ~ q(.|text x1), ..., judged by the ratio p / q. Several are SpecTr (Sun
et al. 2023): k lines drawn independently of each other, judged by k-SEQ (parts/acceptance.py); equal beginnings are one
node of the tree and counted, since the rule must know how often a token was drawn. The draft model runs once a level,
all lines together. Greedy requests get the one line of likeliest tokens.

Does not: choose the length on line, draw without replacement (methods/propose/distinct_tree.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fewer.parts.acceptance import KSequential
from fewer.parts.draft_model import DraftModel
from fewer.seams import Accept, Propose, Work, knob
from fewer.types import Rng, Told


@dataclass(frozen=True)
class DrawnLines(Propose):
    """`lines` drafts of `length` tokens from the draft model."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    length: int = knob(4, "tokens of a line", low=1)
    lines: int = knob(1, "lines drawn, each as if it were the only one", low=1)

    def law(self) -> str:
        return "line" if self.lines == 1 else "independent"

    def judge(self) -> Accept:
        return KSequential()

    def most(self) -> int:
        return self.length * self.lines

    def start(self, told: Told) -> DraftModel:
        return DraftModel()

    def draft(self, context: list[int], limit: int, told: Told, state: DraftModel, rng: Rng) -> Work:
        yield from state.begin(context, told)
        tips: list[int] = [-1] * (1 if told.greedy else self.lines)
        copies: list[int] = []
        for level in range(min(limit, self.length)):
            if level:
                yield from state.expand(sorted(set(tips)), told)
            here: dict[tuple[int, int], int] = {}
            for i, tip in enumerate(tips):
                odds = state.odds[tip]
                token = int(odds.argmax()) if told.greedy else rng.categorical(odds.cpu())
                if (tip, token) not in here:
                    here[tip, token] = state.add(tip, token)
                    copies.append(0)
                tips[i] = here[tip, token]
                copies[tips[i]] += 1
        return replace(state.tree(drawn=True), copies=np.array(copies))
