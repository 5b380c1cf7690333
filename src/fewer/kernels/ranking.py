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


def read_by(reads: Sequence[Read | None], q: torch.Tensor) -> list[np.ndarray | None]:
    """What attention shall read for each sequence of a call, None for all of it. q (T, Hq, d)."""
    out: list[np.ndarray | None] = [None] * len(reads)
    table, shape = list[tuple[int, ...]](), (q.shape[1], q.shape[2])
    fits = q.is_cpu and q.dtype is torch.float32 and q.is_contiguous() and not q.shape[2] % 8
    for i, read in enumerate(reads):
        if read is None:
            continue
        if isinstance(read.picks, Ranking) and fits and read.picks.served(shape[1]):
            out[i] = places = np.empty(_room(read.picks), dtype=np.int64)
            table += _heads(read, read.picks, places, shape)
        else:
            out[i] = read.behind.packed(listed(read.picks, q[read.at]))
    if table:
        heads = np.array(table, dtype=np.int64)
        assert native is not None
        native.rank(heads.ctypes.data, len(heads), q.data_ptr())
    return out


class Ahead:
    """What the sequences of several layers read, known before their queries: for PackedStack.run. Keeps it alive.

    reads: layer by layer, a sequence each. shape: heads and dimensions of the queries."""

    def __init__(self, reads: Sequence[Sequence[Read | None]], shape: tuple[int, int]) -> None:
        room: dict[int, int] = {}  # of each sequence's places; every layer writes its own over the last layer's
        for of_layer in reads:
            for i, r in enumerate(of_layer):
                if r is not None and isinstance(r.picks, Ranking):
                    room[i] = max(room.get(i, 0), _room(r.picks))
        to = {i: np.empty(n, dtype=np.int64) for i, n in room.items()}
        self._alive: list[object] = [reads, to]
        table, self.rank_from = list[tuple[int, ...]](), np.zeros(len(reads) + 1, dtype=np.int64)
        self.picked = np.zeros((len(reads), len(reads[0])), dtype=np.int64)
        for j, of_layer in enumerate(reads):
            for i, r in enumerate(of_layer):
                if r is None:
                    continue
                if isinstance(r.picks, Ranking):
                    places = to[i]
                    table += _heads(r, r.picks, places, shape)
                else:
                    places = r.behind.packed(r.picks)
                    self._alive.append(places)
                self.picked[j, i] = places.ctypes.data
            self.rank_from[j + 1] = len(table)
        self.heads = np.array(table, dtype=np.int64)

    def addresses(self) -> tuple[int, int, int]:
        """Of picked, heads and rank_from."""
        return self.picked.ctypes.data, self.heads.ctypes.data, self.rank_from.ctypes.data


def _room(ranking: Ranking) -> int:
    """Length of a row's packed places: an end a kv-head, and with each the row itself."""
    return 2 * len(ranking.cuts) + sum(ranking.counts())


def _heads(read: Read, ranking: Ranking, out: np.ndarray, shape: tuple[int, int]) -> list[tuple[int, ...]]:
    """The kv-heads of a row as native/ranking.h has them. shape: heads and dimensions of the queries."""
    heads, (n, d) = len(ranking.cuts), shape
    ends = [0, *itertools.accumulate(c + 1 for c in ranking.counts())]
    before, to = read.behind.before.data_ptr(), out.ctypes.data
    rows = list[tuple[int, ...]]()
    for h, (told_by, cut, held) in enumerate(
        zip(ranking.summaries, ranking.cuts, read.behind.held.tolist(), strict=True)
    ):
        cut.check(len(told_by), ranking.size, held + len(read.behind.before))
        asks = ((read.at * n + h * n // heads) * d, n // heads, d, ranking.bounds)
        blocks = (told_by.data_ptr(), told_by.dtype is torch.float16, ranking.size, *cut)
        rows.append((*asks, *blocks, before, held, read.behind.local, to, h, heads, ends[h]))
    return rows
