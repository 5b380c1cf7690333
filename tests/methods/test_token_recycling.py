"""Token Recycling: the matrix against a dict, trees against enumerating all paths, memory, and drafts that get better."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.methods.propose.recycling import TokenRecycling
from fewer.parts.adjacency import RANKS, Adjacency, rank_rates
from fewer.plan import plan
from fewer.runner import Runner
from fewer.testing.harness import generate, request, run
from fewer.testing.rig import cyclic_model
from fewer.testing.tiny import tiny_model
from fewer.types import Memory, Told

ROWS = {1: [2, 3], 2: [1, 4], 3: [5, 1], 4: [1, 2]}


def matrix(rows=ROWS, breadth=2, vocab=8):
    m = Adjacency(breadth)
    m.store(np.array(list(rows)), np.array(list(rows.values())), vocab)
    return m


def all_paths(m, token, rates, levels):
    """Every path below `token` with the product of its ranks' rates."""
    out = {}
    for ranks in itertools.chain(*(itertools.product(range(m.breadth), repeat=n) for n in range(1, levels + 1))):
        at, path = token, []
        for rank in ranks:
            following = m.successors(at)
            if rank >= len(following):
                break
            at = following[rank]
            path.append(at)
        else:
            out[tuple(path)] = math.prod(rates[r] for r in ranks)
    return out


def paths(tree):
    out = []
    for token, parent in zip(tree.tokens.tolist(), tree.parent.tolist()):
        out.append((*(out[parent] if parent >= 0 else ()), token))
    return out


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 6))
def test_drafts_the_likeliest_paths(nodes, levels, token):
    m, rates = matrix(), rank_rates(2)
    tree, want = m.grow(token, rates, nodes, levels), all_paths(matrix(), token, rates, levels)
    assert len(set(paths(tree))) == len(tree)
    if len(tree):
        assert tree.chance.tolist() == pytest.approx([want[p] for p in paths(tree)])
    assert sorted(map(want.get, paths(tree)), reverse=True) == pytest.approx(
        sorted(want.values(), reverse=True)[:nodes]
    )


def test_the_worked_example():
    """1 goes on with 2 or 3; below 2 come 1 and 4, below 3 come 5 and 1: breadth before depth as the rates have it."""
    tree = matrix().grow(1, rank_rates(2), 5, 3)
    assert paths(tree) == [(2,), (2, 1), (3,), (2, 1, 2), (2, 4)]


def test_the_last_of_equal_nodes_counts_and_unknown_tokens_have_no_successors():
    m = Adjacency(2)
    assert m.successors(3) == [] and not len(m.grow(3, rank_rates(2), 5, 5))
    m.store(np.array([3, 3]), np.array([[1, 2], [0, 4]]), 8)
    assert m.successors(3) == [0, 4] and m.successors(4) == []


def test_the_matrix_fits_in_8_mb_for_152k_tokens():
    m = Adjacency(TokenRecycling().breadth)
    m.store(np.array([0]), np.zeros((1, 8), np.int64), 151936)
    assert m.rows.nbytes < 8e6
    widest = max(k for k in range(1, 100) if 151936 * k * 4 < 8e6)
    assert TokenRecycling.knobs()["breadth"]["high"] <= widest


def test_rates_learn_which_rank_comes():
    m, rates = matrix(), rank_rates(2)
    for _ in range(200):
        m.note(rates, 1, 3)
    assert rates[1] > 0.7 > RANKS[0] > rates[0]
    assert m.grow(1, rates, 1, 1).tokens.tolist() == [3]


class Said:
    """The likeliest tokens behind node -1 and every node of a tree."""

    def __init__(self, best):
        self.best = np.array(best)


def test_every_node_standing_or_not_overwrites_its_row():
    method, told = TokenRecycling(breadth=2), Told(1, vocab=8)
    state = method.start(told)
    tree = matrix().grow(1, rank_rates(2), 3, 2)  # (2), (2, 1), (3)
    said = Said([(6, 7, 0), (5, 6, 0), (4, 5, 0), (3, 4, 0)])
    method.feedback(tree, [0], said, told, state)
    assert state.matrix.successors(1) == []  # not before the ranks are graded
    method.learn([1, 2, 5], [2, 5], told, state)
    assert {t: state.matrix.successors(t) for t in (2, 1, 3)} == {2: [5, 6], 1: [4, 5], 3: [3, 4]}


def test_the_matrix_outlives_requests_and_belongs_to_one_engine():
    """The same greedy request again: the same text, fewer forwards. Another runner knows nothing of it."""
    model, prompt = cyclic_model(2, torch.float64), [0, 1, 2]
    plain, cost = generate(model, prompt, max_tokens=20)
    memory, forwards = Memory(), []
    for _ in range(2):
        runner = Runner({"main": model}, memory=memory)
        r = request(prompt, ["token-recycling"], max_tokens=20)
        runner.add(r)
        runner.run()
        assert r.tokens == plain
        forwards.append(r.ledger.forwards)
    assert forwards[1] < forwards[0] < cost.forwards
    other = request(prompt, ["token-recycling"], max_tokens=20)
    run(model, [other])
    assert other.ledger.forwards == forwards[0]


def test_memory_is_by_method_and_knobs_and_bounded():
    told = Told(1)
    a, b = plan(["token-recycling"]).propose, plan(["token-recycling:breadth=4"]).propose
    first = told.remembered(a)
    assert told.remembered(plan(["token-recycling"]).propose) is first
    assert told.remembered(b) is not first
    for budget in range(20, 32):
        told.remembered(TokenRecycling(budget=budget))
        assert told.remembered(a) is first
    for budget in range(20, 32):
        told.remembered(TokenRecycling(budget=budget))
    assert told.remembered(a) is not first


def test_text_is_the_same_sampled_too():
    model = tiny_model(layers=1)
    plain, _ = generate(model, [1, 2, 3] * 5, max_tokens=24, temperature=1.0, seed=5)
    text, ledger = generate(model, [1, 2, 3] * 5, use=["token-recycling"], max_tokens=24, temperature=1.0, seed=5)
    assert text == plain and ledger.accepted_tokens > 0
