"""Plain torch meaning of `append_kv` and `attend`, on the same tables of addresses; the native op must equal it.

    s_ij = scale * q_i . k_j (soft-capped: c * tanh(s / c)), lse_i = log sum_j e^s_ij, o_i = sum_j e^(s_ij - lse_i) v_j

over the keys j that row i sees. Slow, and its bits may depend on how rows are grouped.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fewer.kernels.codes import CODES, widen

if TYPE_CHECKING:
    from fewer.kernels.attention import Step

_DTYPES = (torch.float32, torch.float16)
_HEAD = 4  # columns of a table row before the starts


def attend_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, scale: float, softcap: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (m, g, d), k, v (n, d), seen (m, n) bool -> o (m, g, d), lse (m, g), probabilities (m, g, n).

    A row that sees nothing gets 0, -inf, 0.
    """
    s = torch.einsum("mgd,nd->mgn", q * scale, k)
    if softcap > 0:
        s = softcap * torch.tanh(s / softcap)
    s = s.masked_fill(~seen[:, None, :], -math.inf)
    lse = torch.logsumexp(s, dim=-1)
    p = torch.exp(s - lse.masked_fill(lse == -math.inf, 0.0)[..., None])
    return torch.einsum("mgn,nd->mgd", p, v), lse, p


def attend_tables(
    q: torch.Tensor,
    o: torch.Tensor,
    step: Step,
    layer: int,
    n_kv_heads: int,
    scale: float,
    window: int,
    softcap: float,
    lse: torch.Tensor | None,
    mass: torch.Tensor | None,
    mass_slot: torch.Tensor | None,
    picks: Sequence[np.ndarray | None] | None = None,
) -> None:
    """`attention.attend`, argument for argument, after its checks."""
    g, d = q.shape[1] // n_kv_heads, q.shape[2]
    for s, (first, last) in enumerate(zip(step.row_start[:-1].tolist(), step.row_start[1:].tolist())):
        staged, visible = int(step.staged[s]), step.visible[s]
        table = _table(int(step.tables[layer, s]), int(step.nseg[layer, s]), n_kv_heads)
        tail = torch.ones(last - first, staged).tril() if visible is None else visible
        pos = torch.from_numpy(step.pos[first:last]).long()
        for h in range(n_kv_heads):
            k, v, key_pos = _entries(table, h, n_kv_heads, d, staged)
            seen = torch.cat([torch.ones(last - first, len(k) - staged, dtype=torch.bool), tail.bool()], dim=1)
            chosen = None if picks is None else picks[s]
            if chosen is not None:
                at = _of_head(torch.from_numpy(chosen), h, n_kv_heads, len(k))
                k, v, key_pos, seen = k[at], v[at], key_pos[at], torch.ones(last - first, len(at), dtype=torch.bool)
            if window:
                apart = pos[:, None] - key_pos[None, :].long()
                seen &= (apart >= 0) & (apart < window)
            heads = slice(h * g, h * g + g)
            qs = q[first:last, heads]
            o[first:last, heads], head_lse, p = attend_head(qs, k.float(), v.float(), seen, scale, softcap)
            if lse is not None:
                lse[first:last, heads] = head_lse
            if mass is not None and mass_slot is not None:
                slot = mass_slot[first:last]
                at = slot[slot >= 0]
                summed = mass.shape[1] < q.shape[1]
                to, probs = slice(h, h + 1) if summed else heads, p[slot >= 0]
                mass[at, to] = 0
                mass[at, to, : len(k)] = probs.sum(1, keepdim=True) if summed else probs


def _of_head(picked: torch.Tensor, h: int, heads: int, held: int) -> torch.Tensor:
    """The places picked of kv-head h."""
    ends = [0, *picked[:heads].tolist()]
    at = picked[heads:][ends[h] : ends[h + 1]]
    if len(at) and (int(at[0]) < 0 or int(at[-1]) >= held or bool((at.diff() <= 0).any())):
        raise IndexError("picked places must ascend and lie among the entries of their kv-head")
    return at


def append_kv(
    k: torch.Tensor, v: torch.Tensor, row_start: np.ndarray, tables: np.ndarray, nseg: np.ndarray, pos: np.ndarray
) -> None:
    """`attention.append_kv` for one layer: tables, nseg (n_seq,)."""
    heads, d = k.shape[1], k.shape[2]
    for s, (first, last) in enumerate(zip(row_start[:-1].tolist(), row_start[1:].tolist())):
        row = _table(int(tables[s]), int(nseg[s]), heads)[-1]
        for h in range(heads):
            at = row[_HEAD + h] + row[_HEAD + heads + h]
            to_k, to_v, to_pos = _memory(row, at + last - first, d)
            to_k[at:] = k[first:last, h]
            to_v[at:] = v[first:last, h]
            to_pos[at:] = torch.from_numpy(pos[first:last])


def _table(address: int, nseg: int, heads: int) -> list[list[int]]:
    width = _HEAD + 2 * heads
    flat = list((ctypes.c_int64 * (nseg * width)).from_address(address))
    return [flat[i * width : (i + 1) * width] for i in range(nseg)]


def _memory(row: list[int], entries: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first `entries` entries of a segment as tensors on its own memory."""
    dtype = _DTYPES[row[3]]
    return _at(row[0], (entries, d), dtype), _at(row[1], (entries, d), dtype), _at(row[2], (entries,), torch.int32)


def _coded(row: list[int], h: int, start: int, count: int, d: int) -> list[torch.Tensor]:
    """Head h's entries of a segment stored as codes: k, v, pos."""
    return [
        _widened(row[0], h, start, count, d),
        _widened(row[1], h, start, count, d),
        _at(row[2], (start + count,), torch.int32)[start:],
    ]


def _widened(descriptor: int, h: int, start: int, count: int, d: int) -> torch.Tensor:
    codes, low, step, bits, group, channel, half = (ctypes.c_int64 * 7).from_address(descriptor)
    if channel:
        first = (ctypes.c_int64 * (8 + h)).from_address(descriptor)[7 + h]
        pairs, skip = (first + math.ceil(count / group), d), 0
    else:
        pairs, skip, first = (start + count, math.ceil(d / group)), start, None
    at = _at(codes, (start + count, d * bits // 8), torch.uint8)[start:]
    lows, steps = (_at(x, pairs, torch.float16)[skip:] for x in (low, step))
    return widen(at, lows, steps, bits, group, bool(half), first)


def _at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype).view(shape)


def _entries(
    table: list[list[int]], h: int, heads: int, d: int, staged: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """k (n, d), v (n, d), pos (n,) of kv-head h: all segments' entries in order, the in-flight ones last."""
    parts = []
    for i, row in enumerate(table):
        start, count = row[_HEAD + h], row[_HEAD + heads + h] + (staged if i == len(table) - 1 else 0)
        parts.append(
            _coded(row, h, start, count, d) if row[3] == CODES else [x[start:] for x in _memory(row, start + count, d)]
        )
    k, v, pos = (torch.cat(x) for x in zip(*parts))
    return k, v, pos
