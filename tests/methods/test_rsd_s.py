"""RSD-S: the race is stochastic beam search, level by level; greedy it is beam search."""

import itertools

import pytest
import torch

from fewer.methods.propose.distinct_tree import Beam, race
from fewer.testing.enumerate import distribution
from tests.methods.test_spectr import grown
from tests.two_tables import random_p


def without_replacement(p: dict, count: int) -> dict:
    """Plackett and Luce: the law of `count` items drawn one after the other, each from what is left."""
    out = {}
    for order in itertools.permutations(p, count):
        chance, left = 1.0, 1.0
        for item in order:
            chance *= p[item] / left
            left -= p[item]
        out[order] = chance
    return out


@pytest.mark.parametrize("width", [2, 3])
def test_every_level_is_a_sample_of_whole_lines_without_replacement(width):
    """Two levels of a race on three tokens, every draw enumerated, against lines drawn one by one from all nine."""

    def two_levels(rng):
        first = [token for _, token in race([1.0], [random_p()], width, rng)]
        lines = [float(random_p()[t]) for t in first]
        second = race(lines, [random_p(t) for t in first], width, rng)
        return tuple((first[line], token) for line, token in second)

    p = {(a, b): float(random_p()[a] * random_p(a)[b]) for a in range(3) for b in range(3)}
    assert distribution(two_levels) == pytest.approx(without_replacement(p, width), abs=1e-12)


def test_a_race_ends_when_nothing_is_left():
    certain = torch.tensor([1.0, 0.0])
    assert distribution(lambda rng: tuple(race([1.0], [certain], 3, rng))) == {((0, 0),): 1.0}


def test_the_beam_has_its_width_on_every_level():
    branching = set()
    for seed in range(6):
        tree, played = grown(Beam(width=3, length=3), seed, temperature=0.7)
        assert [int((tree.depth() == level).sum()) for level in range(3)] == [3, 3, 3]
        assert len(tree) == Beam(width=3, length=3).most()
        assert len(played.fed) == 3
        branching |= {len(tree.children(node)) for node in range(6)}
    assert {0, 1, 2} <= branching  # likely lines branch, unlikely ones end


def test_greedy_is_beam_search():
    tree, _ = grown(Beam(width=3, length=2), 0)
    first = tree.q[0]
    best = first.topk(3).indices.tolist()
    assert tree.tokens[:3].tolist() == best
    below = {int(tree.parent[i]): tree.q[i] for i in range(3, len(tree))}
    scores = sorted((float(first[best[line]] * p) for line, q in below.items() for p in q), reverse=True)
    got = [float(first[best[tree.parent[i]]] * tree.q[i][tree.tokens[i]]) for i in range(3, 6)]
    assert got == pytest.approx(scores[:3])
