"""Memory for entries: plain tensors, the large ones on huge pages where the system has them on request (Linux).

Attention reads every entry of a long context once a token, and a selection jumps between them: from pages of 4 KB each
read costs an address translation. Only whole pages of 2 MB inside a tensor are asked for, so no byte more is allocated, and
a tensor's memory goes back to the system with it.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
import torch

HUGE = 2 << 20
LARGE = 2 * HUGE  # bytes of a tensor that is worth it


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
    """An uninitialised tensor."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < LARGE or torch.device(device).type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, nbytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    skip = -np.frombuffer(memory, np.uint8).ctypes.data % HUGE
    memory.madvise(mmap.MADV_HUGEPAGE, skip, nbytes // HUGE * HUGE)
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=skip).view(shape)


def copied(t: torch.Tensor) -> torch.Tensor:
    """A contiguous copy."""
    return empty(tuple(t.shape), t.dtype, t.device).copy_(t)
