"""Drafts that the model makes beside its real work, asked by trained prompt tokens: PPD (Hao (Mark) Chen et al., 2024).

Vectors p1, p2, .. are learnt once, the model stays frozen. Behind an accepted token x_t, where x_t+1 is not known yet, the
rows p1 p2 .. are computed in the same forward: the model's likeliest tokens at p_i are guesses for x_t+1+i. The next tree
hangs on the certain x_t+1 and holds those guesses, and behind them further prompt tokens for the step after. Where prompt
tokens go, and how many, is the dynamic sparse tree (parts/sparse_tree.py), built on acceptance measured after training.

Prompt tokens are soft nodes: they see their own branch, nothing sees them but the next one, and they are never committed.
Does not: use several vectors a prompt token (the paper's ensembles) or adapt the tree to the text at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from fewer.models.decoder import Decoder
from fewer.parts.sparse_tree import Shape, dynamic
from fewer.parts.trained import UNTRAINED, find
from fewer.seams import Propose, Target, knob
from fewer.types import EMPTY_TREE, Told, Tree

KIND = "ppd"
PROMPTS, RANKS = 3, 8
EVEN = tuple(tuple(0.3 * 0.6**r for r in range(RANKS)) for _ in range(PROMPTS))  # rates nobody has measured


@dataclass(slots=True)
class Asking:
    """The prompt tokens (m, D), a tree for each state, and what the last prompt tokens guessed, a list a depth."""

    vectors: torch.Tensor
    shapes: tuple[Shape, ...]
    guesses: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class PromptTokens(Propose):
    """Ask the model for the tokens after next, with trained vectors, in the forward that checks the last guesses."""

    needs = frozenset({"best"})
    file: str = knob("smollm2-135m", "trained prompt tokens: those that come with fewer, a file, or untrained")
    budget: int = knob(7, "rows of a tree: guesses and prompt tokens", low=1, high=32)

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        if self.file != UNTRAINED:
            part = find(KIND, self.file)
            m = part.number("prompts", 1, 16)
            part.check(main, {"prompts": (m, main.spec.d_model), "rates": (m, RANKS)})
        return {}

    def start(self, told: Told) -> Asking:
        if self.file == UNTRAINED:
            return Asking(fresh(told.embed), dynamic(EVEN, self.budget))
        part = find(KIND, self.file)
        rates = tuple(tuple(row) for row in part.tensors["rates"].double().tolist())
        return Asking(part.tensors["prompts"], dynamic(rates, self.budget))

    def guess(self, context: list[int], limit: int, told: Told, state: Asking) -> Tree:
        return plant(state.shapes[len(state.guesses)], state.guesses, state.vectors)

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Asking) -> None:
        node, state.guesses = path[-1] if path else -1, []
        while True:
            soft = np.flatnonzero((tree.parent == node) & (tree.tokens < 0))
            if not len(soft):
                return
            node = int(soft[0])
            state.guesses.append(target.best[node + 1, :RANKS].tolist())


def fresh(embed: Callable[[torch.Tensor], torch.Tensor], prompts: int = PROMPTS) -> torch.Tensor:
    """Prompt tokens before training: the input vectors of the vocabulary's first tokens."""
    return embed(torch.arange(prompts))


def plant(shape: Shape, guesses: list[list[int]], vectors: torch.Tensor) -> Tree:
    """The tree of a shape: its guesses, then chains of prompt tokens. A rank beyond a small vocabulary is left out."""
    tokens, parent, chance, place = list[int](), list[int](), list[float](), {-1: -1}
    for i, (p, d, r, c) in enumerate(zip(shape.parent, shape.depth, shape.rank, shape.chance)):
        if p in place and r < len(guesses[d]):
            place[i] = len(tokens)
            tokens.append(guesses[d][r])
            parent.append(place[p])
            chance.append(c)
    kinds = list[int]()
    for i, n in enumerate(shape.prompts, -1):
        tip = place.get(i)
        if tip is None:
            continue
        for k in range(n):
            kinds.append(k)
            tokens.append(-1)
            parent.append(tip)
            chance.append(chance[place[i]] if i >= 0 else 1.0)
            tip = len(tokens) - 1
    if not tokens:
        return EMPTY_TREE
    return Tree(np.array(tokens), np.array(parent), chance=np.array(chance), embeds=vectors[torch.tensor(kinds)])
