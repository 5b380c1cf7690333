"""Estimated acceptance: the formula against a naive rewrite, and that it finds out what is really true."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.parts.chances import ALL, BANDS, CERTAIN, FADE, FIRST, NOTHING, PART, WEIGHT, Acceptance, Reach
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
    """Drafts, and how the text went on after each."""
    out, chances = [], draw(st.booleans())
    for _ in range(draw(st.integers(1, 8))):
        tree, new, node = draw(trees(chances)), [], -1
        while len(below := np.flatnonzero(tree.parent == node)) and draw(st.booleans()):
            node = int(draw(st.sampled_from(below.tolist())))
            new.append(int(tree.tokens[node]))
        out.append((tree, new if new and draw(st.booleans()) else [*new, 99]))
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

    def hear(self, tree, new, judged):
        depth, path = tree.depth(), []
        while len(path) < len(new):
            tip = path[-1] if path else -1
            right = [i for i in range(len(tree)) if tree.parent[i] == tip and tree.tokens[i] == new[len(path)]]
            if not right:
                break
            path.append(right[0])
        for i, parent in enumerate(tree.parent.tolist()):
            if (parent == -1 or parent in path) and depth[i] < len(new):
                r, kind, p, special, _ = judged[i]
                for k, believed in ((kind, r), (special, p)):
                    count = self.counts[k]
                    count[0] += i in path
                    count[1] += believed
                    if count[1] > FADE:
                        self.counts[k] = [count[0] / 2, count[1] / 2]
        known = min(int(depth.max()) + 1, len(new))
        self.went = NOTHING if not path else ALL if len(path) == known else PART
        return known, len(path)


@given(histories())
def test_the_formula(history):
    own, naive = Acceptance(), Naive()
    for tree, new in history:
        judged = naive.judge(tree)
        got = own.chances(tree)
        assert got == pytest.approx([judged[i][4] for i in range(len(tree))], abs=1e-12)
        above = np.where(tree.parent < 0, 1.0, got[tree.parent])
        assert (got <= above + 1e-12).all()
        assert own.heard(new) == naive.hear(tree, new, judged)


def test_what_the_text_does_not_reach_is_not_counted():
    """The text went on with one token, the first: of the second nothing is known."""
    tree, a = Tree(np.arange(2), np.array([-1, 0]), chance=np.array([0.9, 0.3])), Acceptance()
    for _ in range(10):
        first, second = a.chances(tree)
        assert a.heard([0]) == (1, 1)
    assert first > 0.9 and second / first == pytest.approx(0.3 / 0.9)
    assert a.heard([0]) == (0, 0)  # nothing was drafted since


def test_soft_nodes_never_stand():
    a = Acceptance()
    assert a.chances(Tree(np.array([4, -1, 5]), np.array([-1, -1, 0])))[1] == 0.0
    assert a.heard([4, 5]) == (2, 2) and a.went == ALL


@pytest.mark.parametrize("claimed", [0.3, 0.6, 0.96])
def test_finds_the_truth(claimed):
    """A drafter whose tokens stand 7 times of 10, whatever it says."""
    a, rng = Acceptance(), np.random.default_rng(0)
    tree = Tree(np.arange(1), np.array([-1]), chance=np.array([claimed]))
    for _ in range(400):
        a.chances(tree)
        a.heard([0] if rng.random() < 0.7 else [1])
    assert a.chances(tree)[0] == pytest.approx(0.7, abs=0.15)


def test_runs_are_noticed():
    """Drafts that come right ten times and wrong ten times, in turn: the last one says much about the next."""
    a = Acceptance()
    tree, seen = Tree(np.arange(1), np.array([-1])), {True: [], False: []}
    for i in range(400):
        p = float(a.chances(tree)[0])
        if i > 200:
            seen[(i - 1) // 10 % 2 == 0].append(p)
        a.heard([0] if i // 10 % 2 == 0 else [1])
    assert np.mean(seen[True]) > 0.75 and np.mean(seen[False]) < 0.35


def test_reach_counts_levels():
    r = Reach()
    assert r.levels(2) == pytest.approx([FIRST, FIRST**2])
    for _ in range(100):
        r.heard(levels=4, stood=2)
    first, second, third, *rest = r.levels(6)
    assert first > 0.9 and second > 0.85 and third < 0.1 and all(p < third for p in rest)
