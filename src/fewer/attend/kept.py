"""What a row that comes alone reads in several layers, kept for the sequence's next rows.

A selection that knows before the queries which blocks stand to choose from (`Select.knows`) says the same token after
token, but for the newest entries (`Select.holds`). Asking it anew at every layer costs more than choosing does.
"""

from __future__ import annotations

from collections.abc import Sequence as Row
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewer.kernels.ahead import Foreseen
from fewer.kernels.ranking import Ranking, Read
from fewer.kv.store import Sequence
from fewer.seams import Select


@dataclass(frozen=True)
class Asked:
    """Who was asked, for which layers: first .. last - 1."""

    select: Select
    state: Any
    first: int
    last: int

    def same(self, other: Asked) -> bool:
        one = self.select is other.select and self.state is other.state
        return one and (self.first, self.last) == (other.first, other.last)


class Kept:
    """Answers for the layers asked for, as long as entries are only appended to the sequence, and not too many.

    foreseen: what is read. entries, scanned: entries read; bytes of summaries looked at."""

    def __init__(
        self,
        asked: Asked,
        seq: Sequence,
        reads: Row[Read | None],
        entries: int,
        holds: Row[int],
        shape: tuple[int, int],
    ) -> None:
        """entries: how many the reads read. holds: as Select.holds, a layer. shape: heads and dimensions of the queries."""
        ranked = [r.picks for r in reads if r is not None and isinstance(r.picks, Ranking)]
        spare = max((h for h, r in zip(holds, reads, strict=True) if r is not None), default=0)
        self.foreseen = Foreseen(reads, shape, spare)
        self.entries, self.scanned = entries, sum(s.nbytes for p in ranked for s in p.summaries)
        self._asked, self._edits, self._holds = asked, seq.edits, np.array(holds)
        self._n, self._layers = seq.n[asked.first : asked.last].copy(), slice(asked.first, asked.last)

    def serves(self, asked: Asked, seq: Sequence, heads: int) -> bool:
        """Does it say what would be said anew? Then it is brought up to date, too."""
        by = seq.n[self._layers] - self._n
        if not self._asked.same(asked) or self._edits != seq.edits or (by > self._holds).any():
            return False
        self.foreseen.grow(by)
        self.entries += heads * int(by.sum())
        self._n += by
        self._holds -= by
        return True
