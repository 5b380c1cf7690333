"""Sequoia: the dynamic program against every tree there is, its size against costs, the rates against counting by hand."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.methods.propose.measured_shape import HAZARDS, MeasuredShape, Standing
from fewer.parts.best_tree import Shape, fastest, table
from fewer.testing.harness import generate
from fewer.testing.rig import Rig
from fewer.types import Rng, Tree
from tests.test_parts_draft_model import TEXT, Played, alone, told

RATES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4).map(tuple)
WORDS = [3, 1, 4, 1, 5, 9, 2, 6]


@cache
def forests(nodes: int, levels: int, ranks: int) -> list[tuple]:
    """Every way to hang exactly so many nodes below one: a tuple of the children's own forests, by rank."""
    if nodes == 0:
        return [()]
    if levels == 0 or ranks == 0:
        return []
    return [
        (child, *later)
        for y in range(1, nodes + 1)
        for child in forests(y - 1, levels - 1, 4)
        for later in forests(nodes - y, levels, ranks - 1)
    ]


def gain(forest: tuple, rates: tuple[float, ...]) -> float:
    """Expected nodes that stand, by the definition: the sum of the products of rates along all paths."""
    return sum(rate * (1 + gain(child, rates)) for rate, child in zip(rates, forest))


def fits(forest: tuple, ranks: int) -> bool:
    return len(forest) <= ranks and all(fits(child, ranks) for child in forest)


def as_forest(shape: Shape) -> tuple:
    """A shape as nested tuples."""

    def below(level: int, place: int) -> tuple:
        if level == len(shape.children):
            return ()
        first = sum(shape.children[level][:place])
        return tuple(below(level + 1, first + i) for i in range(shape.children[level][place]))

    return below(0, 0)


@given(RATES, st.integers(1, 6), st.integers(1, 4))
def test_the_program_finds_the_best_of_all_trees(rates, nodes, levels):
    """Rates need not fall with the rank."""
    every = [f for n in range(nodes + 1) for f in forests(n, levels, 4) if fits(f, len(rates))]
    best = max(gain(f, rates) for f in every)
    shape = table(rates, nodes, levels).shape(nodes, levels)
    assert shape.gain == pytest.approx(best, abs=1e-12)
    assert gain(as_forest(shape), rates) == pytest.approx(best, abs=1e-12)
    assert shape.nodes <= nodes and len(shape.children) <= levels and as_forest(shape) in every


def test_it_beats_lines_and_regular_trees_of_its_size():
    rates = (0.7, 0.1, 0.05)
    for nodes, regular in ((6, (2, 2)), (14, (2, 2, 2)), (12, (3, 3)), (8, (1,) * 8)):
        forest = ()
        for width in reversed(regular):
            forest = (forest,) * width
        assert table(rates, nodes, 8).shape(nodes, 8).gain >= gain(forest, rates) - 1e-12
    assert table(rates, 14, 8).shape(14, 8).gain > 1.25 * gain((((), ()),) * 2, rates)


@given(RATES, st.floats(0.0, 0.5), st.floats(0.01, 1.0))
def test_the_size_is_the_one_that_pays_best(rates, step, slope):
    """Of every size and depth, the most tokens a unit of time, counted one by one."""

    def cost(m: int) -> float:
        return 1 + slope * (m - 1)

    shape = fastest(rates, 6, 4, cost, step)
    speeds = [
        (1 + table(rates, n, d).shape(n, d).gain) / (cost(1 + n) + d * step) for n in range(1, 7) for d in range(1, 5)
    ]
    speed = (1 + shape.gain) / (cost(1 + shape.nodes) + len(shape.children) * step)
    assert speed >= max(speeds) - 1e-12


def test_dear_rows_make_small_trees_and_dear_drafts_shallow_ones():
    rates = (0.7, 0.1, 0.05)
    free = fastest(rates, 32, 8, lambda m: 1.0, 0.0)
    assert free.nodes == 32 and len(free.children) == 8
    assert fastest(rates, 32, 8, lambda m: 1 + 0.3 * (m - 1), 0.0).nodes < 8
    assert len(fastest(rates, 32, 8, lambda m: 1.0, 0.4).children) < 5


def test_rates_are_what_was_counted():
    """Two nodes stood, by their second and first child; the third had two children and none stood."""
    state = Standing()
    state.tree = Tree(np.array([5, 6, 7, 8, 9, 5]), np.array([-1, -1, 1, 1, 2, 2]))
    state.heard([6, 7, 1])
    for rank, (came, tried) in enumerate([(1, 3), (1, 2), (0, 0)]):
        prior = came + 8 * HAZARDS[rank]
        assert state.hazards[rank] == pytest.approx(prior / (tried + 8), rel=0.05)
    rates = state.rates()
    assert rates[1] == pytest.approx((1 - state.hazards[0]) * state.hazards[1], abs=0.011)
    assert sum(rates) <= 1 + 0.01 * len(rates)


def test_its_drafts_have_the_shape_and_the_likeliest_tokens():
    """Greedy: children are the first ones of their place, in order, and there are as many as the program says."""
    method, t, played, out = MeasuredShape(budget=9, length=3), told(), Played(), []
    state = method.start(t)

    def work():
        out.append((yield from method.draft(TEXT, 9, t, state, Rng(0))))

    played.run(work())
    (tree,) = out
    shape = fastest(Standing().rates(), 9, 3, t.cost, t.weights.get("draft", 1.0))
    assert len(tree) == shape.nodes and len(played.fed) == len(shape.children)
    paths = [()]
    for token, parent in zip(tree.tokens.tolist(), tree.parent.tolist()):
        paths.append((*paths[parent + 1], token))
    flat = [n for level in shape.children for n in level]
    for node, count in zip(range(-1, len(tree)), [*flat, *[0] * len(tree)]):
        best = alone([*TEXT, *paths[node + 1]]).topk(max(1, count)).indices.tolist()[:count]
        assert tree.tokens[tree.children(node)].tolist() == best


def test_no_more_siblings_than_there_are_tokens():
    """top_k leaves two tokens a place: the tree is narrower than its shape, and nothing breaks."""
    models = Rig().models()
    text, ledger = generate(models, WORDS, use=["sequoia:budget=30"], max_tokens=20, temperature=1.0, top_k=1, seed=1)
    assert len(text) == 20 and ledger.accepted_tokens


def test_every_size_of_lines_is_a_line():
    for nodes, levels in itertools.product(range(1, 5), range(1, 5)):
        shape = table((0.9,), nodes, levels).shape(nodes, levels)
        assert shape.children == ((1,),) * min(nodes, levels)


@given(st.lists(st.floats(0.01, 0.9), min_size=2, max_size=4), st.integers(1, 12), st.integers(1, 4))
def test_where_rates_fall_it_is_best_first_growth(rates, nodes, levels):
    """Then the likeliest nodes are a tree, and no other gains more."""
    rates = tuple(sorted(rates, reverse=True))
    chances = [math.prod(path) for n in range(1, levels + 1) for path in itertools.product(rates, repeat=n)]
    best = sum(sorted(chances, reverse=True)[:nodes])
    assert table(rates, nodes, levels).shape(nodes, levels).gain == pytest.approx(best)
