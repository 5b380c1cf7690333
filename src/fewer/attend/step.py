"""Attention of a whole step: one native call if all groups read the store as it lies, else a GroupRead for each.

The native call takes tables of segment addresses, one a sequence and layer; a sequence's tables live as long as its
segments do, only the tail's length changes from step to step.
"""

from __future__ import annotations

import numpy as np
import torch

from fewer.attend.one import serves
from fewer.attend.picking import Picking
from fewer.attend.reader import Angles, GroupRead
from fewer.attend.tables import sequence_table
from fewer.kernels import attention as kernel
from fewer.kernels.ahead import Ahead
from fewer.kv.store import Store
from fewer.types import Group


class Attention:
    """Stages keys and values and attends, layer by layer, for the groups of one step."""

    def __init__(self, groups: list[Group], store: Store, angles: Angles, dtype: torch.dtype, depth: int) -> None:
        self.store, self.spec, self.depth = store, store.spec, depth
        served = serves(store.spec, dtype, store.dtype, store.device)
        self.reads = [GroupRead(g, store, angles, served, depth) for g in groups]
        self.native: kernel.Step | None = None  # tables of a step that is one native call a layer (read)
        self._picking: Picking | None = None
        self._sharpen = sharpening(groups, store.spec.log_scale)
        self._costs: list[np.ndarray] = []  # entries read a layer, a group
        if served and all(r.plain for r in self.reads):
            self.native = self._tables()
            if any(r.selecting for r in self.reads):
                self._picking = Picking(self.reads, self.native, store, depth)

    @property
    def whole(self) -> kernel.Step | None:
        """`native`, if every row reads all that its sequence holds."""
        return self.native if self._picking is None else None

    def layer(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        locals_: list[np.ndarray | None] | None = None,
    ) -> torch.Tensor:
        """q (T, Hq, d), k, v (T, H, d) of the attending rows of all groups -> o (T, Hq, d).

        locals_: which rows attend, a group; None = all.
        """
        if self._sharpen is not None:
            q = q * self._attending(self._sharpen, locals_).to(q)[:, None, None]
        o = torch.empty_like(q)
        everyone = locals_ is None or all(rows is None for rows in locals_)
        if self.native is not None and everyone:
            kernel.append_kv(k, v, self.native, layer)
            self.read(layer, q, o)
            return o
        at = 0
        for r, rows in zip(self.reads, locals_ or [None] * len(self.reads)):
            n = len(r.group.rows) if rows is None else len(rows)
            if n:
                o[at : at + n] = r.attend(layer, rows, q[at : at + n], k[at : at + n], v[at : at + n])
            else:
                r.seq.staged[layer] = rows
            at += n
        return o

    def read(self, layer: int, q: torch.Tensor, o: torch.Tensor) -> None:
        """q, o (T, Hq, d) of all rows, whose keys and values are appended, in one native call."""
        assert self.native is not None
        if self._picking is not None:
            self._picking.attend(layer, q, o)
        else:
            window, cap = self.spec.windows[layer] or 0, self.spec.attn_softcap or 0.0
            kernel.attend(q, o, self.native, layer, self.spec.n_kv_heads, self.spec.scale, window, cap)
        self._charge(layer, layer + 1)

    def ahead(self, first: int) -> Ahead | None:
        """What the layers from `first` on read, as far as it is known already; None = not even that layer's."""
        reads = None if self._picking is None else self._picking.ahead(first, self.depth)
        if reads is not None:
            self._charge(first, first + len(reads.picked))
        return reads

    def _attending(self, of_rows: torch.Tensor, locals_: list[np.ndarray | None] | None) -> torch.Tensor:
        """What belongs to the attending rows, of something (T,) that each row has."""
        parts = of_rows.split([len(r.group.rows) for r in self.reads])
        return torch.cat(
            [p if rows is None else p[torch.from_numpy(rows)] for p, rows in zip(parts, locals_ or [None] * len(parts))]
        )

    def charge_all(self) -> None:
        """Count the entries that every layer of this step reads: somebody else attended, by `whole`."""
        self._charge(0, self.depth)

    def _charge(self, first: int, last: int) -> None:
        """Count what layers first .. last - 1 read; groups that select count for themselves."""
        for r, cost in zip(self.reads, self._costs):
            r.entries_read += 0 if r.selecting else int(cost[first:last].sum())

    def absent(self, layer: int) -> None:
        """No row of this step attends at `layer`: none leaves an entry there."""
        for r in self.reads:
            r.seq.staged[layer] = np.zeros(0, dtype=np.int64)

    def _tables(self) -> kernel.Step:
        """What the native call takes. One sequence alone, decoded row by row, gets the same again with other positions."""
        n_layers, heads = self.depth, self.spec.n_kv_heads
        found = [sequence_table(self.store, r.seq, n_layers) for r in self.reads]
        for r in self.reads:
            m = len(r.group.rows)
            held = r.seq.held + r.seq.n * heads
            self._costs.append(held * m + m * (m + 1) // 2 * heads)
        alone = self.reads[0] if len(self.reads) == 1 and self.reads[0].visible is None else None
        like = (n_layers, len(self.reads[0].group.rows))
        if alone is not None and alone.seq.step is not None and alone.seq.step[0] == like:
            again = alone.seq.step[1]
            assert isinstance(again, kernel.Step)
            again.pos[:] = alone.group.rows.pos
            return again
        row_start = np.zeros(len(self.reads) + 1, dtype=np.int64)
        np.cumsum([len(r.group.rows) for r in self.reads], out=row_start[1:])
        pos = np.concatenate([r.group.rows.pos for r in self.reads]).astype(np.int32)
        tables = np.empty((n_layers, len(self.reads)), dtype=np.int64)
        nseg = np.empty_like(tables)
        for i, (table, counts) in enumerate(found):
            tables[:, i] = table.ctypes.data + np.arange(n_layers) * table[0].nbytes
            nseg[:, i] = counts[:n_layers]
        step = kernel.Step(row_start, pos, tables, nseg, [r.visible for r in self.reads])
        if alone is not None:
            alone.seq.step = like, step
        return step


def sharpening(groups: list[Group], log_scale: tuple[float, float] | None) -> torch.Tensor | None:
    """(T,) what each row's scores are multiplied by (Spec.log_scale); None = nothing."""
    if log_scale is None:
        return None
    s, least = log_scale
    pos = np.concatenate([g.rows.pos for g in groups])
    return torch.from_numpy(np.maximum(least, s * np.log(pos + 1.0)))
