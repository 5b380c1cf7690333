"""Rebuilding: entries are worth what the model needs of them to write its context again (KVzip, Kim et al., 2025).

When the context c is complete, it is fed a second time behind an instruction to repeat it, piece by piece, on top of the
cache. The rows see the cache and their own piece, and vanish afterwards:

    s_j = max over rows i of the piece that holds j, and over query heads, of a_ij / sum of a_im over m in S + P + R

a: attention, S: sinks, P: the entries of the piece, R: the rows of this forward. The sum makes pieces comparable: it is
the softmax over what the piece can be read from. Costs as many rows as the context has, and some for the instructions.
Does not: know the model's chat template (the instruction stands where the context ends), stop at the model's context
length (positions go on by a piece).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fewer.parts.scorers import Scorer, grown
from fewer.seams import Commit, Forward, Held, Watcher, Work
from fewer.types import Told, chain

PIECE = 512
HINT = 8  # tokens before a piece that say where it begins
ALL = "\n\nRepeat the text above word for word.\n\n"
PART = "\n\nRepeat the text above word for word, beginning behind: "


class Rebuilding(Scorer):
    """The most that any row of the repetition looks at an entry."""

    def __init__(self, context: int, window: int, sinks: int) -> None:
        super().__init__(context, window, sinks)
        self.most: dict[int, torch.Tensor] = {}  # layer -> (H, n)

    def study(self, tokens: list[int], told: Told) -> Work:
        whole, part = ([], []) if told.encode is None else (told.encode(ALL), told.encode(PART))
        for at in range(0, len(tokens), PIECE):
            piece = tokens[at : at + PIECE]
            lead = whole if at == 0 else part + tokens[max(0, at - HINT) : at]
            rows = chain(lead + piece, len(tokens))
            yield Forward(rows, watch=Repetition(self, at, at + len(piece)), stage="prefill")
            yield Commit(np.zeros(0, dtype=np.int64))

    def score(self, layer: int, held: Held) -> torch.Tensor:
        n = int(held.entries(layer).max())
        old = self.most.pop(layer, None)
        return torch.zeros(held.n_heads, n, dtype=torch.float64) if old is None else grown(old, n)[:, :n]


class Repetition(Watcher):
    """Reads the attention of one piece's forward, all rows of it."""

    needs = frozenset({"attention"})

    def __init__(self, scorer: Rebuilding, at: int, end: int) -> None:
        self.scorer, self.at, self.end = scorer, at, end

    def probe(self, m: int, told: Told, state: Any) -> np.ndarray:
        return np.arange(m)

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Any) -> None:
        sinks, cached = min(self.scorer.sinks, self.at), probs[0].shape[-1] - len(rows)
        best = []
        for p in probs:
            piece = p[..., self.at : min(self.end, cached)]
            read = piece.sum(-1) + p[..., :sinks].sum(-1) + p[..., cached:].sum(-1)
            best.append((piece / read[..., None]).amax((0, 1)).double())
        old = self.scorer.most.get(layer)
        now = torch.stack(best)
        self.scorer.most[layer] = now if old is None else torch.cat([old, now], 1)
