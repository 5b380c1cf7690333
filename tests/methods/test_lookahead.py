"""Lookahead: the trie against counting by hand, its drafts against a naive ranking, forwards saved without a change."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.errors import BadKnob
from fewer.methods.propose.trie import NgramTrie
from fewer.parts.trie import KNOWN, Node, Trie
from fewer.plan import plan
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.types import EMPTY_TREE, Told, Tree

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)
LOOP = [3, 1, 4, 1, 5, 9, 2, 6] * 4


def trie(text: list[int], depth: int = 6, capacity: int = 1 << 20) -> Trie:
    t = Trie(depth, capacity)
    t.extend(text)
    return t


def grams(text: list[int], longest: int) -> Counter[tuple[int, ...]]:
    """Every n-gram of at most `longest` tokens, counted one by one."""
    return Counter(tuple(text[i : i + n]) for n in range(1, longest + 1) for i in range(len(text) - n + 1))


def counted(t: Trie, text: list[int]) -> Counter[tuple[int, ...]]:
    """The same read out of a trie: what came once is read off the text."""
    out: Counter[tuple[int, ...]] = Counter()

    def visit(node: Node, gram: tuple[int, ...]) -> None:
        for token, child in node.more.items():
            out[(*gram, token)] = child.count
            visit(child, (*gram, token))
        for token, at in node.once.items():
            for end in range(at, min(len(text), at + t.depth - len(gram) - 1) + 1):
                out[(*gram, token, *text[at:end])] = 1

    visit(t.root, ())
    return Counter({g: n for g, n in out.items() if len(g) <= t.depth})


def entries(node: Node) -> list[int]:
    """All entries below a node, one item each."""
    return [*node.once, *node.more, *(e for child in node.more.values() for e in entries(child))]


def paths(tree: Tree) -> list[tuple[int, ...]]:
    """Each node of a draft as its path from the certain token."""
    out: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens, tree.parent):
        out.append((*(out[parent] if parent >= 0 else ()), int(token)))
    return out


def test_branches_that_share_a_prefix_share_its_rows():
    """After 1 came 2 3 and 2 4 and 7: one tree 2-(4, 3) and 7, the more frequent branch first."""
    text = [1, 2, 3, 0, 1, 2, 4, 0, 1, 7, 0, 1]
    tree = trie(text).branches(text, shortest=1, longest=1, nodes=4, levels=2)
    assert paths(tree) == [(2,), (7,), (2, 4), (2, 3)]
    assert tree.parent.tolist() == [-1, -1, 0, 0]


@given(TEXTS)
def test_counts_are_the_texts(text):
    assert counted(trie(text), text) == grams(text, 6)


@given(TEXTS, st.lists(st.integers(1, 9), max_size=6))
def test_grown_piece_by_piece_is_the_same(text, pieces):
    t, at = Trie(6, 1 << 20), 0
    for n in [*pieces, len(text)]:
        at += n
        t.extend(text[:at])
    whole = trie(text)
    assert counted(t, text) == counted(whole, text) and t.size == whole.size
    assert [n.depth for n in t.open] == [n.depth for n in whole.open]


@given(TEXTS)
def test_open_nodes_are_the_suffixes_seen_before(text):
    seen = grams(text[:-1], 5)
    assert [n.depth for n in trie(text).open] == [
        n for n in range(5, 0, -1) if n <= len(text) and seen[tuple(text[-n:])]
    ]


@given(TEXTS, st.integers(1, 3), st.integers(1, 8))
def test_drafts_the_most_probable_paths(text, suffix, nodes):
    """P(path) = rates * count(suffix + path) / (count(suffix) - 1): the draft holds the `nodes` best, however ties are broken."""
    levels, seen = 3, grams(text, 6)
    tail = tuple(text[-suffix:])
    p = {
        g[suffix:]: math.prod(KNOWN[suffix - 1 : len(g) - 1]) * n / (seen[tail] - 1)
        for g, n in seen.items()
        if suffix < len(g) <= suffix + levels and g[:suffix] == tail
    }
    tree = trie(text).branches(text, suffix, suffix, nodes, levels) if len(text) >= suffix else EMPTY_TREE
    draft = paths(tree)
    assert len(set(draft)) == len(draft)
    assert sorted((p[path] for path in draft), reverse=True) == pytest.approx(sorted(p.values(), reverse=True)[:nodes])
    if draft:
        assert tree.chance.tolist() == pytest.approx([p[path] for path in draft])


@given(TEXTS, st.integers(1, 12))
def test_chances_of_siblings_exclude_each_other(text, nodes):
    """They are shares of their parent's chance, shorter suffixes taking what the longer ones leave."""
    tree = trie(text).branches(text, 1, 4, nodes, 3)
    for parent in range(-1, len(tree)):
        children = tree.chance[tree.parent == parent] if len(tree) else np.zeros(0)
        assert children.sum() <= (1.0 if parent < 0 else tree.chance[parent]) + 1e-12


def test_rates_follow_the_models_own_text():
    """Tokens of the prompt teach nothing; those of the answer do: after `1 2` it never goes on as known, after `1` always."""
    text = [1, 2, 3] * 9
    t = trie(text)
    assert [t.rates[n] for n in range(5)] == pytest.approx(KNOWN[:5])
    for new in range(100, 130):
        text += [1, 2, new]
        t.extend(text, 3)
    assert t.rates[0] > KNOWN[0] and t.rates[1] < KNOWN[1] / 2 and t.rates[2] == KNOWN[2]


@given(TEXTS, st.integers(1, 8), st.integers(1, 4))
def test_a_draft_fits_its_bounds(text, nodes, limit):
    method = NgramTrie(budget=nodes, shortest=1)
    told = Told(len(text))
    state = method.start(told)
    method.learn(text, text, told, state)
    tree = method.guess(text, limit, told, state)
    assert len(tree) <= nodes and all(p < i for i, p in enumerate(tree.parent))
    assert not len(tree) or tree.depth().max() < limit


def test_backs_off_to_shorter_suffixes():
    """1 2 was followed by 3 alone; 2 alone also by 5: the shorter suffix fills what the longer one leaves."""
    text = [1, 2, 3, 9, 0, 2, 5, 8, 1, 2]
    assert paths(trie(text).branches(text, 2, 2, 4, 2)) == [(3,), (3, 9)]
    assert paths(trie(text).branches(text, 1, 2, 4, 2)) == [(3,), (3, 9), (5,), (5, 8)]


@given(st.lists(st.integers(0, 5), min_size=30, max_size=120))
def test_forgets_at_capacity(text):
    """Never more entries than the capacity; what is left was really said; growing piece by piece forgets the same."""
    t = Trie(4, 40)
    for end in range(1, len(text) + 1):
        t.extend(text[:end])
        assert t.size <= 40
        assert t.size == sum(1 for g in entries(t.root))
    assert set(counted(t, text)) <= set(grams(text, 4))
    assert counted(t, text) == counted(trie(text, 4, 40), text)


def test_forgets_what_came_once_and_long_ago():
    """The old unrepeated text goes, the new stays and is drafted from."""
    text = [*range(100), 7, 8, 9, 1000, 1001, 1002, 7, 8]
    t = trie(text, 8, 64)
    assert 50 not in t.root.once and 1001 in t.root.once
    assert paths(t.branches(text, 2, 2, 2, 2)) == [(9,), (9, 1000)]


def test_text_is_the_same_in_fewer_forwards():
    """Greedy on a prompt that repeats itself, and sampled with a seed."""
    model = tiny_model(layers=1)
    for options, share in (({}, 0.7), ({"temperature": 1.0, "seed": 5}, 1.0)):
        plain, cost = generate(model, LOOP, max_tokens=24, **options)
        text, ledger = generate(model, LOOP, use=["lookahead"], max_tokens=24, **options)
        assert text == plain
        assert ledger.forwards <= share * cost.forwards
        assert ledger.accepted_tokens == cost.forwards - ledger.forwards


def test_impossible_lengths_are_refused():
    with pytest.raises(BadKnob, match="shortest=9 is more than longest=8"):
        plan(["lookahead:shortest=9"])


def test_nothing_known_costs_nothing():
    """The worst case: no match, so no drafts, and exactly the plain forwards and rows."""
    model, prompt = tiny_model(), [1, 2, 3]
    plain, cost = generate(model, prompt, max_tokens=4)
    text, ledger = generate(model, prompt, use=["lookahead:shortest=4"], max_tokens=4)
    assert text == plain and (ledger.forwards, ledger.rows) == (cost.forwards, cost.rows)
    assert ledger.drafted_tokens == 0
