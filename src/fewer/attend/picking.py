"""Attention of a step in which some groups select, in one native call a layer: nothing is gathered.

Every row of a selecting group stands in the call as a sequence of its own, with the places that were picked for it and,
last, itself. What it picks among is what would be committed if it came alone: entries held and the rows it descends from.
reader.py does the same in plain torch, and where somebody else wants to see who looked where.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fewer.attend.kept import Asked, Kept
from fewer.attend.reader import SCRATCH, GroupRead
from fewer.attend.tables import sequence_table
from fewer.kernels import attention as kernel
from fewer.kernels.ahead import Ahead, Foreseen
from fewer.kernels.ranking import Behind, Read, count, read_by
from fewer.kv.store import Store
from fewer.kv.view import View


@dataclass
class Row:
    """A row that selects: its number in its group and in the step, and the group's rows that it descends from."""

    read: GroupRead
    local: int
    at: int
    before: torch.Tensor


class Picking:
    """The groups of a step that all read the store as it lies. whole: the native call's tables, a sequence a group."""

    def __init__(self, reads: list[GroupRead], whole: kernel.Step, store: Store, depth: int) -> None:
        self._store, self._heads = store, store.spec.n_kv_heads
        self._shape = store.spec.n_heads, store.spec.head_dim  # of a row's queries
        self._tables = {id(r): sequence_table(store, r.seq, depth) for r in reads if r.selecting}
        self._rows: list[Row | None] = []  # of every sequence of the call; None = a whole group, which does not select
        for r, at in zip(reads, whole.row_start.tolist()):
            for i in range(len(r.group.rows) if r.selecting else 1):
                before = torch.arange(i) if r.visible is None else r.visible[i, :i].nonzero().flatten()
                self._rows.append(Row(r, i, at + i, before) if r.selecting else None)
        self._apart_from_whole = len(self._rows) > len(reads)
        self._step = self._apart(reads, whole) if self._apart_from_whole else whole
        self._parts = {(0, len(self._rows)): self._step}  # sequences first .. last - 1 of the call

    def attend(self, layer: int, q: torch.Tensor, o: torch.Tensor) -> None:
        """q, o (T, Hq, d); keys and values are appended. Charges what the selecting groups read.

        One call, unless a row picks by what a row that it descends from is about to see."""
        picks, looking, first = list[Read | None](), list[tuple[Row, View]](), 0
        for i, row in enumerate(self._rows):
            if row is None:
                picks.append(None)
                continue
            if any(x.read is row.read and x.local in row.before for x, _ in looking):
                self._call(layer, q, o, first, i, picks, looking)
                picks, looking, first = [], [], i
            view = self._view(row, layer)
            picks.append(self._picked(row, layer, q[row.at], view))
            if picks[-1] is None and self._looks(row, layer):
                looking.append((row, view))
        self._call(layer, q, o, first, len(self._rows), picks, looking)

    def ahead(self, first: int, depth: int) -> Ahead | None:
        """What the layers from `first` on read, as far as every row that selects knows it; None = not one of them.

        Rows that descend from others are asked layer by layer: what they pick among is made there."""
        last = first
        if self._apart_from_whole:
            return None
        while last < depth and all(row is None or self._knows(row, last) for row in self._rows):
            last += 1
        if last == first:
            return None
        foreseen = [None if row is None else self._foreseen(row, first, last) for row in self._rows]
        at = [0 if row is None else row.at for row in self._rows]
        return Ahead(foreseen, at, last - first, self._shape)

    # ------------------------------------------------------------------ inside
    def _call(
        self,
        layer: int,
        q: torch.Tensor,
        o: torch.Tensor,
        first: int,
        last: int,
        picks: list[Read | None],
        looking: list[tuple[Row, View]],
    ) -> None:
        """Sequences first .. last - 1 attend; those that look are shown what their rows gave each entry."""
        spec, mass, slots = self._store.spec, None, None
        at = slice(int(self._step.row_start[first]), int(self._step.row_start[last]))
        if looking:
            most = max(int(view.lens().max()) + len(row.read.group.rows) for row, view in looking)
            mass, slots = torch.empty(len(looking), q.shape[1], most), torch.full((at.stop - at.start,), -1)
            slots[[row.at - at.start for row, _ in looking]] = torch.arange(len(looking))
        kernel.attend(
            q[at], o[at], self._part(first, last), layer, self._heads, spec.scale, spec.windows[layer] or 0,
            spec.attn_softcap or 0.0, mass=mass, mass_slot=slots, picks=read_by(picks, q),
        )  # fmt: skip
        for j, (row, view) in enumerate(looking):
            assert mass is not None
            self._show(row, layer, view, mass[j])

    def _part(self, first: int, last: int) -> kernel.Step:
        if (first, last) not in self._parts:
            step, seqs = self._step, slice(first, last)
            starts = step.row_start[first : last + 1]
            pos = step.pos[starts[0] : starts[-1]]
            tables, nseg = (np.ascontiguousarray(x[:, seqs]) for x in (step.tables, step.nseg))
            self._parts[first, last] = kernel.Step(
                starts - starts[0], pos, tables, nseg, step.visible[seqs], step.staged[seqs]
            )
        return self._parts[first, last]

    def _view(self, row: Row, layer: int) -> View:
        """What `row` picks among."""
        r = row.read
        segments, edits = self._store.view(r.group.seq, layer).segments, r.seq.edits
        if not len(row.before):
            table, counts = self._tables[id(r)]
            return View(segments, self._heads, table=table[layer, : counts[layer]], edits=edits)
        fresh = View([self._store.in_flight(r.seq, layer)], self._heads).pick([row.before] * self._heads, SCRATCH)
        return View([*segments, fresh], self._heads, in_flight=len(row.before), edits=edits)

    def _picked(self, row: Row, layer: int, q: torch.Tensor, view: View) -> Read | None:
        """What the native call reads for a row; None = all."""
        r = row.read
        select = r.seams.select
        assert select is not None
        picks = select.pick(layer, row.local, q, view, r.told, r.told.of(select))
        lens = view.lens()
        r.bytes_scanned += view.scanned
        r.entries_read += self._heads + (int(lens.sum()) if picks is None else count(picks))
        return None if picks is None else Read(row.at, picks, Behind(row.local, row.before, lens - len(row.before)))

    def _knows(self, row: Row, layer: int) -> bool:
        select, told = row.read.seams.select, row.read.told
        assert select is not None
        return select.knows(layer, row.local, told, told.of(select))

    def _foreseen(self, row: Row, first: int, last: int) -> Foreseen:
        """What a row that comes alone reads in the layers first .. last - 1: as in its last step, if that holds."""
        r = row.read
        assert r.seams.select is not None
        asked, kept = Asked(r.seams.select, r.told.of(r.seams.select), first, last), r.seq.reads
        if isinstance(kept, Kept) and kept.serves(asked, r.seq, self._heads):
            r.bytes_scanned += kept.scanned
            r.entries_read += kept.entries
        else:
            kept = r.seq.reads = self._ask(row, asked)
        return kept.foreseen

    def _ask(self, row: Row, asked: Asked) -> Kept:
        """What the row reads in the layers asked for; charges it."""
        r, nothing, reads, holds = row.read, torch.empty(0), list[Read | None](), list[int]()
        before = r.entries_read
        for layer in range(asked.first, asked.last):
            view = self._view(row, layer)
            reads.append(self._picked(row, layer, nothing, view))
            holds.append(asked.select.holds(layer, row.local, view, r.told, asked.state))
        return Kept(asked, r.seq, reads, r.entries_read - before, holds, self._shape)

    def _looks(self, row: Row, layer: int) -> bool:
        select, told = row.read.seams.select, row.read.told
        assert select is not None
        return select.looks(layer, row.local, told, told.of(select))

    def _show(self, row: Row, layer: int, view: View, mass: torch.Tensor) -> None:
        """mass (Hq, entries): what a row that read all gave the committed entries and those in flight."""
        r, own = row.read, []
        assert r.seams.select is not None
        for n, of_head in zip((view.lens() - len(row.before)).tolist(), mass.chunk(self._heads)):
            alone = not len(row.before) and row.local == 0
            at = slice(n + 1) if alone else torch.cat([torch.arange(n), n + row.before, torch.tensor([n + row.local])])
            own.append(of_head[:, at])
        r.seams.select.saw(layer, row.local, own, view, r.told, r.told.of(r.seams.select))

    def _apart(self, reads: list[GroupRead], whole: kernel.Step) -> kernel.Step:
        """The same rows with those that select as sequences of their own, which see what they descend from."""
        of = [i for i, r in enumerate(reads) for _ in range(len(r.group.rows) if r.selecting else 1)]
        starts, visible = [0], list[torch.Tensor | None]()
        for row, i in zip(self._rows, of):
            m = len(reads[i].group.rows)
            starts.append(starts[-1] + (m if row is None else 1))
            seen = reads[i].visible
            if row is not None:
                seen = torch.zeros(1, m, dtype=torch.bool)
                seen[0, row.before] = seen[0, row.local] = True
            visible.append(seen)
        staged = np.array([len(reads[i].group.rows) for i in of])
        tables, nseg = (np.ascontiguousarray(x[:, of]) for x in (whole.tables, whole.nseg))
        return kernel.Step(np.array(starts), whole.pos, tables, nseg, visible, staged)
