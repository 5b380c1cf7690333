"""FlashAttention's claim, on the native attention: keys taken tile by tile give the naive softmax, whatever the tiles; and
the log-sum-exp that comes out merges parts that were attended apart. (Dao et al., 2022, algorithm 1.)"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.kernels.attention import Step, attend
from fewer.kernels.native import native

pytestmark = pytest.mark.skipif(native is None, reason="fewer._native is not built or switched off")
N, HEADS, GROUP, D = 193, 2, 3, 32
SCALE = D**-0.5


def inputs():
    g = torch.Generator().manual_seed(4)
    q = torch.randn(5, HEADS * GROUP, D, generator=g) * 3
    k, v = (torch.randn(HEADS, N, D, generator=g) for _ in range(2))
    return q, k, v


def naive(q, k, v):
    """softmax(q k^T) v and log sum exp(q k^T), the whole matrix of scores at once, in float64."""
    q, k, v = q.double(), k.double().repeat_interleave(GROUP, 0), v.double().repeat_interleave(GROUP, 0)
    s = torch.einsum("mhd,hnd->mhn", q, k) * SCALE
    return torch.einsum("mhn,hnd->mhd", torch.softmax(s, -1), v), torch.logsumexp(s, -1)


def tiled(q, k, v, sizes):
    """The native op on keys that lie in tiles of these sizes, all of them committed."""
    rows, alive, at = [], [], 0
    for size in [*sizes, 0]:
        parts = [t[:, at : at + size].contiguous() for t in (k, v)]
        pos = torch.arange(at, at + max(1, size), dtype=torch.int32).repeat(HEADS)
        alive += [*parts, pos]
        starts = [h * size for h in range(HEADS)]
        rows.append([parts[0].data_ptr(), parts[1].data_ptr(), pos.data_ptr(), 0, *starts, *[size] * HEADS])
        at += size
    table = np.array(rows, dtype=np.int64)
    step = Step(
        np.array([0, len(q)]),
        np.full(len(q), N, dtype=np.int32),
        np.array([[table.ctypes.data]]),
        np.array([[len(table)]]),
        [torch.ones(len(q), 0, dtype=torch.bool)],
        np.array([0]),
    )
    o, lse = torch.empty_like(q), torch.empty(q.shape[:2])
    attend(q, o, step, 0, HEADS, SCALE, lse=lse)
    return o, lse


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 31, 32, 33, 64, 100, N])
def test_tiles_of_every_size_equal_the_naive_softmax(size):
    q, k, v = inputs()
    sizes = [min(size, N - at) for at in range(0, N, size)]
    o, lse = tiled(q, k, v, sizes)
    want, want_lse = naive(q, k, v)
    torch.testing.assert_close(lse.double(), want_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(o.double(), want, rtol=0, atol=2e-3)  # probabilities are summed as integers
    whole, whole_lse = tiled(q, k, v, [N])
    assert torch.equal(o, whole) and torch.equal(lse, whole_lse)  # where tiles end leaves no trace at all


@pytest.mark.parametrize("cut", [1, 50, 128, N - 1])
def test_parts_merge_by_their_log_sum_exp(cut):
    q, k, v = inputs()
    (a, of_a), (b, of_b) = tiled(q, k[:, :cut], v[:, :cut], [cut]), tiled(q, k[:, cut:], v[:, cut:], [N - cut])
    both = torch.logaddexp(of_a, of_b)
    merged = a * (of_a - both).exp()[..., None] + b * (of_b - both).exp()[..., None]
    want, want_lse = naive(q, k, v)
    torch.testing.assert_close(both.double(), want_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged.double(), want, rtol=0, atol=2e-3)
