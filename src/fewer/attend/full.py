"""Rows of a piece that read all, while their neighbours read sparsely: they show where to look, and what neighbours miss.

What a row of a block gets by reading all, beyond what it gets by reading sparsely, is much the same for the rows beside it.
So the mean of this over a block's full rows is added to its other rows.
"""

from __future__ import annotations

import numpy as np
import torch

from fewer.attend.one import attend
from fewer.kv.segment import Segment
from fewer.models.spec import Spec


class FullRead:
    """`seams.Full` for one layer of one piece: q (m, Hq, d) and pos (m,) behind `committed`, all m of them in `staged`.

    rows, o: which read all and what they got (w, Hq, d). entries: how many they read."""

    def __init__(
        self,
        q: torch.Tensor,
        pos: torch.Tensor,
        committed: list[Segment],
        staged: Segment,
        layer: int,
        spec: Spec,
        native: bool,
    ) -> None:
        self._q, self._pos, self._committed, self._staged = q, pos, committed, staged
        self._layer, self._spec, self._native = layer, spec, native
        self.rows, self.o, self.entries = torch.zeros(0, dtype=torch.int64), q[:0], 0

    def __call__(self, rows: torch.Tensor) -> list[torch.Tensor]:
        m, heads = len(self._q), self._spec.n_kv_heads
        held = sum(int(s.len.sum()) for s in self._committed)
        before = torch.arange(m) <= rows[:, None]
        self.o, seen = attend(
            self._q[rows], self._committed, self._staged, before, self._pos[rows], self._layer, self._spec, self._native,
            np.arange(len(rows)), summed=True,
        )  # fmt: skip
        self.rows, self.entries = rows, held * len(rows) + int((rows + 1).sum()) * heads
        return [p[:, 0] for p in seen]


def set_right(o: torch.Tensor, at: torch.Tensor, true: torch.Tensor, size: int) -> None:
    """Rows `at` of o (m, Hq, d) become `true`; the others of a block of `size` rows move by what that changes on average."""
    off, of_block = true - o[at], at // size
    for b in of_block.unique().tolist():
        o[b * size : (b + 1) * size] += off[of_block == b].mean(0)
    o[at] = true
