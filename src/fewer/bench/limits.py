"""What a machine allows, measured, and how much of it a figure uses.

    memory     seconds of a forward >= (weight bytes + KV bytes of its sequences) / bandwidth
    compute    seconds of a forward >= rows * (multiply-adds of the matrices / int8 peak + those of attention / float32 peak)

Bandwidth comes from a buffer far larger than any cache; the peaks are of multiply-adds in registers: 8-bit ones as the
packed kernels use them (one instruction with AVX-512 VNNI, two with AVX2) and float32 ones as attention does; on plain C
both are those of torch's float32 matrix product.
Does not: count activations, caches, what attention does beside its two products (exponentials, float16 keys).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fewer.kernels.native import native
from fewer.models.decoder import Decoder
from fewer.models.size import row_macs, weight_bytes

__all__ = ["Ceilings", "Shares", "ceilings", "kv_bytes", "row_macs", "shares", "weight_bytes"]

BUFFER = 1 << 30  # bytes
SIDE = 1024  # of the square matrices torch multiplies
LOOPS = 1_000_000  # of the native multiply-adds
FAR = 0.4  # where the least seconds of both together are a smaller share, what lies between the kernels limits


@dataclass(frozen=True)
class Ceilings:
    """read: bytes a second. macs, floats: 8-bit and float32 multiply-adds a second."""

    read: float
    macs: float
    floats: float


@dataclass(frozen=True)
class Shares:
    """Least seconds of a forward by either ceiling, the shares that it reaches, and which one limits it."""

    memory_seconds: float
    compute_seconds: float
    of_memory: float
    of_compute: float
    limited_by: str


def ceilings(nbytes: int = BUFFER, rounds: int = 4) -> Ceilings:
    """All, with the threads in use: the best of `rounds`."""
    buffer = torch.ones(nbytes, dtype=torch.uint8)
    if native is None:
        floats = _float_macs(rounds)
        return Ceilings(_rate(buffer.view(torch.float32).sum, nbytes, rounds), floats, floats)
    read = _rate(lambda: native.read_memory(buffer.data_ptr(), nbytes), nbytes, rounds)
    return Ceilings(read, _peak(native.int8_macs, rounds), _peak(native.float_macs, rounds))


def _peak(spin: Callable[[int], int], rounds: int) -> float:
    done = spin(LOOPS)
    return _rate(lambda: spin(LOOPS), done, rounds) if done else _float_macs(rounds)


def _float_macs(rounds: int) -> float:
    a, b = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    return _rate(lambda: a @ b, SIDE**3, rounds)


def _rate(work: Callable[[], object], amount: float, rounds: int) -> float:
    """The best of `rounds`: amount a second."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return amount / best


def kv_bytes(decoder: Decoder, context: int) -> int:
    """Bytes of keys and values that one row at `context` reads, sliding windows counted as what they let through."""
    return _entries(decoder, context) * decoder.spec.n_kv_heads * decoder.spec.head_dim * 2 * decoder.kv_dtype.itemsize


def attention_macs(decoder: Decoder, context: int) -> int:
    """Multiply-adds of one row's scores and means over its context, all layers."""
    return 2 * _entries(decoder, context) * decoder.spec.n_heads * decoder.spec.head_dim


def _entries(decoder: Decoder, context: int) -> int:
    return sum(context if w is None else min(context, w) for w in decoder.spec.windows)


def shares(
    decoder: Decoder, top: Ceilings, seconds: float, rows: int, context: int, sequences: int = 1, head: bool = True
) -> Shares:
    """Of a forward that took `seconds`: its rows in all, their mean context, the sequences whose caches it read."""
    memory = (weight_bytes(decoder) + sequences * kv_bytes(decoder, context)) / top.read
    products, attention = row_macs(decoder.spec, head) / top.macs, attention_macs(decoder, context) / top.floats
    compute = rows * (products + attention)
    limit = "bandwidth" if memory >= compute else "compute"
    if memory + compute < FAR * seconds:
        limit = "dispatch"
    return Shares(memory, compute, memory / seconds, compute / seconds, limit)
