"""`View`: what one layer of one sequence holds, as methods see it. Committed entries only, oldest first, ragged per head."""

from __future__ import annotations

import numpy as np
import torch

from fewer.kv.gather import gather
from fewer.kv.segment import Meter, Segment, pack_heads, pack_stacked


class View:
    """A read-only window on the segments of (sequence, layer). Decodes packed entries on demand, once per view.

    in_flight: how many of the newest entries are rows of this step. scanned: bytes of keys and values looked at so far;
    a method that reads summaries of its own adds them. table: the native descriptors of the segments, if at hand. edits:
    as long as it is the same, entries of this sequence were only appended; None = not known.
    """

    def __init__(
        self,
        segments: list[Segment],
        n_heads: int,
        in_flight: int = 0,
        table: np.ndarray | None = None,
        edits: int | None = None,
    ) -> None:
        self.segments, self.n_heads, self.in_flight, self.scanned = segments, n_heads, in_flight, 0
        self.edits = edits
        self._table, self._cum = table, None if table is None else np.cumsum(table[:, 4 + n_heads :], axis=0)
        self._raw: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self._first: dict[int, int | None] = {}

    def lens(self) -> np.ndarray:
        """(H,) entries per kv-head."""
        ends = self._bounds()
        return ends[-1].copy() if len(ends) else np.zeros(self.n_heads, dtype=np.int64)

    def _bounds(self) -> np.ndarray:
        """(segments, H): entries of each head up to the end of every segment."""
        if self._cum is None:
            lens = [s.len for s in self.segments]
            self._cum = np.cumsum(lens, axis=0) if lens else np.zeros((0, self.n_heads), dtype=np.int64)
        return self._cum

    def part(self, h: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (n, d) and positions (n,) of places first .. last - 1 of kv-head h; nothing else is touched."""
        ends = self._bounds()[:, h]
        keys, pos = [], []
        for i in range(int(np.searchsorted(ends, first, "right")), len(ends)):
            before = int(ends[i - 1]) if i else 0
            if before >= last:  # behind it there may be the row of a tail without entries
                break
            s = self.segments[i]
            at = slice(int(s.start[h]) + max(0, first - before), int(s.start[h]) + min(int(s.len[h]), last - before))
            keys.append((s.raw() if s.packed is None else self._segments_raw()[i])[0][at])
            pos.append(s.pos[at])
        self.scanned += sum(k.nbytes for k in keys)
        return torch.cat(keys), torch.cat(pos)

    def _segments_raw(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if self._raw is None:
            self._raw = [s.raw() for s in self.segments]
        return self._raw

    def keys(self, h: int) -> torch.Tensor:
        """(n_h, d) keys of kv-head h as stored (rotated, unless the plan keeps them raw)."""
        out = torch.cat([k[s.head(h)] for s, (k, _) in zip(self.segments, self._segments_raw())])
        self.scanned += out.nbytes
        return out

    def key_parts(self, h: int) -> list[torch.Tensor]:
        """The same keys as they lie, one piece a segment."""
        out = [k[s.head(h)] for s, (k, _) in zip(self.segments, self._segments_raw())]
        self.scanned += sum(k.nbytes for k in out)
        return out

    def values(self, h: int) -> torch.Tensor:
        """(n_h, d)"""
        out = torch.cat([v[s.head(h)] for s, (_, v) in zip(self.segments, self._segments_raw())])
        self.scanned += out.nbytes
        return out

    def positions(self, h: int) -> torch.Tensor:
        """(n_h,) int32 original positions."""
        return torch.cat([s.pos[s.head(h)] for s in self.segments])

    def find(self, h: int, wanted: torch.Tensor) -> torch.Tensor:
        """Places of the entries of kv-head h at the positions `wanted` (ascending, as those held); absent ones left out."""
        n, first = int(self.lens()[h]), self._dense(h)
        if first is not None:
            at = wanted.to(torch.int64) - first
            return at if not len(at) or (int(at[0]) >= 0 and int(at[-1]) < n) else at[(at >= 0) & (at < n)]
        held = self.positions(h)
        at = torch.searchsorted(held, wanted).clamp(max=n - 1)
        return at[held[at] == wanted]

    def below(self, h: int, position: int) -> int:
        """Entries of kv-head h that stand before a position."""
        n, first = int(self.lens()[h]), self._dense(h)
        return (
            int(torch.searchsorted(self.positions(h), position)) if first is None else min(max(position - first, 0), n)
        )

    def _dense(self, h: int) -> int | None:
        """The first position of kv-head h, if none is missing from it to the last; of no entries 0."""
        if h not in self._first:
            self._first[h] = self._first_if_dense(h)
        return self._first[h]

    def _first_if_dense(self, h: int) -> int | None:
        mine = [s for s in self.segments if s.len[h]]
        if not mine:
            return 0
        first, last = int(mine[0].pos[int(mine[0].start[h])]), int(mine[-1].pos[mine[-1].head(h).stop - 1])
        return first if last - first == int(self.lens()[h]) - 1 else None

    def stacked(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """k, v (H, n, d) and pos (H, n), where all heads hold the same number in every segment; else None."""
        parts = [s.stacked() for s in self.segments]
        if not parts or any(p is None for p in parts):
            return None
        k, v, pos = zip(*(p for p in parts if p is not None))
        return torch.cat(k, 1), torch.cat(v, 1), torch.cat(pos, 1)

    def pick(self, idx: list[torch.Tensor], meter: Meter) -> Segment:
        """A fresh, exactly sized segment of the entries idx[h] (ascending places) of each kv-head, charged to `meter`."""
        if (native := self._natively(idx, meter)) is not None:
            return native
        alike = self.stacked() if all(i is idx[0] for i in idx) else None
        if alike is not None:
            k, v, pos = (t[:, idx[0]] for t in alike)
            return pack_stacked(meter, k, v, pos)
        heads = range(self.n_heads)
        ks, vs = [self.keys(h)[idx[h]] for h in heads], [self.values(h)[idx[h]] for h in heads]
        return pack_heads(meter, ks, vs, [self.positions(h)[idx[h]] for h in heads])

    def _natively(self, idx: list[torch.Tensor], meter: Meter) -> Segment | None:
        """pick() by the native gather, where it can read the segments as they lie; else None."""
        if self._table is None:
            if not all(s.packed is None and s.pos.is_cpu for s in self.segments):
                return None
            rows = [s.table_row() for s in self.segments]
            self._table = np.array(rows, dtype=np.int64).reshape(len(rows), 4 + 2 * self.n_heads)
        return gather(self.segments, self._table, idx, meter)
