"""How much the last row of a text looks at each entry, beyond what any row gives to that distance.

s_j = max over heads of p_h(last row -> j)  -  mean of the same over other rows and entries that are as far apart

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
    """Watches one layer while a sequence of n rows runs through it, in pieces of any size: the last row and `others` more,
    spread over all. scores (rows, n), the last row's last."""

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __init__(self, layer: int, n: int, others: int) -> None:
        self.layer, self.n, self.seen = layer, n, 0
        self.rows = np.unique(np.linspace(n - 1, 0, others + 1).astype(np.int64))
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
        """(n,) what the last row gives each entry beyond the mean of its distance; pos (n,) of the entries. With no other
        rows, or none as far from an entry, nothing is taken off."""
        apart = np.abs(pos[self.rows][:, None] - pos[None])
        step = torch.from_numpy(np.floor(2 * np.log2(1 + apart)).astype(np.int64))
        known = torch.from_numpy(np.arange(self.n)[None] <= self.rows[:, None])[:-1]
        total = self.scores.new_zeros(int(step.max()) + 1).index_add_(0, step[:-1][known], self.scores[:-1][known])
        count = torch.bincount(step[:-1][known], minlength=len(total)).clamp_min(1)
        return self.scores[-1] - (total / count)[step[-1]]
