"""Draft trees, learned rates, the quick top-k, the adjacency and the tri-gram matrix: each against the plain way."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.kernels.topk import topk
from fewer.parts.rates import Rates
from fewer.parts.trees import Sapling, best, stood
from fewer.parts.trigrams import FULL, Trigrams
from fewer.types import EMPTY_TREE, Tree

CHAINS = st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.floats(0.1, 0.9)), max_size=5)


def built(chains):
    sapling = Sapling()
    for tokens, rate in chains:
        sapling.add_chain(tokens, [rate ** (i + 1) for i in range(len(tokens))])
    return sapling.tree()


def by_path(tree: Tree) -> dict[tuple[int, ...], float]:
    out: dict[tuple[int, ...], float] = {}
    paths: list[tuple[int, ...]] = []
    for i, (token, parent) in enumerate(zip(tree.tokens.tolist(), tree.parent.tolist())):
        assert parent < i
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
        assert paths[-1] not in out
        out[paths[-1]] = float(tree.chance[i])
    return out


@given(CHAINS)
def test_chains_share_their_prefixes(chains):
    want: dict[tuple[int, ...], float] = {}
    for tokens, rate in chains:
        for n in range(1, len(tokens) + 1):
            want[tuple(tokens[:n])] = max(rate**n, want.get(tuple(tokens[:n]), 0.0))
    assert by_path(built(chains)) == pytest.approx(want)


@given(CHAINS, CHAINS)
def test_two_trees_become_one(a, b):
    sapling = Sapling()
    sapling.add_tree(built(a))
    sapling.add_tree(built(b))
    assert by_path(sapling.tree()) == by_path(built([*a, *b]))


@given(CHAINS, st.integers(0, 6))
def test_the_best_nodes_are_a_tree(chains, nodes):
    tree = built(chains)
    kept = by_path(best(tree, nodes)) if nodes else {}
    everything = by_path(tree)
    assert sorted(kept.values()) == sorted(everything.values())[max(0, len(tree) - nodes) :]
    assert all(path[:-1] in kept for path in kept if len(path) > 1)


def test_a_tree_without_chances_joins_as_certain():
    sapling = Sapling()
    sapling.add_tree(Tree(np.array([5, 6]), np.array([-1, 0])))
    assert sapling.tree().chance.tolist() == [1, 1]
    assert Sapling().tree() is EMPTY_TREE


@given(CHAINS, st.lists(st.integers(0, 2), max_size=5))
def test_what_stood_is_the_path_of_the_text(chains, new):
    tree, paths = built(chains), list(by_path(built(chains)))
    n = next((i for i in range(len(new)) if tuple(new[: i + 1]) not in paths), len(new))
    assert [paths[i] for i in stood(tree, new)] == [tuple(new[: i + 1]) for i in range(n)]


def test_rates_are_smoothed_counts_that_fade():
    rates = Rates([0.5, 0.25], weight=4, fade=0.5)
    assert (rates[0], rates[1], rates[9]) == (0.5, 0.25, 0.25)
    rates.note(1, True)
    rates.note(7, False)
    assert rates[0] == 0.5 and rates[1] == pytest.approx((0.5 * 1 + 0 + 4 * 0.25) / (0.5 * 1 + 1 + 4))
    assert rates.chain(0, 3) == pytest.approx([0.5, 0.5 * rates[1], 0.5 * rates[1] ** 2])


@pytest.mark.parametrize("width", [3, 40, 64 * 8, 64 * 40, 64 * 40 + 17, 5000])
def test_topk_is_torchs(width):
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    for k in (1, 3):
        values, places = topk(x, k)
        want = torch.topk(x, k)
        assert torch.equal(values, want.values) and torch.equal(places, want.indices)


def test_topk_finds_the_last_ones():
    x = torch.zeros(1, 64 * 40 + 3)
    x[0, -1], x[0, -3], x[0, 5] = 3, 2, 1
    assert topk(x, 3)[1].tolist() == [[64 * 40 + 2, 64 * 40, 5]]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 60))
def test_trigrams_are_counted(text, split):
    t = Trigrams(1 << 20)
    t.read(text[:split])
    t.read(text, split)
    for pair in {(text[i], text[i + 1]) for i in range(len(text) - 1)}:
        want = Counter(text[i + 2] for i in range(len(text) - 2) if (text[i], text[i + 1]) == pair)
        assert t.after(pair) == dict(want)
    assert t.after((9, 9)) == {}


def test_trigrams_favour_what_was_said_lately():
    t = Trigrams(1 << 20)
    for last in [5] * 60 + [6] * (FULL + 1):
        t.read([1, 2, last])
    assert t.after((1, 2)) == {5: 30, 6: (FULL + 1) // 2} and t.size == 2


@given(st.lists(st.integers(0, 5), min_size=10, max_size=200), st.integers(1, 20))
def test_trigrams_forget_the_pairs_longest_unsaid(text, capacity):
    t = Trigrams(capacity)
    for end in range(len(text) + 1):
        t.read(text[:end], end - 1)
        pairs = {(text[i], text[i + 1]) for i in range(max(0, end - 1))}
        assert t.size == sum(len(t.after(p)) for p in pairs) <= capacity
    assert text[-1] in t.after((text[-3], text[-2]))
