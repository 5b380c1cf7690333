"""Attention of a step's rows over the KV store's segments, and the append before it: the native op or its reference.

A segment's row in a table is int64 [k, v, pos, dtype, start_0..start_H-1, len_0..len_H-1]: addresses of k, v (E, d) in
float32 (dtype 0) or float16 (1), or of descriptors of codes (2, codes.py), and of pos (E,) int32; kv-head h owns entries
start_h .. start_h + len_h - 1. The last segment of a sequence is its tail, never codes: in-flight entries lie behind each
head's len_h committed ones, as many a head.

With the native op a row's result has the same bits whatever else is in the step, however its keys are cut into segments
or chunks, and on any number of threads; `attention_reference` says what it computes and is used without a compiler.
Tables hold raw addresses: what they point at must outlive the call and is not checked here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from fewer.kernels import attention_reference as reference
from fewer.kernels.native import native


class Step:
    """The host-side arrays of one step, checked once and shared by all layers. Keeps them alive.

    row_start: (n_seq + 1,) int64 from 0 to T: sequence s owns rows row_start[s]..row_start[s + 1] - 1.
    pos: (T,) int32 positions of the rows.
    tables: (n_layers, n_seq) int64 addresses of segment tables; nseg: the same shape, segments of each (>= 1).
    visible: per sequence None (row i sees in-flight entries 0..i) or a bool/uint8 tensor (rows, staged), 1 = sees.
    staged: (n_seq,) int64 in-flight entries of each sequence; None = its rows. Where they differ, give `visible`.
    Raises TypeError (dtype, layout) or ValueError (shape, order).
    """

    def __init__(
        self,
        row_start: np.ndarray,
        pos: np.ndarray,
        tables: np.ndarray,
        nseg: np.ndarray,
        visible: Sequence[torch.Tensor | None] | None = None,
        staged: np.ndarray | None = None,
    ) -> None:
        n_seq = len(row_start) - 1
        counts = np.diff(row_start)
        staged = counts if staged is None else staged
        for name, array, dtype in (
            ("row_start", row_start, np.int64),
            ("pos", pos, np.int32),
            ("tables", tables, np.int64),
            ("nseg", nseg, np.int64),
            ("staged", staged, np.int64),
        ):
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise TypeError(f"{name} must be contiguous {np.dtype(dtype)}, not {array.dtype}")
        if n_seq < 0 or row_start[0] != 0 or row_start[-1] != len(pos) or (counts < 0).any():
            raise ValueError(f"row_start must rise from 0 to the number of rows, {len(pos)}")
        if tables.ndim != 2 or tables.shape[1] != n_seq or nseg.shape != tables.shape:
            raise ValueError(f"tables {tables.shape} and nseg {nseg.shape} must be (layers, {n_seq})")
        if (nseg < 1).any() or (tables == 0).any() or staged.shape != (n_seq,) or (staged < 0).any():
            raise ValueError("every sequence needs a table of at least one segment and a staged count >= 0")
        self.row_start, self.pos, self.tables, self.nseg, self.staged = row_start, pos, tables, nseg, staged
        self.visible: list[torch.Tensor | None] = list(visible) if visible is not None else [None] * n_seq
        matrices = _check_visible(self.visible, counts.tolist(), staged.tolist())
        self._matrices = matrices  # alive as long as its address below
        self._visible_at = 0 if matrices is None else matrices.ctypes.data
        self._staged_at = staged.ctypes.data
        starts, rows, tables_at, nseg_at = (x.ctypes.data for x in (row_start, pos, tables, nseg))
        self.addresses = (n_seq, starts, tables_at, nseg_at, rows, self._visible_at, self._staged_at)  # for all layers

    def of(self, layer: int) -> tuple[int, int, int, int, int]:
        """Sequences and the addresses of row_start, the layer's tables and segment counts, and pos."""
        n_seq, starts, tables_at, nseg_at, rows, *_ = self.addresses
        skip = 8 * n_seq * layer
        return n_seq, starts, tables_at + skip, nseg_at + skip, rows


def _check_visible(visible: list[torch.Tensor | None], rows: list[int], staged: list[int]) -> np.ndarray | None:
    """Addresses of the matrices, 0 = causal; None if all are causal."""
    if len(visible) != len(rows):
        raise ValueError(f"visible has {len(visible)} entries for {len(rows)} sequences")
    addresses = [0] * len(rows)
    for i, seen in enumerate(visible):
        if seen is None:
            if rows[i] != staged[i]:
                raise ValueError(f"sequence {i} has {rows[i]} rows and {staged[i]} in flight: visible must be given")
            continue
        if tuple(seen.shape) != (rows[i], staged[i]):
            raise ValueError(f"visible[{i}] is {tuple(seen.shape)}, expected {(rows[i], staged[i])}")
        if seen.dtype not in (torch.bool, torch.uint8) or not seen.is_contiguous() or not seen.is_cpu:
            raise TypeError(f"visible[{i}] must be a contiguous bool or uint8 tensor on the CPU")
        addresses[i] = seen.data_ptr()
    return np.array(addresses, dtype=np.int64) if any(addresses) else None


def _check(name: str, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if x.dtype != torch.float32 or not x.is_contiguous() or not x.is_cpu:
        raise TypeError(f"{name} must be a contiguous float32 tensor on the CPU, not {x.dtype} on {x.device}")
    if x.shape != shape:
        raise ValueError(f"{name} is {tuple(x.shape)}, expected {shape}")


def append_kv(k: torch.Tensor, v: torch.Tensor, step: Step, layer: int) -> None:
    """Write k, v (T, H, d) float32 and the rows' positions into the tails, behind the committed entries, in row order.

    Lengths in the tables stay; room for the rows is the store's business. float16 tails round to nearest even.
    """
    if k.dim() != 3:
        raise ValueError(f"k is {tuple(k.shape)}, expected (rows, kv heads, head size)")
    heads, d = k.shape[1], k.shape[2]
    shape = (len(step.pos), heads, d)
    _check("k", k, shape)
    _check("v", v, shape)
    if native is None:
        reference.append_kv(k, v, step.row_start, step.tables[layer], step.nseg[layer], step.pos)
        return
    native.append_kv(*step.of(layer), heads, d, k.data_ptr(), v.data_ptr())


def attend(
    q: torch.Tensor,
    o: torch.Tensor,
    step: Step,
    layer: int,
    n_kv_heads: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    lse: torch.Tensor | None = None,
    mass: torch.Tensor | None = None,
    mass_slot: torch.Tensor | None = None,
    picks: Sequence[np.ndarray | None] | None = None,
) -> None:
    """o = softmax(scale * q.k, soft-capped) v for every row, over its sequence's entries in `layer`.

    q, o: (T, Hq, d) float32, d a multiple of 8 up to 256; query heads h*g..h*g+g-1 read kv-head h.
    window: 0 = none; else a row sees keys with 0 <= row position - key position < window. softcap: 0 = none.
    lse: (T, Hq) float32, receives log(sum of e^score).
    mass: (slots, Hq, n) float32, receives the probabilities of each row r with mass_slot[r] >= 0, in that slot, or (slots,
    n_kv_heads, n), sums over the kv-head's queries; by place among the sequence's entries in order (in-flight ones last),
    0 where the row does not see. mass_slot: (T,) int64. n must be at least the sequence's entries. Values that a row does
    not see must still be finite.
    picks: per sequence None or packed(..): what its rows read, and nothing else; probabilities are by place among these.
    Raises IndexError for places that do not ascend or are not there.
    """
    if q.dim() != 3 or n_kv_heads < 1 or q.shape[1] % n_kv_heads or q.shape[2] % 8 or not 8 <= q.shape[2] <= 256:
        raise ValueError(f"q is {tuple(q.shape)}, expected (rows, {n_kv_heads} x group, a multiple of 8 up to 256)")
    rows, heads, d = q.shape
    shape = (len(step.pos), heads, d)
    _check("q", q, shape)
    _check("o", o, shape)
    if lse is not None:
        _check("lse", lse, (rows, heads))
    if window < 0 or softcap < 0:
        raise ValueError(f"window {window} and softcap {softcap} must not be negative")
    slots = _check_mass(mass, mass_slot, rows, (heads, n_kv_heads)) if mass is not None else 0
    if native is None:
        reference.attend_tables(q, o, step, layer, n_kv_heads, scale, window, softcap, lse, mass, mass_slot, picks)
        return
    picked_at = None if picks is None else _check_picks(picks, len(step.row_start) - 1, n_kv_heads)
    mass_at, mass_of = (0, (heads, 0)) if mass is None else (mass.data_ptr(), mass.shape[1:])
    native.attend(
        *step.of(layer), n_kv_heads, d, step._visible_at, step._staged_at, q.data_ptr(), o.data_ptr(),
        0 if lse is None else lse.data_ptr(), heads, window, scale, softcap, mass_at, slots, *mass_of,
        0 if picked_at is None else picked_at.ctypes.data,
    )  # fmt: skip


def packed(places: Sequence[torch.Tensor], last: np.ndarray | None = None) -> np.ndarray:
    """Ascending places of each kv-head, in-flight ones counted behind the committed, as attend() takes them: int64
    [ends of head 0 .. H - 1, places of head 0, of head 1, ..]. last (H,): one more place of each head, behind the others."""
    pieces = [np.fromiter(itertools.accumulate(len(p) + (last is not None) for p in places), np.int64, len(places))]
    for h, p in enumerate(places):
        pieces += [p.numpy()] if last is None else [p.numpy(), last[h : h + 1]]
    return np.concatenate(pieces, dtype=np.int64, casting="same_kind")


def _check_picks(picks: Sequence[np.ndarray | None], n_seq: int, heads: int) -> np.ndarray:
    """The addresses of the picked places, 0 = none."""
    if len(picks) != n_seq:
        raise ValueError(f"picks has {len(picks)} entries for {n_seq} sequences")
    for p in picks:
        if p is None:
            continue
        if p.dtype != np.int64 or p.ndim != 1 or not p.flags.c_contiguous:
            raise TypeError("picks must be contiguous int64 vectors: make them with packed()")
        ends = [0, *p[:heads].tolist()]
        if len(p) < heads or len(p) != heads + ends[-1] or ends != sorted(ends):
            raise ValueError(f"picks of {heads} kv heads end at {ends[1:]} but hold {len(p) - heads} places")
    return np.array([0 if p is None else p.ctypes.data for p in picks], dtype=np.int64)


def _check_mass(mass: torch.Tensor, slot: torch.Tensor | None, rows: int, heads: tuple[int, int]) -> int:
    """The address of `slot`, after checking that every slot exists; that `mass` has room is the caller's promise."""
    if slot is None or slot.dtype != torch.int64 or slot.shape != (rows,) or not slot.is_contiguous():
        raise TypeError(f"mass needs mass_slot, a contiguous int64 tensor ({rows},)")
    if mass.dim() != 3 or mass.shape[1] not in heads:
        raise ValueError(f"mass is {tuple(mass.shape)}, expected (slots, {heads[0]} or {heads[1]}, entries)")
    _check("mass", mass, tuple(mass.shape))
    if rows and int(slot.max()) >= mass.shape[0]:
        raise ValueError(f"mass_slot names slot {int(slot.max())}, mass has {mass.shape[0]}")
    return slot.data_ptr()
