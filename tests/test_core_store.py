"""The KV store against a model of lists: whatever is appended, forked, cut, kept or packed, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.kv.segment import Encoded
from fewer.kv.store import Store
from fewer.kv.view import View
from fewer.testing.held import real_bytes
from fewer.testing.tiny import tiny_spec
from fewer.types import Tree, chain, chain_then_tree

SPEC = tiny_spec(layers=2)
L, H, D = SPEC.n_layers, SPEC.n_kv_heads, SPEC.head_dim
ENTRY = 2 * D * 8 + 4  # bytes: a float64 key and value, an int32 position


def key(layer: int, head: int, token: int) -> torch.Tensor:
    """A key that tells where it came from."""
    return torch.full((D,), 1000.0 * layer + 100.0 * head + token, dtype=torch.float64)


def append(store: Store, seq: int, rows, accepted, absent=()) -> None:
    """One step as the decoder does it: begin, stage at every layer, commit. absent: (layer, local rows that attend)."""
    s = store.begin(seq, len(rows))
    for layer in range(L):
        local = dict(absent).get(layer)
        at = np.arange(len(rows)) if local is None else np.asarray(local, dtype=np.int64)
        k = (
            torch.stack([torch.stack([key(layer, h, int(rows.tokens[i])) for h in range(H)]) for i in at])
            if len(at)
            else None
        )
        if k is None:
            s.staged[layer] = at
        else:
            pos = torch.from_numpy(rows.pos[at].astype(np.int32))
            store.stage(s, layer, None if local is None else at, pos, k, -k)
    store.commit(seq, rows, np.asarray(accepted, dtype=np.int64))


def feed(store: Store, seq: int, tokens) -> None:
    append(store, seq, chain(tokens, store.next_pos(seq)), range(len(tokens)))


def held(store: Store, seq: int, layer: int) -> list[list[tuple[int, int]]]:
    """[(token, position), ...] a head; values must be minus the keys."""
    view, out = store.view(seq, layer), []
    for h in range(H):
        if not view.segments:
            out.append([])
            continue
        k, v = view.keys(h), view.values(h)
        assert torch.equal(k, -v)
        out.append([(int(x) - 1000 * layer - 100 * h, int(p)) for x, p in zip(k[:, 0], view.positions(h))])
    return out


def test_rows_become_entries_and_rejected_ones_vanish():
    store = Store(SPEC, torch.float64)
    seq = store.new()
    feed(store, seq, [7, 8])
    tree = Tree(np.array([1, 2, 3, 4]), np.array([-1, -1, 1, 2]))
    append(store, seq, chain_then_tree([9], tree, 2), [0, 2, 3])
    want = [(7, 0), (8, 1), (9, 2), (2, 3), (3, 4)]
    assert [held(store, seq, layer) for layer in range(L)] == [[want] * H] * L
    assert store.next_pos(seq) == 5


def test_nothing_accepted_leaves_everything_as_it_was():
    store = Store(SPEC, torch.float64)
    seq = store.new()
    feed(store, seq, [7, 8])
    append(store, seq, chain([1, 2, 3], 2), [])
    assert held(store, seq, 0) == [[(7, 0), (8, 1)]] * H and store.next_pos(seq) == 2
    feed(store, seq, [5])
    assert held(store, seq, 1)[0] == [(7, 0), (8, 1), (5, 2)]


def test_a_row_that_does_not_attend_leaves_no_entry():
    store = Store(SPEC, torch.float64)
    seq = store.new()
    append(store, seq, chain([1, 2, 3], 0), [0, 1, 2], absent=[(1, [0, 2])])
    append(store, seq, chain([4], 3), [0], absent=[(1, [])])
    append(store, seq, chain([5, 6], 4), [0], absent=[(1, [1])])
    assert held(store, seq, 0)[0] == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert held(store, seq, 1)[0] == [(1, 0), (3, 2)]


def test_eviction_is_ragged_exact_and_frees():
    store = Store(SPEC, torch.float64)
    seq = store.new()
    feed(store, seq, range(40))
    before = store.bytes()
    for layer in range(L):
        store.keep(seq, layer, [torch.tensor([0, 5, 39]), torch.tensor([7])])
    assert held(store, seq, 1) == [[(0, 0), (5, 5), (39, 39)], [(7, 7)]]
    assert store.entries(seq, 0).tolist() == [3, 1]
    assert store.bytes() == 4 * L * ENTRY < before
    assert real_bytes(store, seq) == store.bytes()
    feed(store, seq, [50])
    assert held(store, seq, 0)[1] == [(7, 7), (50, 40)]


def test_a_fork_shares_memory_and_nothing_else():
    store = Store(SPEC, torch.float64)
    parent = store.new()
    feed(store, parent, range(20))
    alone = store.bytes()
    child = store.fork(parent)
    assert store.bytes() == alone == store.bytes([parent, child])
    feed(store, child, [30])
    feed(store, parent, [40])
    store.keep(child, 0, [torch.tensor([3])] * H)
    assert held(store, parent, 0)[0] == [(i, i) for i in range(20)] + [(40, 20)]
    assert held(store, child, 0)[0] == [(3, 3)]
    assert held(store, child, 1)[0][-1] == (30, 20)
    store.drop(parent)
    assert held(store, child, 1)[0][:20] == [(i, i) for i in range(20)]
    store.drop(child)
    assert store.bytes() == 0


def test_cutting_back():
    store = Store(SPEC, torch.float64)
    seq = store.new()
    feed(store, seq, range(10))
    store.keep(seq, 0, [torch.tensor([1, 4, 9]), torch.tensor([2, 8])])
    twin = store.fork(seq)
    store.truncate(seq, 5)
    assert held(store, seq, 0) == [[(1, 1), (4, 4)], [(2, 2)]]
    assert held(store, seq, 1)[0] == [(i, i) for i in range(5)] and store.next_pos(seq) == 5
    assert held(store, twin, 0)[0] == [(1, 1), (4, 4), (9, 9)]
    store.truncate(seq, 0)
    assert held(store, seq, 1) == [[]] * H
    store.truncate(twin, 99)
    assert store.next_pos(twin) == 10


def test_cutting_back_inside_the_tail_makes_no_segments():
    """A draft that is rolled back a hundred times leaves one prompt and one tail, and the entries of the last text."""
    store = Store(SPEC, torch.float64)
    seq = store.new()
    feed(store, seq, range(10))
    full = store.bytes()
    for i in range(100):
        feed(store, seq, [100 + i, 200 + i, 300 + i])
        assert held(store, seq, 0)[0][-1] == (300 + i, 12)
        store.truncate(seq, 10 + i % 2)
        assert store.entries(seq, 1).tolist() == [10 + i % 2] * H
        store.truncate(seq, 10)
    assert held(store, seq, 1)[0] == [(i, i) for i in range(10)]
    assert all(len(layer) <= 1 for layer in store.sequence(seq).segments) and store.bytes() <= 2 * full
    store.truncate(seq, 4)
    assert held(store, seq, 0)[0] == [(i, i) for i in range(4)]


def pack(view: View) -> tuple[Encoded, torch.Tensor, np.ndarray]:
    heads = range(view.n_heads)
    k, v = torch.cat([view.keys(h) for h in heads]).half(), torch.cat([view.values(h) for h in heads]).half()
    return (
        Encoded(lambda: (k.double(), v.double()), k.nbytes + v.nbytes),
        torch.cat([view.positions(h) for h in heads]),
        view.lens(),
    )


def test_packing_takes_raw_entries_and_leaves_packed_ones():
    store = Store(SPEC, torch.float64)
    seq = store.new()
    feed(store, seq, range(8))
    for layer in range(L):
        store.encode(seq, layer, pack)
    assert store.raw_entries(seq, 0) == 0 and store.entries(seq, 0).tolist() == [8] * H
    assert store.bytes() == L * H * 8 * (2 * D * 2 + 4) == real_bytes(store, seq)
    feed(store, seq, [20, 21])
    assert store.raw_entries(seq, 0) == 2
    store.encode(seq, 0, pack)
    assert held(store, seq, 0)[1] == [(i, i) for i in range(8)] + [(20, 8), (21, 9)]
    store.truncate(seq, 4)
    assert held(store, seq, 0)[1] == [(i, i) for i in range(4)]


OPS = st.lists(
    st.tuples(
        st.sampled_from(["feed", "draft", "keep", "fork", "truncate", "drop"]), st.integers(0, 3), st.integers(0, 2**16)
    ),
    max_size=25,
)


@given(OPS)
@settings(max_examples=60, deadline=None)
def test_any_history_equals_lists(ops):
    """Random histories over several sequences: entries as in plain lists, bytes as in the tensors behind them."""
    store, model = Store(SPEC, torch.float64), {}
    model[store.new()] = ([[[] for _ in range(H)] for _ in range(L)], 0)
    for op, which, x in ops:
        if not model:
            model[store.new()] = ([[[] for _ in range(H)] for _ in range(L)], 0)
        seq = sorted(model)[which % len(model)]
        lists, n = model[seq]
        rng = np.random.default_rng(x)
        if op == "feed":
            tokens = rng.integers(0, 90, 1 + x % 40).tolist()
            feed(store, seq, tokens)
            for layer in lists:
                for head in layer:
                    head += [(t, n + i) for i, t in enumerate(tokens)]
            model[seq] = (lists, n + len(tokens))
        elif op == "draft":
            a, b = rng.integers(0, 90, 2).tolist()
            append(store, seq, chain_then_tree([1], Tree(np.array([a, b]), np.array([-1, -1])), n), [0, 1 + x % 2])
            for layer in lists:
                for head in layer:
                    head += [(1, n), ((a, b)[x % 2], n + 1)]
            model[seq] = (lists, n + 2)
        elif op == "keep":
            layer = x % L
            idx = [np.flatnonzero(rng.integers(0, 2, len(head))) for head in lists[layer]]
            if lists[layer][0]:
                store.keep(seq, layer, [torch.from_numpy(i) for i in idx])
                lists[layer] = [[head[i] for i in at] for head, at in zip(lists[layer], idx)]
        elif op == "fork":
            model[store.fork(seq)] = ([[list(h) for h in layer] for layer in lists], n)
        elif op == "truncate":
            cut = x % (n + 1)
            store.truncate(seq, cut)
            model[seq] = ([[[e for e in h if e[1] < cut] for h in layer] for layer in lists], cut)
        else:
            store.drop(seq)
            del model[seq]
        for seq, (lists, n) in model.items():
            assert store.next_pos(seq) == n
            assert [held(store, seq, layer) for layer in range(L)] == lists
            assert store.entries(seq, 0).tolist() == [len(h) for h in lists[0]]
            assert real_bytes(store, seq) == store.bytes([seq])
        assert store.bytes() == store.bytes(list(model))
    for seq in model:
        store.drop(seq)
    assert store.bytes() == 0


def test_slack_stays_small():
    """One token at a time: never more than an eighth of what is held, and 32 rows, beyond the entries themselves."""
    store = Store(SPEC, torch.float64)
    seq = store.new()
    for i in range(600):
        feed(store, seq, [i % 90])
        entries = L * H * (i + 1)
        assert store.bytes() <= (entries * 1.125 + 32 * L * H) * ENTRY


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_entries_are_kept_in_the_stores_type(dtype):
    store = Store(SPEC, dtype)
    seq = store.new()
    feed(store, seq, [1, 2])
    assert store.view(seq, 0).keys(0).dtype == dtype
    assert store.bytes() == 32 * L * H * (2 * D * dtype.itemsize + 4)
