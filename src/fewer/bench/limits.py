"""What a machine allows, measured, and how much of it a figure uses.

    memory     tokens/s <= batch * bandwidth / (weight bytes + batch * KV bytes of one sequence)
    compute    rows/s   <= multiply-adds/s / multiply-adds a row

Bandwidth comes from a buffer far larger than any cache; multiply-adds are the 8-bit ones the packed kernels use (one
instruction with AVX-512 VNNI, two with AVX2), on plain C those of torch's float32 matrix product.
Does not: count activations, attention or caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fewer.kernels.native import native
from fewer.models.decoder import Decoder
from fewer.models.size import row_macs, weight_bytes

__all__ = ["Ceilings", "ceilings", "kv_bytes", "limited_by", "row_macs", "weight_bytes"]

BUFFER = 1 << 30  # bytes
SIDE = 1024  # of the square matrices torch multiplies
LOOPS = 1_000_000  # of the native multiply-adds
FAR = 0.4  # a figure below this share of both ceilings is limited by neither


@dataclass(frozen=True)
class Ceilings:
    """read: bytes a second. macs: multiply-adds a second."""

    read: float
    macs: float


def ceilings(nbytes: int = BUFFER, rounds: int = 4) -> Ceilings:
    """Both, with the threads in use: the best of `rounds`."""
    buffer = torch.ones(nbytes, dtype=torch.uint8)
    if native is None:
        floats = buffer.view(torch.float32)
        return Ceilings(_rate(floats.sum, nbytes, rounds), _float_macs(rounds))
    read = _rate(lambda: native.read_memory(buffer.data_ptr(), nbytes), nbytes, rounds)
    done = native.int8_macs(LOOPS)
    return Ceilings(read, _rate(lambda: native.int8_macs(LOOPS), done, rounds) if done else _float_macs(rounds))


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
    spec = decoder.spec
    entries = sum(context if w is None else min(context, w) for w in spec.windows)
    return entries * spec.n_kv_heads * spec.head_dim * 2 * decoder.kv_dtype.itemsize


def limited_by(of_memory: float, of_compute: float) -> str:
    """The ceiling a figure is closest to; far from both, what lies between the kernels decides."""
    if max(of_memory, of_compute) < FAR:
        return "dispatch"
    return "bandwidth" if of_memory >= of_compute else "compute"
