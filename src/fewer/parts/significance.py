"""How much the last rows of a text look at each entry, beyond what any row gives to that distance.

a_ij = max over heads of p_h(row i -> entry j)
s_j  = mean over the last rows i of  a_ij - (mean of a over other rows and entries that are as far apart)

Near entries and the first one get much attention whatever they say; the second term takes that off. Its mean is over rows
of the same text, in steps of half an octave of the distance of positions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from fewer.seams import Watcher
from fewer.types import Told


class Significance(Watcher):
    """Watches one layer while a sequence of n rows runs through it, in pieces of any size: the last `last` rows and `others`
    more, spread over all before them. scores (rows, n)."""

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __init__(self, layer: int, n: int, last: int, others: int) -> None:
        self.layer, self.n, self.last, self.seen = layer, n, last, 0
        spread = np.unique(np.linspace(n - last - 1, 0, others).astype(np.int64))
        self.rows = np.concatenate([spread, np.arange(n - last, n)])
        self.scores = torch.zeros(len(self.rows), n)

    def probe(self, m: int, told: Told, state: Any) -> np.ndarray:
        here = (self.rows >= self.seen) & (self.rows < self.seen + m)
        self.seen += m
        return self.rows[here] - (self.seen - m)

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Any) -> None:
        if layer == self.layer:
            best = torch.stack([p.amax(1) for p in probs]).amax(0)
            self.scores = self.scores.to(best.dtype)
            end = int(np.searchsorted(self.rows, self.seen))
            self.scores[end - len(rows) : end, : best.shape[1]] = best

    def calibrated(self, pos: np.ndarray) -> torch.Tensor:
        """(n,) what the last rows give each entry beyond the mean of its distance; pos (n,) of the entries. With no other
        rows, or none as far from an entry, nothing is taken off."""
        apart = np.abs(pos[self.rows][:, None] - pos[None])
        step = torch.from_numpy(np.floor(2 * np.log2(1 + apart)).astype(np.int64))
        others = len(self.rows) - self.last
        known = torch.from_numpy(np.arange(self.n)[None] <= self.rows[:others, None])
        of, given = step[:others][known], self.scores[:others][known]
        total = given.new_zeros(int(step.max()) + 1).index_add_(0, of, given)
        usual = total / torch.bincount(of, minlength=len(total)).clamp_min(1)
        return (self.scores[others:] - usual[step[others:]]).mean(0)
