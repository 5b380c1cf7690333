"""KV memory: buffers that know their bytes, and segments that say where each kv-head's entries lie in them.

A `Segment` is immutable and may be shared by many sequences; ragged per head: kv-head h owns entries
start[h] .. start[h] + len[h] of the flat k (E, d), v (E, d), pos (E,). `Meter` counts what is allocated, by lifetime:
a buffer is charged when made and credited when the last segment that holds it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fewer.kernels.codes import CODES

DTYPE_CODE = {torch.float32: 0, torch.float16: 1}


class Meter:
    """Allocated KV bytes: now, and the most since `peak` was last set."""

    def __init__(self) -> None:
        self.bytes = self.peak = 0


class Buffer:
    """Owner of some tensors' memory. Charged to the meter for as long as anything refers to it."""

    __slots__ = ("meter", "nbytes")

    def __init__(self, meter: Meter, nbytes: int) -> None:
        self.meter, self.nbytes = meter, nbytes
        meter.bytes += nbytes
        meter.peak = max(meter.peak, meter.bytes)

    def __del__(self) -> None:
        self.meter.bytes -= self.nbytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """Entries in a codec's own form: `decode()` gives flat k, v (E, d); `nbytes` is what the packed form occupies.

    keys, values: descriptors (kernels/codes.py) by which native attention reads them as they lie; None = decoded for a read.
    """

    decode: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    nbytes: int
    keys: np.ndarray | None = None
    values: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Entries of one layer. Either raw (k, v given) or encoded (`packed` given, k and v None)."""

    buffer: Buffer
    k: torch.Tensor | None
    v: torch.Tensor | None
    pos: torch.Tensor  # (E,) int32
    start: np.ndarray  # (H,) int64
    len: np.ndarray  # (H,) int64
    packed: Encoded | None = None

    def raw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """k, v as (E, d), decoded if need be."""
        if self.packed is not None:
            return self.packed.decode()
        assert self.k is not None and self.v is not None
        return self.k, self.v

    def head(self, h: int) -> slice:
        return slice(int(self.start[h]), int(self.start[h] + self.len[h]))

    @property
    def in_place(self) -> bool:
        """Can native attention read it as it lies?"""
        return self.packed is None or (self.packed.keys is not None and self.packed.values is not None)

    def table_row(self) -> list[int]:
        """The native descriptor: addresses of k, v and pos, dtype code, starts, lengths. Only of segments `in_place`."""
        if self.packed is not None:
            assert self.packed.keys is not None and self.packed.values is not None
            at = [self.packed.keys.ctypes.data, self.packed.values.ctypes.data, self.pos.data_ptr(), CODES]
            return [*at, *self.start, *self.len]
        assert self.k is not None and self.v is not None
        dtype = DTYPE_CODE.get(self.k.dtype, -1)
        return [self.k.data_ptr(), self.v.data_ptr(), self.pos.data_ptr(), dtype, *self.start, *self.len]

    def cut(self, length: np.ndarray) -> Segment:
        """The same memory with only the first length[h] entries of each head."""
        return Segment(self.buffer, self.k, self.v, self.pos, self.start, length, self.packed)

    def stacked(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """k, v (H, n, d) and pos (H, n) without a copy, where all heads hold n entries at equal distances; else None."""
        n, gaps = int(self.len[0]), np.diff(self.start)
        if (self.len != n).any() or (len(gaps) and (gaps != gaps[0]).any()):
            return None
        k, v = self.raw()
        d, first, gap, heads = k.shape[1], int(self.start[0]), int(gaps[0]) if len(gaps) else 0, len(self.len)
        shape, stride = (heads, n, d), (gap * d, d, 1)
        pos = self.pos.as_strided((heads, n), (gap, 1), self.pos.storage_offset() + first)
        at = k.storage_offset() + first * d, v.storage_offset() + first * d
        return k.as_strided(shape, stride, at[0]), v.as_strided(shape, stride, at[1]), pos


def pack_stacked(meter: Meter, k: torch.Tensor, v: torch.Tensor, pos: torch.Tensor) -> Segment:
    """One raw segment from k, v (H, n, d) and pos (H, n), all heads alike: a fresh, exactly sized allocation."""
    heads, n, d = k.shape
    k, v, pos = (t.clone(memory_format=torch.contiguous_format) for t in (k, v, pos))
    nbytes = k.nbytes + v.nbytes + pos.nbytes
    start, lens = np.arange(heads) * n, np.full(heads, n)
    return Segment(Buffer(meter, nbytes), k.view(-1, d), v.view(-1, d), pos.view(-1), start, lens)


def pack_heads(meter: Meter, ks: list[torch.Tensor], vs: list[torch.Tensor], ps: list[torch.Tensor]) -> Segment:
    """One raw segment from per-head k (n_h, d), v (n_h, d), pos (n_h,): a fresh, exactly sized allocation."""
    lens = np.array([len(p) for p in ps], dtype=np.int64)
    k, v, pos = torch.cat(ks), torch.cat(vs), torch.cat(ps)
    nbytes = k.nbytes + v.nbytes + pos.nbytes
    return Segment(Buffer(meter, nbytes), k, v, pos, np.concatenate([[0], np.cumsum(lens)[:-1]]), lens)


def mean(segments: list[Segment], meter: Meter) -> Segment:
    """One raw segment of the mean keys and values of raw segments that lie alike; positions are the first one's."""
    if len(segments) == 1:
        return segments[0]
    ks, vs = zip(*(s.raw() for s in segments))
    dtype = torch.promote_types(ks[0].dtype, torch.float32)
    k, v = (torch.stack([t.to(dtype) for t in of]).mean(0).to(ks[0].dtype) for of in (ks, vs))
    first = segments[0]
    return Segment(Buffer(meter, k.nbytes + v.nbytes + first.pos.nbytes), k, v, first.pos, first.start, first.len)
