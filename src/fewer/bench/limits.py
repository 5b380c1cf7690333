"""What a machine allows, measured, and how much of it a figure uses.

    memory     seconds of a forward >= (weight bytes + KV bytes of its sequences) / bandwidth
    compute    seconds of a forward >= rows * (multiply-adds of the matrices / int8 peak + those of attention / float32 peak)

All are medians of what was measured in turn with the figure they stand beside, so a slow minute hits both. Bandwidth
comes from a buffer far larger than any cache; the peaks are of multiply-adds in registers: 8-bit ones as the
packed kernels use them (one instruction with AVX-512 VNNI, two with AVX2) and float32 ones as attention does; on plain C
both are those of torch's float32 matrix product.
Does not: count activations, caches, what attention does beside its two products (exponentials, float16 keys).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import torch

from fewer.kernels.native import native
from fewer.models.decoder import Decoder
from fewer.models.size import row_macs, weight_bytes

__all__ = ["Ceilings", "Meter", "Pass", "Shares", "kv_bytes", "median", "row_macs", "shares", "weight_bytes"]

BUFFER = 256 << 20  # bytes
SIDE = 1024  # of the square matrices torch multiplies
LOOPS = 10_000_000  # of the native multiply-adds
FAR = 0.4  # where the least seconds of both together are a smaller share, what lies between the kernels limits


@dataclass(frozen=True)
class Ceilings:
    """read: bytes a second. macs, floats: 8-bit and float32 multiply-adds a second."""

    read: float
    macs: float
    floats: float


@dataclass(frozen=True)
class Pass:
    """Forwards that are alike: the rows of each, their mean context, the sequences whose caches it reads, logits or not."""

    rows: int
    context: int
    sequences: int = 1
    head: bool = True
    times: float = 1


@dataclass(frozen=True)
class Shares:
    """Least seconds of some forwards by either ceiling, the shares that they reach, and which one limits them."""

    memory_seconds: float
    compute_seconds: float
    of_memory: float
    of_compute: float
    limited_by: str


class Meter:
    """Measures the ceilings again and again between what is measured: a shared machine has fast minutes and slow ones.

    With the threads that the kernels have. It holds `nbytes` of memory.
    """

    def __init__(self, nbytes: int = BUFFER, loops: int = LOOPS) -> None:
        self._buffer, self._loops = torch.ones(nbytes, dtype=torch.uint8), loops
        self._side = torch.ones(SIDE, SIDE)

    def once(self) -> Ceilings:
        """A tenth of a second."""
        if native is None or not native.int8_macs(1):
            floats = _rate(self._multiply)
            return Ceilings(_rate(self._read), floats, floats)
        return Ceilings(
            *map(_rate, (self._read, lambda: native.int8_macs(self._loops), lambda: native.float_macs(self._loops)))
        )

    def _read(self) -> int:
        if native is None:
            self._buffer.view(torch.float32).sum()
        else:
            native.read_memory(self._buffer.data_ptr(), self._buffer.nbytes)
        return self._buffer.nbytes

    def _multiply(self) -> int:
        self._side @ self._side
        return SIDE**3


def median(seen: Sequence[Ceilings]) -> Ceilings:
    """Of each ceiling."""
    return Ceilings(*map(statistics.median, zip(*map(astuple, seen))))


def _rate(work: Callable[[], int]) -> float:
    """What `work` says it did, a second."""
    start = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - start)


def kv_bytes(decoder: Decoder, context: int) -> int:
    """Bytes of keys and values that one row at `context` reads, sliding windows counted as what they let through."""
    return _entries(decoder, context) * decoder.spec.n_kv_heads * decoder.spec.head_dim * 2 * decoder.kv_dtype.itemsize


def attention_macs(decoder: Decoder, context: int) -> int:
    """Multiply-adds of one row's scores and means over its context, all layers."""
    return 2 * _entries(decoder, context) * decoder.spec.n_heads * decoder.spec.head_dim


def _entries(decoder: Decoder, context: int) -> int:
    return sum(context if w is None else min(context, w) for w in decoder.spec.windows)


def shares(decoder: Decoder, top: Ceilings, seconds: float, *passes: Pass) -> Shares:
    """Of forwards that took `seconds` together."""
    memory = compute = 0.0
    for p in passes:
        memory += p.times * (weight_bytes(decoder) + p.sequences * kv_bytes(decoder, p.context)) / top.read
        products, attention = row_macs(decoder.spec, p.head) / top.macs, attention_macs(decoder, p.context) / top.floats
        compute += p.times * p.rows * (products + attention)
    limit = "bandwidth" if memory >= compute else "compute"
    if memory + compute < FAR * seconds:
        limit = "dispatch"
    return Shares(memory, compute, memory / seconds, compute / seconds, limit)
