"""Estimated acceptance: the formula against a naive rewrite, and that it finds out what is really true."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.parts.acceptance import ALL, BANDS, CERTAIN, FADE, FIRST, NOTHING, PART, WEIGHT, Acceptance, Reach
from fewer.types import Tree


@st.composite
def trees(draw, chances: bool) -> Tree:
    n = draw(st.integers(1, 8))
    parent = [draw(st.integers(-1, i - 1)) for i in range(n)]
    chance = None
    if chances:
        chance = []
        for p in parent:
            chance.append(draw(st.sampled_from([0.0, 0.03, 0.4, 0.7, 0.97, 1.0])) * (chance[p] if p >= 0 else 1.0))
    return Tree(np.arange(n), np.array(parent), chance=None if chance is None else np.array(chance))


@st.composite
def histories(draw) -> list[tuple[Tree, list[int]]]:
    """Drafts, and what stood of each."""
    out, chances = [], draw(st.booleans())
    for _ in range(draw(st.integers(1, 8))):
        tree, path, node = draw(trees(chances)), [], -1
        while len(below := np.flatnonzero(tree.parent == node)) and draw(st.booleans()):
            node = int(draw(st.sampled_from(below.tolist())))
            path.append(node)
        out.append((tree, path))
    return out


class Naive:
    """The header's formula with dictionaries: kind -> [stood, expected]."""

    def __init__(self) -> None:
        self.counts = defaultdict(lambda: [0.0, 0.0])
        self.went = NOTHING

    def corrected(self, kind, r):
        stood, expected = self.counts[kind]
        return min(CERTAIN, r * (stood + WEIGHT) / (expected + WEIGHT))

    def judge(self, tree):
        """A node -> (r, kind, corrected r, kind and how the last draft went, P)."""
        depth, out = tree.depth(), {}
        for i, parent in enumerate(tree.parent.tolist()):
            if tree.chance is not None:
                above = tree.chance[parent] if parent >= 0 else 1.0
                r = tree.chance[i] / above if above else 0.0
                kind = ("chance", sum(r >= b for b in BANDS))
            else:
                rank = int((tree.parent[:i] == parent).sum())
                r, kind = FIRST / 2**rank, (int(depth[i]), rank)
                for d in range(depth[i]):
                    r = self.corrected((d, rank), r)
            p = self.corrected(kind, r)
            special = (*kind, self.went)
            whole = self.corrected(special, p) * (out[parent][4] if parent >= 0 else 1.0)
            out[i] = r, kind, p, special, whole
        return out

    def hear(self, tree, path, judged):
        for i, parent in enumerate(tree.parent.tolist()):
            if parent == -1 or parent in path:
                r, kind, p, special, _ = judged[i]
                for k, believed in ((kind, r), (special, p)):
                    count = self.counts[k]
                    count[0] += i in path
                    count[1] += believed
                    if count[1] > FADE:
                        self.counts[k] = [count[0] / 2, count[1] / 2]
        deep = int(tree.depth().max()) + 1
        self.went = NOTHING if not path else ALL if len(path) == deep else PART


@given(histories())
def test_the_formula(history):
    own, naive = Acceptance(), Naive()
    for tree, path in history:
        judged = naive.judge(tree)
        got = own.chances(tree)
        assert got == pytest.approx([judged[i][4] for i in range(len(tree))], abs=1e-12)
        above = np.where(tree.parent < 0, 1.0, got[tree.parent])
        assert (got <= above + 1e-12).all()
        own.heard(tree, np.arange(len(tree)), path)
        naive.hear(tree, path, judged)


def test_what_was_cut_off_is_not_counted():
    """Only the verified nodes of a draft are evidence; `keep` says which they were."""
    tree = Tree(np.arange(3), np.array([-1, -1, 0]), chance=np.array([0.9, 0.3, 0.8]))
    whole, cut = Acceptance(), Acceptance()
    for a, keep in ((whole, [0, 1, 2]), (cut, [1])):
        for _ in range(10):
            a.chances(tree)
            a.heard(tree.only(np.array(keep)), np.array(keep), [])
    assert whole.chances(tree)[0] < 0.2 < 0.85 < cut.chances(tree)[0]
    assert cut.chances(tree)[1] == whole.chances(tree)[1] < 0.1


def test_soft_nodes_never_stand():
    a = Acceptance()
    tree = Tree(np.array([4, -1, 5]), np.array([-1, -1, 0]))
    assert a.chances(tree)[1] == 0.0
    a.heard(tree, np.arange(3), [0, 2])
    assert a.went == ALL


@pytest.mark.parametrize("claimed", [0.3, 0.6, 0.96])
def test_finds_the_truth(claimed):
    """A drafter whose tokens stand 7 times of 10, whatever it says."""
    a, rng = Acceptance(), np.random.default_rng(0)
    tree = Tree(np.arange(1), np.array([-1]), chance=np.array([claimed]))
    for _ in range(400):
        a.chances(tree)
        a.heard(tree, np.arange(1), [0] if rng.random() < 0.7 else [])
    assert a.chances(tree)[0] == pytest.approx(0.7, abs=0.15)


def test_runs_are_noticed():
    """Drafts that come right ten times and wrong ten times, in turn: the last one says much about the next."""
    a = Acceptance()
    tree, seen = Tree(np.arange(1), np.array([-1])), {True: [], False: []}
    for i in range(400):
        p = float(a.chances(tree)[0])
        if i > 200:
            seen[(i - 1) // 10 % 2 == 0].append(p)
        a.heard(tree, np.arange(1), [0] if i // 10 % 2 == 0 else [])
    assert np.mean(seen[True]) > 0.75 and np.mean(seen[False]) < 0.35


def test_reach_counts_levels():
    r = Reach()
    assert r.levels(2) == pytest.approx([FIRST, FIRST**2])
    for _ in range(100):
        r.heard(levels=4, stood=2)
    first, second, third, *rest = r.levels(6)
    assert first > 0.9 and second > 0.85 and third < 0.1 and all(p < third for p in rest)
