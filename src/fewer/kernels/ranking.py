"""The best of a kv-head's blocks, as places to read: worked out natively for many rows at once, or in plain torch.

A method that reads whole blocks says what they are told by; what is asked of them follows from the queries, so it need not
see them. A block is worth the greatest product of its summary with what its kv-head's queries ask:

    bounds      u = sum_i max(q_i hi_i, q_i lo_i) of each query; summaries are [hi, lo]
    otherwise   r = (sum of the queries) . summary

Of equals the earlier is taken, and what is not a number is worth least.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from fewer.kernels.attention import packed
from fewer.kernels.dots import ROW_TYPES
from fewer.kernels.native import native


class Cut(NamedTuple):
    """Of one kv-head: blocks [0, first) are read, the `room` best of [first, newest), and entries tail .. end - 1."""

    first: int
    newest: int
    room: int
    tail: int
    end: int

    def chosen(self) -> int:
        """Blocks read between the first and the newest."""
        return min(self.room, self.newest - self.first)

    def check(self, blocks: int, size: int, entries: int) -> None:
        """Raise IndexError if it is no cut of so many blocks of `size` and of so many entries."""
        ascending = 0 <= self.first <= self.newest <= blocks and 0 <= self.newest * size <= self.tail <= self.end
        if not ascending or self.room < 0 or self.end > entries:
            raise IndexError(f"{self} does not fit {blocks} blocks of {size} among {entries} entries")


@dataclass(frozen=True, slots=True)
class Ranking:
    """What one row reads: summaries[h] (blocks, w) of `size` entries each, by which each kv-head is cut[h]."""

    summaries: Sequence[torch.Tensor]
    size: int
    cuts: Sequence[Cut]
    bounds: bool = True

    def places(self, q: torch.Tensor) -> list[torch.Tensor]:
        """q (Hq, d) -> per kv-head the ascending places."""
        return [self._of(*head) for head in zip(self.worth(q), self.cuts, strict=True)]

    def worth(self, q: torch.Tensor) -> list[torch.Tensor]:
        """q (Hq, d) -> per kv-head (blocks,)."""
        q = q.unflatten(0, (len(self.cuts), -1))
        asks = torch.cat([q.clamp_min(0), q.clamp_max(0)], 2) if self.bounds else q.sum(1, keepdim=True)
        products = [s.to(q.dtype) @ a.T if len(s) else q.new_zeros(0, 1) for s, a in zip(self.summaries, asks)]
        return [p.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(1) for p in products]

    def _of(self, worth: torch.Tensor, cut: Cut) -> torch.Tensor:
        middle = torch.arange(cut.first, cut.newest)
        if cut.room < len(middle):
            middle = middle[worth[middle].sort(descending=True, stable=True).indices[: cut.room].sort().values]
        blocks = torch.cat([torch.arange(cut.first), middle])
        inside = (blocks[:, None] * self.size + torch.arange(self.size)).flatten()
        return torch.cat([inside, torch.arange(cut.tail, cut.end)])

    def counts(self) -> list[int]:
        """Places a kv-head."""
        return [(c.first + c.chosen()) * self.size + c.end - c.tail for c in self.cuts]

    def served(self, d: int) -> bool:
        """Can the native operation rank for queries of d dimensions?"""
        width = 2 * d if self.bounds else d
        return native is not None and all(
            r.is_cpu and r.dtype in ROW_TYPES and r.is_contiguous() and (not len(r) or r.shape[1] == width)
            for r in self.summaries
        )


Picks = list[torch.Tensor] | Ranking  # per kv-head ascending places, or how they are to be found


def listed(picks: Picks, q: torch.Tensor) -> list[torch.Tensor]:
    """Per kv-head the ascending places."""
    return picks.places(q) if isinstance(picks, Ranking) else picks


def count(picks: Picks) -> int:
    """Places of all kv-heads."""
    return sum(picks.counts() if isinstance(picks, Ranking) else map(len, picks))


class Behind(NamedTuple):
    """A row behind `held` (H,) committed entries: its number in its group and the group's rows that it descends from."""

    local: int
    before: torch.Tensor
    held: np.ndarray

    def packed(self, places: Sequence[torch.Tensor]) -> np.ndarray:
        """As attention takes them: those among `before` where they lie in flight, and last the row itself."""
        if len(self.before):
            places = [
                torch.where(p < n, p, n + self.before[(p - n).clamp_min(0)])
                for p, n in zip(places, self.held.tolist(), strict=True)
            ]
        return packed(places, self.held + self.local)


class Read(NamedTuple):
    """Row number `at` of a call reads `picks`."""

    at: int
    picks: Picks
    behind: Behind


class HeadRow(NamedTuple):
    """A kv-head of a row, as native/ranking.h has it."""

    q: int
    group: int
    d: int
    bounds: int
    summaries: int
    halves: int
    size: int
    first: int
    newest: int
    room: int
    tail: int
    end: int
    before: int
    held: int
    local: int
    out: int
    head: int
    heads: int
    start: int


def read_by(reads: Sequence[Read | None], q: torch.Tensor) -> list[np.ndarray | None]:
    """What attention shall read for each sequence of a call, None for all of it. q (T, Hq, d)."""
    out: list[np.ndarray | None] = [None] * len(reads)
    table, shape = list[HeadRow](), (q.shape[1], q.shape[2])
    fits = q.is_cpu and q.dtype is torch.float32 and q.is_contiguous() and not q.shape[2] % 8
    for i, read in enumerate(reads):
        if read is None:
            continue
        if isinstance(read.picks, Ranking) and fits and read.picks.served(shape[1]):
            out[i] = places = np.empty(room(read.picks), dtype=np.int64)
            table += heads_of(read, read.picks, places, shape)
        else:
            out[i] = read.behind.packed(listed(read.picks, q[read.at]))
    if table:
        heads = np.array(table, dtype=np.int64)
        assert native is not None
        native.rank(heads.ctypes.data, len(heads), q.data_ptr())
    return out


def room(ranking: Ranking) -> int:
    """Length of a row's packed places: an end a kv-head, and with each the row itself."""
    return 2 * len(ranking.cuts) + sum(ranking.counts())


def heads_of(read: Read, ranking: Ranking, out: np.ndarray, shape: tuple[int, int]) -> list[HeadRow]:
    """The kv-heads of a row whose places are to come into `out`. shape: heads and dimensions of the queries."""
    heads, (n, d), behind = len(ranking.cuts), shape, read.behind
    starts = itertools.accumulate((c + 1 for c in ranking.counts()[:-1]), initial=0)
    rows = list[HeadRow]()
    each = zip(ranking.summaries, ranking.cuts, behind.held.tolist(), starts, strict=True)
    for h, (told_by, cut, held, start) in enumerate(each):
        cut.check(len(told_by), ranking.size, held + len(behind.before))
        rows.append(
            HeadRow(
                (read.at * n + h * n // heads) * d, n // heads, d, ranking.bounds, told_by.data_ptr(),
                told_by.dtype is torch.float16, ranking.size, *cut, behind.before.data_ptr(), held, behind.local,
                out.ctypes.data, h, heads, start,
            )
        )  # fmt: skip
    return rows
