"""The best blocks of many rows at once: the native operation finds what plain torch finds, ties and in-flight rows too."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.kernels.ahead import Ahead, Foreseen
from fewer.kernels.native import native
from fewer.kernels.ranking import Behind, Cut, Ranking, Read, count, listed, read_by


def ranking(rng: np.random.Generator, heads: int, size: int, d: int, bounds: bool, half: bool) -> Ranking:
    """Small whole numbers, so that products are exact and many blocks are worth the same."""
    cuts, told_by = [], []
    for _ in range(heads):
        blocks = int(rng.integers(0, 1200 if rng.random() < 0.3 else 12))
        first = int(rng.integers(0, blocks + 1))
        newest = int(rng.integers(first, blocks + 1))
        end = blocks * size + int(rng.integers(0, size))
        cuts.append(Cut(first, newest, int(rng.integers(0, blocks + 2)), newest * size, end))
        rows = torch.from_numpy(rng.integers(-2, 3, (blocks, 2 * d if bounds else d)))
        told_by.append(rows.to(torch.float16 if half else torch.float32))
    return Ranking(told_by, size, cuts, bounds)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), heads=st.integers(1, 3), size=st.integers(1, 5), d=st.sampled_from([3, 8, 24, 64]),
    group=st.integers(1, 12), rows=st.integers(1, 4), bounds=st.booleans(), half=st.booleans(),
)  # fmt: skip
def test_equals_plain_torch(isa, seed, heads, size, d, group, rows, bounds, half):
    rng, reads = np.random.default_rng(seed), list[Read | None]([None])
    q = torch.from_numpy(rng.integers(-2, 3, (rows + 1, heads * group, d))).float()
    for at in range(1, rows + 1):
        one = ranking(rng, heads, size, d, bounds, half)
        ends = np.array([c.end for c in one.cuts])
        flying = int(rng.integers(0, ends.min() + 1)) if rng.random() < 0.5 else 0
        before = torch.from_numpy(np.sort(rng.choice(flying + 3, flying, replace=False)))
        reads.append(Read(at, one, Behind(flying + 3, before, ends - flying)))
    got = read_by(reads, q)
    assert got[0] is None
    want = [r.behind.packed(listed(r.picks, q[r.at])).tolist() for r in reads if r is not None]
    assert [out.tolist() for out in got[1:]] == want
    assert [len(out) for out in got[1:]] == [2 * heads + count(r.picks) for r in reads if r is not None]
    if native is not None and d % 8 == 0:  # two layers at once: the second writes over the first
        shape = (heads * group, d)
        foreseen = [None if r is None else Foreseen([r, r], shape) for r in reads]
        ahead = Ahead(foreseen, [0 if r is None else r.at for r in reads], 2, shape)
        assert ahead.rank_from.tolist() == [0, rows * heads, 2 * rows * heads] and not ahead.picked[:, 0].any()
        assert of_layer(ahead, 1, q, want) == want


def of_layer(ahead: Ahead, layer: int, q: torch.Tensor, like: list[list[int]]) -> list[list[int]]:
    """What the native operation finds for the last sequences, as many places as in `like`."""
    first, last = ahead.rank_from[layer : layer + 2].tolist()
    native.rank(ahead.heads[first:].ctypes.data, last - first, q.data_ptr())
    found = zip(like, ahead.picked[layer, -len(like) :].tolist(), strict=True)
    return [np.ctypeslib.as_array((ctypes.c_int64 * len(out)).from_address(at)).tolist() for out, at in found]


@pytest.mark.skipif(native is None, reason="fewer._native is not built or switched off")
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6), heads=st.integers(1, 3), size=st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=3),
)  # fmt: skip
def test_what_was_foreseen_grows(seed, heads, size, steps):
    """Two layers that get other numbers of entries, step after step: the same as if found anew."""
    rng, none = np.random.default_rng(seed), torch.zeros(0, dtype=torch.int64)
    q = torch.from_numpy(rng.integers(-2, 3, (3, heads, 8))).float()
    one, shape = ranking(rng, heads, size, 8, True, False), (heads, 8)
    held, grown = np.array([c.end for c in one.cuts]), np.zeros(2, dtype=np.int64)
    foreseen = Foreseen([Read(2, one, Behind(0, none, held))] * 2, shape, spare=int(np.sum(steps, 0).max()))
    for step in steps:
        foreseen.grow(np.array(step))
        grown += step
        ahead = Ahead([None, foreseen], [0, 2], 2, shape)
        for layer, n in enumerate(grown.tolist()):
            longer = Ranking(one.summaries, size, [c._replace(end=c.end + n) for c in one.cuts])
            want = [Behind(0, none, held + n).packed(listed(longer, q[2])).tolist()]
            assert of_layer(ahead, layer, q, want) == want


@pytest.mark.parametrize(
    "cut", [(0, 7, 1, 14, 14), (2, 1, 0, 2, 2), (0, 6, -1, 12, 13), (0, 6, 1, 8, 13), (0, 6, 1, 12, 14)]
)
def test_what_does_not_fit_is_refused(cut):
    """More blocks than there are, no order, less than no room, entries twice, entries that are not there."""
    read = Read(0, Ranking([torch.zeros(6, 8)], 2, [Cut(*cut)], False), Behind(0, torch.arange(0), np.array([13])))
    with pytest.raises(IndexError, match="6 blocks of 2 among 13"):
        Foreseen([read], (1, 8))


def test_takes_the_greatest_and_of_equals_the_earlier():
    worth = torch.tensor([1.0, 3.0, float("nan"), 3.0, 3.0, 2.0])
    rows, q = torch.zeros(6, 8), torch.eye(8)[:1, None]
    rows[:, 0] = worth
    for room, blocks in ((1, [1]), (2, [1, 3]), (4, [1, 3, 4, 5]), (5, [0, 1, 3, 4, 5])):
        one = Ranking([rows], 2, [Cut(0, 6, room, 12, 13)], bounds=False)
        want = [2 * b + i for b in blocks for i in range(2)] + [12]
        assert listed(one, q[0])[0].tolist() == want
        (out,) = read_by([Read(0, one, Behind(0, torch.zeros(0, dtype=torch.int64), np.array([13])))], q)
        assert out is not None
        assert out.tolist() == [len(want) + 1, *want, 13]
