"""The KV store: sequences as shared immutable segments plus one growing tail that spans the layers.

    begin(seq, m)      room for m rows at the tail of every layer that the step reaches
    stage(...)         a layer's in-flight keys and values, behind the committed tail entries
    commit(seq, rows)  accepted rows become entries; the rest vanish (rollback is the default)
    keep(seq, l, idx)  eviction: kept entries move to an exactly sized segment, the old memory goes when nobody shares it
    fork / truncate    share a prefix, cut it back; nothing is copied
    give(seq, k, v)    entries that no forward made, behind what a sequence holds
    splice(seq, l, parts)  entries of other sequences, or means of them, take the place of its own
    encode(seq, n)     the oldest n raw entries of a layer change into a codec's form

A new tail takes an eighth of the memory that the sequence holds (32 to 512 rows), so slack stays small without copying on growth.
Bytes are allocated bytes, by lifetime of the buffers. What this does not do: paging to disk, moving between devices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import torch

from fewer.kv.segment import Buffer, Encoded, Meter, Segment, mean, pack_stacked
from fewer.kv.view import View
from fewer.models.spec import Spec
from fewer.types import Rows


class Sequence:
    """One sequence's entries at every layer. Layers may hold different numbers of entries (routes, eviction)."""

    def __init__(self, n_layers: int) -> None:
        self.next_pos = 0
        self.segments: list[list[Segment]] = [[] for _ in range(n_layers)]
        self.k: torch.Tensor | None = None  # tail (depth, H, cap, d)
        self.v: torch.Tensor | None = None
        self.pos: torch.Tensor | None = None  # (depth, H, cap) int32
        self.buffer: Buffer | None = None
        self.flat: list[
            tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        ] = []  # a layer's k, v, pos with heads side by side
        self.first = np.zeros(0, dtype=np.int64)  # where each head begins there
        self.cap = 0
        self.tail_from = 0  # no segment holds an entry at this position or later
        self.n = np.zeros(n_layers, dtype=np.int64)  # committed tail entries a layer
        self.staged: list[np.ndarray | None] = [None] * n_layers  # local rows in flight; None = every row of the step
        self.in_flight = 0
        self.table: np.ndarray | None = None  # native descriptors (L, S, 4 + 2H), rebuilt when segments change
        self.table_depth = 0
        self.table_segments = np.zeros(n_layers, dtype=np.int64)
        self.held = np.zeros(n_layers, dtype=np.int64)  # entries in segments (all heads), as of the table
        self.edits = 0  # how often anything but appending was done to the entries
        self.step: tuple[object, object] | None = (
            None  # what the last step was like and what it was handed, if it may recur
        )
        self.reads: object | None = None  # what the last row to select read, if it may recur
        self._buffers: set[Buffer] | None = None

    def changed(self) -> None:
        """Other segments or another tail: what was derived from them is void."""
        self.table = self.step = self.reads = self._buffers = None

    def buffers(self) -> set[Buffer]:
        if self._buffers is None:
            self._buffers = {s.buffer for layer in self.segments for s in layer}
            if self.buffer is not None:
                self._buffers.add(self.buffer)
        return self._buffers

    def in_place(self) -> bool:
        """Can native attention read every entry as it lies?"""
        return all(g.in_place for layer in self.segments for g in layer)


class Store:
    """All sequences of one model. dtype is what raw entries are kept in."""

    def __init__(self, spec: Spec, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self.meter = Meter()
        self._ids = itertools.count()
        self._seqs: dict[int, Sequence] = {}

    # ------------------------------------------------------------------ life of a sequence
    def new(self) -> int:
        """An empty sequence's id."""
        seq = next(self._ids)
        self._seqs[seq] = Sequence(self.spec.n_layers)
        return seq

    def drop(self, seq: int) -> None:
        """Forget a sequence; memory nobody else shares is freed at once."""
        self._seqs.pop(seq, None)

    def fork(self, seq: int) -> int:
        """A new sequence that shares everything committed so far. Copies no entry."""
        parent = self._seqs[seq]
        self._freeze(parent)
        new = self.new()
        child = self._seqs[new]
        child.segments = [list(layer) for layer in parent.segments]
        child.next_pos, child.edits = parent.next_pos, parent.edits
        return new

    def truncate(self, seq: int, next_pos: int) -> None:
        """Drop every entry at position >= next_pos. Entries must be in position order (they are, unless a method reorders)."""
        s = self._seqs[seq]
        if next_pos >= s.next_pos:
            return
        s.edits += 1
        if self._shorten(s, next_pos):
            return
        if s.pos is not None and next_pos >= s.tail_from:
            depth = len(s.pos)
            committed = np.arange(s.cap) < s.n[:depth, None]
            s.n[:depth] = (committed & (s.pos[:, 0].cpu().numpy() < next_pos)).sum(1)
            s.next_pos = next_pos
            return
        self._freeze(s)
        for layer in s.segments:
            kept = []
            for seg in layer:
                n = np.array(
                    [int((seg.pos[seg.head(h)] < next_pos).sum()) for h in range(len(seg.len))], dtype=np.int64
                )
                if n.sum() == 0:
                    continue
                kept.append(seg if (n == seg.len).all() else seg.cut(n))
            layer[:] = kept
        s.next_pos = next_pos
        s.changed()

    # ------------------------------------------------------------------ reading
    def next_pos(self, seq: int) -> int:
        """Position the next token takes."""
        return self._seqs[seq].next_pos

    def sequence(self, seq: int) -> Sequence:
        return self._seqs[seq]

    def view(self, seq: int, layer: int) -> View:
        """Committed entries of one layer."""
        s = self._seqs[seq]
        segments = list(s.segments[layer])
        if s.n[layer]:
            segments.append(self.tail_segment(s, layer, int(s.n[layer])))
        return View(segments, self.spec.n_kv_heads, edits=s.edits)

    def entries(self, seq: int, layer: int) -> np.ndarray:
        """(H,) committed entries a kv-head."""
        s = self._seqs[seq]
        return sum((seg.len for seg in s.segments[layer]), np.full(self.spec.n_kv_heads, s.n[layer]))

    def bytes(self, seqs: list[int] | None = None) -> int:
        """Allocated bytes: of the whole store, or of what the given sequences hold (shared memory counted once)."""
        if seqs is None:
            return self.meter.bytes
        held = set[Buffer]().union(*(self._seqs[q].buffers() for q in seqs))
        return sum(b.nbytes for b in held)

    # ------------------------------------------------------------------ one step
    def begin(self, seq: int, m: int, depth: int | None = None) -> Sequence:
        """Make room for m in-flight rows at the first `depth` layers (None = all); deeper ones get no memory."""
        s, depth = self._seqs[seq], self.spec.n_layers if depth is None else depth
        if s.k is None or depth > len(s.k) or int(s.n.max()) + m > s.cap:
            self._freeze(s)
            s.cap = max(m, min(512, max(32, self._rows(s) // 8)))
            shape = (depth, self.spec.n_kv_heads, s.cap, self.spec.head_dim)
            s.k, s.v = (torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))
            s.pos = torch.zeros(shape[:3], dtype=torch.int32, device=self.device)
            s.buffer = Buffer(self.meter, s.k.nbytes + s.v.nbytes + s.pos.nbytes)
            s.flat = list(zip(s.k.flatten(1, 2), s.v.flatten(1, 2), s.pos.flatten(1)))
            s.first = np.arange(shape[1]) * s.cap
            s.tail_from = s.next_pos
            s.changed()
        s.in_flight = m
        s.staged = [None] * self.spec.n_layers
        return s

    def stage(
        self, s: Sequence, layer: int, rows: np.ndarray | None, pos: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Put in-flight k, v (m, H, d), pos (m,) behind the tail of `layer`. rows: which local rows these are; None = all."""
        assert s.k is not None and s.v is not None and s.pos is not None
        n, m = int(s.n[layer]), len(k)
        s.k[layer, :, n : n + m] = k.transpose(0, 1)
        s.v[layer, :, n : n + m] = v.transpose(0, 1)
        s.pos[layer, :, n : n + m] = pos
        s.staged[layer] = rows

    def in_flight(self, s: Sequence, layer: int) -> Segment:
        """This step's rows of a layer as a segment."""
        rows = s.staged[layer]
        m = s.in_flight if rows is None else len(rows)
        return self.tail_segment(s, layer, m, int(s.n[layer]))

    def commit(self, seq: int, rows: Rows, accepted: np.ndarray) -> None:
        """`accepted`: local row numbers, in path order, that become cache. Every other in-flight row vanishes."""
        s = self._seqs[seq]
        prefix = bool((accepted == np.arange(len(accepted))).all())
        if prefix and all(r is None for r in s.staged):
            s.n += len(accepted)
        else:
            for layer, present in enumerate(s.staged):
                at = accepted if present is None else np.flatnonzero(np.isin(present, accepted))
                self._compact(s, layer, at)
        s.in_flight, s.staged = 0, [None] * self.spec.n_layers
        if len(accepted):
            s.next_pos = max(s.next_pos, int(rows.pos[accepted[-1]]) + 1)

    @torch.inference_mode()
    def _compact(self, s: Sequence, layer: int, at: np.ndarray) -> None:
        assert s.k is not None and s.v is not None and s.pos is not None
        n = int(s.n[layer])
        if len(at) and not (at == np.arange(len(at))).all():
            src = torch.as_tensor(n + at, device=self.device)
            for t in (s.k, s.v, s.pos):
                t[layer, :, n : n + len(at)] = t[layer, :, src]
        s.n[layer] += len(at)

    # ------------------------------------------------------------------ editing
    def keep(self, seq: int, layer: int, idx: list[torch.Tensor]) -> None:
        """Keep, of each kv-head, the entries idx[h] (ascending places in the view); everything else is freed."""
        s = self._seqs[seq]
        s.segments[layer] = [self.view(seq, layer).pick(idx, self.meter)]
        self._forget_tail(s, layer)

    def give(self, seq: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Append entries that no forward made: keys, as attention reads them, and values (L, H, p, d), at the next p
        positions."""
        s, p = self._seqs[seq], keys.shape[2]
        self._freeze(s)
        pos = torch.arange(s.next_pos, s.next_pos + p, dtype=torch.int32, device=self.device)
        for layer, (k, v) in enumerate(zip(keys.to(self.device, self.dtype), values.to(self.device, self.dtype))):
            s.segments[layer].append(pack_stacked(self.meter, k, v, pos.expand(len(k), -1)))
        s.next_pos = s.tail_from = s.next_pos + p
        s.changed()

    def splice(self, seq: int, layers: Iterable[int], parts: list[list[tuple[int, torch.Tensor]]]) -> None:
        """Entries of some layers become the parts one behind the other: copies of what sequences hold at ascending places
        (n,), all heads alike; where a part names several sequences, their mean. The sequence's own are freed; it may be among
        the sources. The next position is the one behind the furthest of them."""
        s, end = self._seqs[seq], 0
        for layer in layers:
            fresh = []
            for part in parts:
                picked = [self.view(q, layer).pick([at] * self.spec.n_kv_heads, self.meter) for q, at in part]
                fresh.append(mean(picked, self.meter))
                end = max(end, int(fresh[-1].pos.max()) + 1)
            s.segments[layer] = fresh
            self._forget_tail(s, layer)
        s.next_pos = s.tail_from = end

    def encode(self, seq: int, layer: int, fn: Callable[[View], tuple[Encoded, torch.Tensor, np.ndarray]]) -> None:
        """Pack every raw committed entry of a layer: fn(view of them) -> (encoded, pos (E,), lens (H,)). Packed ones stay."""
        s = self._seqs[seq]
        packed = [g for g in s.segments[layer] if g.packed is not None]
        raw = [g for g in s.segments[layer] if g.packed is None]
        if s.n[layer]:
            raw.append(self.tail_segment(s, layer, int(s.n[layer])))
        encoded, pos, lens = fn(View(raw, self.spec.n_kv_heads))
        start = np.concatenate([[0], np.cumsum(lens)[:-1]])
        buffer = Buffer(self.meter, encoded.nbytes + pos.nbytes)
        s.segments[layer] = [*packed, Segment(buffer, None, None, pos, start, lens, encoded)]
        self._forget_tail(s, layer)

    def raw_entries(self, seq: int, layer: int) -> int:
        """Committed entries of a layer that are not packed (largest over heads)."""
        s = self._seqs[seq]
        return int(s.n[layer]) + sum(int(g.len.max()) for g in s.segments[layer] if g.packed is None)

    def tail_segment(self, s: Sequence, layer: int, n: int, offset: int = 0) -> Segment:
        """n entries of a layer's tail from `offset` on, as a segment on the same memory."""
        assert s.buffer is not None
        return Segment(s.buffer, *s.flat[layer], s.first + offset, np.full(len(s.first), n))

    # ------------------------------------------------------------------ inside
    def _shorten(self, s: Sequence, next_pos: int) -> bool:
        """Cut inside the growing tail, where the cut falls there at every layer: only lengths change. False = it does not."""
        if next_pos == 0 or s.pos is None or not s.n.all():
            return False
        places = s.pos[:, 0, : int(s.n.max())].cpu().numpy()  # the heads of a tail are alike
        if (places[:, 0] > next_pos).any():
            return False
        behind = np.arange(places.shape[1]) >= s.n[:, None]
        s.n[:] = ((places < next_pos) & ~behind).sum(1)
        s.next_pos = next_pos
        return True

    def _rows(self, s: Sequence) -> int:
        """Raw rows of all layers and heads that would take the memory of what the segments hold."""
        entry = 2 * self.spec.head_dim * self.dtype.itemsize + 4
        segments = [seg for layer in s.segments for seg in layer]
        raw = sum(int(seg.len.sum()) for seg in segments if seg.packed is None)
        packed = sum(seg.packed.nbytes + seg.pos.nbytes for seg in segments if seg.packed is not None)
        return (raw + packed // entry) // (self.spec.n_layers * self.spec.n_kv_heads)

    def _forget_tail(self, s: Sequence, layer: int) -> None:
        """The layer's tail entries now live elsewhere; the tail's memory goes once no layer uses it."""
        s.n[layer] = 0
        s.tail_from = s.next_pos
        s.edits += 1
        s.changed()
        if not s.n.any():
            self._release_tail(s)

    def _release_tail(self, s: Sequence) -> None:
        s.k = s.v = s.pos = s.buffer = None
        s.flat, s.cap = [], 0
        s.n[:] = 0
        s.changed()

    def _freeze(self, s: Sequence) -> None:
        """Turn the committed part of the tail into shared segments."""
        for layer in range(self.spec.n_layers):
            if s.n[layer]:
                s.segments[layer].append(self.tail_segment(s, layer, int(s.n[layer])))
        self._release_tail(s)
