"""How one group of rows reads its sequence in one step, whatever its methods say.

decode packed entries -> gather a selection -> rotate by place in the cache: the pipeline's result is an ordinary segment,
so one attention serves every method. Evidence (attention rows) is computed only for rows somebody declared.
step.py skips all this for groups that read the store as it lies.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from fewer.attend.full import FullRead, set_right
from fewer.attend.one import attend
from fewer.attend.tables import sequence_table
from fewer.kernels.ranking import listed
from fewer.kv.segment import Meter, Segment, pack_stacked
from fewer.kv.store import Sequence, Store
from fewer.kv.view import View
from fewer.models.layers import rotate
from fewer.seams import Watcher
from fewer.types import Group, Rows

SCRATCH = Meter()  # temporary segments of one layer's read; not cache


class Angles(Protocol):
    """cos, sin (T, d/2) of a layer's rotation at given positions."""

    def __call__(self, layer: int, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]: ...


def ancestors(rows: Rows) -> torch.Tensor | None:
    """(m, m) bool: which in-flight rows each row sees; None for a chain."""
    if rows.is_chain:
        return None
    m = len(rows)
    seen = np.zeros((m, m), dtype=bool)
    for i, p in enumerate(rows.parent):
        if p >= 0:
            seen[i] = seen[p]
        seen[i, i] = True
    return torch.from_numpy(seen)


def unrotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The inverse of rotating x (T, H, d) by cos, sin (T, d/2), which may be longer than 1 together (YaRN)."""
    size = cos**2 + sin**2
    return rotate(x, cos / size, -sin / size)


class GroupRead:
    """One group's reading, for the length of a step."""

    def __init__(self, group: Group, store: Store, angles: Angles, native: bool, depth: int) -> None:
        self.group, self.store, self.angles, self.native, self.depth = group, store, angles, native, depth
        self.seams, self.told = group.seams, group.told
        self.seq: Sequence = store.begin(group.seq, len(group.rows), depth)
        self.visible = ancestors(group.rows)
        self.pos = torch.from_numpy(group.rows.pos.astype(np.int32))
        self.entries_read = self.bytes_scanned = 0
        self.probed: list[tuple[Watcher, np.ndarray]] = []
        for w in (self.seams.retain, self.seams.codec, group.watch):
            if w is not None and w.needs & {"attention", "queries"}:
                rows = w.probe(len(group.rows), self.told, self.told.of(w))
                if rows is not None and len(rows):
                    self.probed.append((w, np.asarray(rows)))
        self.watchers = [(w, rows) for w, rows in self.probed if "attention" in w.needs]
        select = self.seams.select
        self.selecting = select is not None and select.acts == "text" and self.told.decoding
        self.by_blocks = (
            select is not None and select.acts == "prompt" and not self.told.decoding and self.visible is None
        )
        if self.selecting or self.by_blocks:
            assert select is not None
            select.begin(group.rows, self.told, self.told.of(select))
        unreadable = self.seams.codec is not None and not self.seq.in_place()
        self.reading = select is not None and bool(select.needs) and not self.told.decoding
        piecewise = self.by_blocks or self.reading
        self.plain = not (self.probed or piecewise or self.seams.place or unreadable)  # but for what it selects

    def attend(
        self, layer: int, rows: np.ndarray | None, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """q (m, Hq, d), k, v (m, H, d) of the group's attending rows -> o (m, Hq, d). rows: which, None = all."""
        store = self.store
        pos = self.pos if rows is None else self.pos[torch.from_numpy(rows)]
        store.stage(self.seq, layer, rows, pos, k, v)
        self._tell_queries(layer, rows, q, pos)
        if self.reading:
            assert self.seams.select is not None
            self.seams.select.read(layer, q, k, self.told, self.told.of(self.seams.select))
        visible = self._visible(rows)
        committed = store.view(self.group.seq, layer).segments
        staged = store.in_flight(self.seq, layer)
        if self.seams.place:
            committed, staged, q, pos = self._by_place(layer, committed, staged, q)
        if self.selecting:
            return self._selected(layer, rows, q, committed, staged, visible, pos)
        if self.by_blocks and (read := self._in_blocks(layer, rows, q, committed, staged, pos)) is not None:
            return read
        probes = self._probes(rows)
        o, probs = attend(q, committed, staged, visible, pos, layer, store.spec, self.native, probes)
        m = len(q)
        self.entries_read += sum(int(s.len.sum()) for s in committed) * m + m * (m + 1) // 2 * store.spec.n_kv_heads
        self._tell(layer, rows, probes, probs)
        return o

    def _tell_queries(self, layer: int, rows: np.ndarray | None, q: torch.Tensor, pos: torch.Tensor) -> None:
        """Queries as they were before rotation, for those who declared that they need them."""
        have = np.arange(len(q)) if rows is None else rows
        for w, wanted in self.probed:
            if "queries" in w.needs:
                here = np.flatnonzero(np.isin(have, wanted))
                at = torch.from_numpy(here)
                asked = q[at] if self.seams.place else unrotated(q[at], *self.angles(layer, pos[at].numpy()))
                w.watch_queries(layer, have[here], asked, self.told, self.told.of(w))

    def _visible(self, rows: np.ndarray | None) -> torch.Tensor | None:
        if rows is None or self.visible is None:
            return self.visible  # a subset of a chain is a chain
        at = torch.from_numpy(rows)
        return self.visible[at][:, at]

    def _probes(self, rows: np.ndarray | None) -> np.ndarray | None:
        """Local rows that any watcher asked for, ascending, as places among the attending rows."""
        if not self.watchers:
            return None
        wanted = np.unique(np.concatenate([r for _, r in self.watchers]))
        if rows is None:
            return wanted
        return np.searchsorted(rows, wanted[np.isin(wanted, rows)])

    def _tell(self, layer: int, rows: np.ndarray | None, probes: np.ndarray | None, probs: list[torch.Tensor]) -> None:
        if probes is None:
            return
        have = probes if rows is None else rows[probes]
        for w, wanted in self.watchers:
            here = np.isin(have, wanted)
            at = torch.from_numpy(np.flatnonzero(here))
            w.watch(layer, have[here], [p[at] for p in probs], self.told, self.told.of(w))

    def _by_place(
        self, layer: int, committed: list[Segment], staged: Segment, q: torch.Tensor
    ) -> tuple[list[Segment], Segment, torch.Tensor, torch.Tensor]:
        """Keys rotated by their place in the cache, queries standing behind them at their depth in this step."""
        held = self.store.entries(self.group.seq, layer)
        n = int(held.max())
        if (held != n).any():
            raise ValueError("positions by place need the same number of entries in every kv-head of a layer")
        retain = self.seams.retain
        assert retain is not None
        furthest = retain.furthest(self.told, self.told.of(retain))
        where = np.arange(n) if furthest is None else np.maximum(np.arange(n), n - furthest)
        place = self.group.rows.pos - int(self.group.rows.pos[0]) + n
        old = []
        if committed:
            stacked = View(committed, len(held)).stacked()
            assert stacked is not None
            old = [self._turned(layer, stacked[0], stacked[1], where, q.dtype)]
        stacked = staged.stacked()
        assert stacked is not None
        new = self._turned(layer, stacked[0], stacked[1], place, q.dtype)
        pos = torch.from_numpy(place.astype(np.int32))
        return old, new, rotate(q, *self.angles(layer, place)), pos

    def _turned(self, layer: int, k: torch.Tensor, v: torch.Tensor, place: np.ndarray, dtype: torch.dtype) -> Segment:
        """k, v (H, n, d) -> a temporary segment whose keys are rotated by place (n,)."""
        turned = rotate(k.transpose(0, 1).to(dtype), *self.angles(layer, place)).transpose(0, 1)
        pos = torch.from_numpy(place.astype(np.int32)).expand(len(k), -1)
        return pack_stacked(SCRATCH, turned, v.to(dtype), pos)

    def _in_blocks(
        self,
        layer: int,
        rows: np.ndarray | None,
        q: torch.Tensor,
        committed: list[Segment],
        staged: Segment,
        pos: torch.Tensor,
    ) -> torch.Tensor | None:
        """A piece of the prompt, block by block: each reads the places picked for it and itself. None = all are read."""
        select, spec, m = self.seams.select, self.store.spec, len(q)
        assert select is not None
        view = View([*committed, staged], spec.n_kv_heads)
        whole = FullRead(q, pos, committed, staged, layer, spec, self.native)
        blocks = select.pick_blocks(layer, q, view, self.told, self.told.of(select), whole)
        if blocks is None:
            return None
        heads, g = range(spec.n_kv_heads), spec.n_heads // spec.n_kv_heads
        probes, lens = self._probes(rows), view.lens()
        probs = [q.new_zeros(0 if probes is None else len(probes), g, int(n)) for n in lens]
        o = torch.empty_like(q)
        self.entries_read += blocks.looked + whole.entries
        for first, idx in zip(range(0, m, blocks.size), blocks.places, strict=True):
            b = min(blocks.size, m - first)
            old = [view.pick(idx, SCRATCH)] if any(map(len, idx)) else []
            own = Segment(staged.buffer, staged.k, staged.v, staged.pos, staged.start + first, np.full(len(heads), b))
            at = slice(first, first + b)
            asked = None if probes is None else probes[(probes >= first) & (probes < first + b)] - first
            o[at], mass = attend(q[at], old, own, None, pos[at], layer, spec, self.native, asked)
            self.entries_read += b * sum(map(len, idx)) + b * (b + 1) // 2 * spec.n_kv_heads
            for h, p in enumerate(mass):
                assert probes is not None and asked is not None
                fresh = torch.arange(b) + int(lens[h]) - m + first
                slots = torch.from_numpy(np.searchsorted(probes, asked + first))
                probs[h][slots[:, None, None], torch.arange(g)[:, None], torch.cat([idx[h], fresh])] = p
        if len(whole.rows) and blocks.right:
            set_right(o, whole.rows, whole.o, blocks.size)
        self._tell(layer, rows, probes, probs)
        return o

    def _table(self, layer: int) -> np.ndarray | None:
        """The native descriptors of a layer's committed segments, where attention reads the store as it lies."""
        if not self.native or self.seams.codec is not None or self.seams.place:
            return None
        table, counts = sequence_table(self.store, self.seq, self.depth)
        return table[layer, : counts[layer]]

    def _selected(
        self,
        layer: int,
        rows: np.ndarray | None,
        q: torch.Tensor,
        committed: list[Segment],
        staged: Segment,
        visible: torch.Tensor | None,
        pos: torch.Tensor,
    ) -> torch.Tensor:
        """Each row selects among what would be committed if it came alone: entries held and the rows it descends from."""
        select, spec, m = self.seams.select, self.store.spec, len(q)
        assert select is not None
        heads = spec.n_kv_heads
        edits, fresh = self.seq.edits, View([staged], heads)
        held = View(committed, heads, table=self._table(layer), edits=edits)
        seen = torch.ones(m, m, dtype=torch.bool).tril() if visible is None else visible
        itself = torch.eye(m, dtype=torch.bool)
        probes, lens = self._probes(rows), held.lens()
        slot = {} if probes is None else {int(p): j for j, p in enumerate(probes)}
        g = spec.n_heads // spec.n_kv_heads
        probs = [q.new_zeros(len(slot), g, int(n) + m) for n in lens]
        o = torch.empty_like(q)
        for i in range(m):
            before = seen[i, :i].nonzero().flatten()
            view, row, local, state = held, slice(i, i + 1), i if rows is None else int(rows[i]), self.told.of(select)
            if len(before):
                more = fresh.pick([before] * heads, SCRATCH)
                view = View([*committed, more], heads, in_flight=len(before), edits=edits)
            view.scanned = 0
            asked_for = select.pick(layer, local, q[i], view, self.told, state)
            idx = None if asked_for is None else listed(asked_for, q[i])
            looks = idx is None and select.looks(layer, local, self.told, state)
            old = view.segments if idx is None else [view.pick(idx, SCRATCH)]
            asked = np.zeros(1, dtype=np.int64) if i in slot or looks else None
            o[row], mass = attend(q[row], old, staged, itself[row], pos[row], layer, spec, self.native, asked)
            if looks:
                own = [
                    torch.cat([p[0, :, : n + len(before)], p[0, :, -m:][:, i : i + 1]], 1) for p, n in zip(mass, lens)
                ]
                select.saw(layer, local, own, view, self.told, state)
            self.bytes_scanned += view.scanned
            self.entries_read += sum(int(s.len.sum()) for s in old) + spec.n_kv_heads
            for h, p in enumerate(mass if i in slot else []):
                n = int(lens[h])
                read = torch.arange(n + len(before)) if idx is None else idx[h]
                everything = torch.cat([torch.arange(n), n + before])
                probs[h][slot[i]][:, everything[read]] = p[0, :, : len(read)]
                probs[h][slot[i]][:, n + i] = p[0, :, len(read) + i]
        self._tell(layer, rows, probes, probs)
        return o
