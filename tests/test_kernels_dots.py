"""Scores of queries against rows, and finding entries by position: equal to plain torch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.kernels.dots import dots
from fewer.kv.segment import Meter, pack_heads
from fewer.kv.view import View


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30), width=st.sampled_from([1, 3, 8, 16, 24, 64, 128, 256]), seed=st.integers(0, 10**6),
    sizes=st.lists(st.one_of(st.integers(0, 40), st.integers(500, 1100)), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from([torch.float32, torch.float16, torch.float64]), min_size=4, max_size=4),
)  # fmt: skip
def test_equals_a_product(isa, n, width, sizes, kinds, seed):
    g = torch.Generator().manual_seed(seed)
    q = [torch.randn(n, width, generator=g) for _ in sizes]
    rows = [torch.randn(e, width, generator=g).to(kind) for e, kind in zip(sizes, kinds)]
    for got, a, b in zip(dots(q, rows), q, rows, strict=True):
        torch.testing.assert_close(got, (a.double() @ b.double().T).float(), rtol=1e-5, atol=1e-4)


def test_nothing_asked_is_nothing_said():
    assert dots([], []) == []


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), holes=st.sampled_from([0.0, 0.3]), first=st.integers(0, 5))
def test_a_view_finds_entries_by_their_positions(seed, holes, first):
    """Dense or with holes, cut into segments anywhere, heads ragged."""
    rng, segments, held = np.random.default_rng(seed), [], []
    for _ in range(2):
        at = first + np.flatnonzero(rng.random(int(rng.integers(0, 30))) >= holes)
        held.append(torch.from_numpy(at.astype(np.int32)))
    cuts = [sorted(rng.integers(0, len(p) + 1, 2).tolist()) for p in held]
    for part in range(3):
        ps = [p[([0, *c, len(p)])[part] : ([0, *c, len(p)])[part + 1]] for p, c in zip(held, cuts)]
        ks = [torch.zeros(len(p), 8) for p in ps]
        segments.append(pack_heads(Meter(), ks, ks, ps))
    view = View(segments, 2)
    wanted = torch.from_numpy(np.flatnonzero(rng.random(40) < 0.4).astype(np.int32))
    for h, p in enumerate(held):
        assert view.find(h, wanted).tolist() == [i for i, x in enumerate(p.tolist()) if x in wanted.tolist()]
        for position in (0, 3, 17, 60):
            assert view.below(h, position) == sum(x < position for x in p.tolist())
