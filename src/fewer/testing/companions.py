"""Methods and prompts that exist only to put others to the test: drafters that know or guess, a rule with a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fewer.seams import Propose, Rule, Work, knob
from fewer.types import EMPTY_TREE, Rng, Told, Tree

VOCAB = 31
SHORT = (5,)
WORDS = tuple(int(t) for t in np.random.default_rng(7).integers(0, VOCAB, 24))
REPEATS = (3, 1, 4, 1, 5, 9, 2, 6) * 4
LONG = tuple(int(t) for t in np.random.default_rng(8).integers(0, VOCAB, 160))
TURNS = tuple(t for i in range(8) for t in (i, 9))
CYCLE = (*range(8), *range(8), *TURNS, 0, 1, 2)  # for the "cycle" model: after every token a right way and a wrong turn
FEW = (0, 1, 2, 0, 1, 2, 0, 1)  # for the vocabulary of four


@dataclass(frozen=True)
class Oracle(Propose):
    """Drafts a text it was told, with wrong siblings at every node: accepts and rejects in one tree.

    script: prompt and text. One to `right` levels are drafted rightly, irregularly, then a wrong one.
    """

    script: tuple[int, ...] = knob((), "prompt and text")
    right: int = knob(3, "levels drafted rightly at most", low=1)
    vocab: int = knob(VOCAB, "size of the vocabulary", low=2)

    def guess(self, context: list[int], limit: int, told: Told, state: Any) -> Tree:
        at, tokens, parent, tip = len(context), list[int](), list[int](), -1
        right = 1 + (at + at // 3) % self.right
        for level in range(min(limit, right + 1)):
            if at + level >= len(self.script):
                break
            truth = self.script[at + level]
            wrong = (truth + 1 + level) % self.vocab
            branches = [wrong, truth] if level < right else [wrong]
            here = len(tokens)
            tokens += branches
            parent += [tip] * len(branches)
            tip = here + len(branches) - 1
        return Tree(np.array(tokens, dtype=np.int64), np.array(parent, dtype=np.int64)) if tokens else EMPTY_TREE


@dataclass(frozen=True)
class Guess(Propose):
    """Draws a chain from a fixed distribution of its own and says so in `q`: what acceptance by ratio needs."""

    depth: int = knob(2, "tokens a draft", low=1)
    vocab: int = knob(VOCAB, "size of the vocabulary", low=2)

    def law(self) -> str:
        return "line"

    def draft(self, context: list[int], limit: int, told: Told, state: Any, rng: Rng) -> Work:
        q, tokens = [], list[int]()
        for level in range(min(limit, self.depth)):
            last = tokens[-1] if tokens else context[-1]
            q.append(
                torch.softmax(torch.cos(torch.arange(self.vocab, dtype=torch.float64) * (last + 1) + level) * 1.5, 0)
            )
            tokens.append(rng.categorical(q[-1]))
        if not tokens:
            return EMPTY_TREE
        return Tree(np.array(tokens), np.arange(-1, len(tokens) - 1), torch.stack(q))
        yield


@dataclass(frozen=True)
class NoRepeat(Rule):
    """The same token never comes twice in a row; its state must follow the path that is really taken."""

    def start(self, told: Told) -> list[int]:
        return []

    def mask(self, logits: torch.Tensor, told: Told, state: list[int]) -> torch.Tensor:
        if state:
            logits = logits.clone()
            logits[state[-1]] = float("-inf")
        return logits

    def advance(self, token: int, told: Told, state: list[int]) -> None:
        state.append(token)


class Broken(RuntimeError):
    """What `Fails` raises."""


@dataclass(frozen=True)
class Fails(Rule):
    """Raises at its third token: a request that dies in the middle of a batch."""

    def mask(self, logits: torch.Tensor, told: Told, state: Any) -> torch.Tensor:
        if len(told.generated) >= 2:
            raise Broken("planted failure")
        return logits
