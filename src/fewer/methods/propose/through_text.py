"""Drafts from a model of another family, whose tokens are not the target's: they meet in the text.

The string-level method of Timor et al. 2025 (SLEM, "Lossless Speculative Decoding Algorithms for Heterogeneous
Vocabularies"; also known as universal assisted generation): the text so far is given to the draft model in its own tokens,
it writes on, and the bytes it wrote are cut into the target's tokens, which are a draft like any other. The target draws
at each of them as without a draft, so it does not matter whether the text was cut as the target would have: only a draft
that was is accepted.

Does not: judge by ratio (the two distributions are over different things), draft more than one line, or draft where the
text ends inside a character.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewer.parts.draft_model import DraftModel
from fewer.parts.other_words import CodePoints, OtherWords
from fewer.seams import Propose, Work, knob
from fewer.types import EMPTY_TREE, Rng, Told, Tree


@dataclass
class Lane:
    """One request's draft model and the text as it reads it."""

    model: DraftModel
    text: OtherWords


@dataclass(frozen=True)
class ThroughText(Propose):
    """The likeliest `length` tokens of the draft model, said in the target's."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})
    by_text: ClassVar[bool] = True

    length: int = knob(6, "tokens that the draft model writes", low=1)

    def most(self) -> int:
        return 2 * self.length  # a token of one vocabulary may be several of the other; drafts are cut to it

    def start(self, told: Told) -> Lane:
        theirs, own = told.words.get("main", CodePoints()), told.words.get("draft", CodePoints())
        return Lane(DraftModel(own_words=True), OtherWords(theirs, own))

    def draft(self, context: list[int], limit: int, told: Told, state: Lane, rng: Rng) -> Work:
        ids, lane = state.text.hear(context), state.model
        if not ids or state.text.waiting:
            return EMPTY_TREE
        yield from lane.begin(ids, told)
        tip = -1
        for level in range(min(limit, self.length)):
            if level:
                yield from lane.expand([tip], told)
            tip = lane.add(tip, int(lane.odds[tip].argmax()))
            if lane.tokens[tip] in state.text.own.special:
                break
        tokens = state.text.back(lane.tokens)[: min(limit, self.most())]
        return Tree(np.array(tokens, np.int64), np.arange(-1, len(tokens) - 1)) if tokens else EMPTY_TREE
