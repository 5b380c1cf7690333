"""Scores of a few queries against many rows: what a selection looks at instead of attending. Native where it can, else torch.

Halves are widened on the way, so rows may lie in the form the cache keeps them in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fewer.kernels.native import native

ROW_TYPES = (torch.float32, torch.float16)


def dots(queries: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """queries[i] (n, w), rows[i] (E_i, w) -> queries[i] . rows[i]^T (n, E_i), in the queries' dtype."""
    if native is None or not queries or not all(_served(q, r, queries[0]) for q, r in zip(queries, rows, strict=True)):
        return [q @ r.to(q.dtype).T for q, r in zip(queries, rows)]
    n, w = queries[0].shape
    out = [torch.empty(n, len(r)) for r in rows]
    table = np.array(
        [
            (q.data_ptr(), r.data_ptr(), o.data_ptr(), len(r), r.dtype is torch.float16)
            for q, r, o in zip(queries, rows, out)
        ],
        dtype=np.int64,
    )
    native.dots(table.ctypes.data, len(out), n, w)
    return out


def _served(q: torch.Tensor, rows: torch.Tensor, first: torch.Tensor) -> bool:
    """As the native operation needs it: w a multiple of 8."""
    if not len(q) or q.shape[1] % 8:
        return False
    here = q.is_cpu and rows.is_cpu and q.dtype is torch.float32 and rows.dtype in ROW_TYPES
    return (
        here and q.is_contiguous() and rows.is_contiguous() and q.shape == first.shape and rows.shape[1] == q.shape[1]
    )
