"""Rows, trees and randomness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.attend.reader import ancestors
from fewer.testing.enumerate import Scripted, distribution, total_variation
from fewer.types import EMPTY_TREE, Rng, Told, Tree, chain, chain_then_tree, soft

BUSH = Tree(np.array([5, 6, 7, 8, 9]), np.array([-1, -1, 1, 1, 2]))  # 5 | 6 -> (7 -> 9, 8)


def test_a_chain():
    rows = chain([4, 5, 6], 10)
    assert rows.pos.tolist() == [10, 11, 12] and rows.parent.tolist() == [-1, 0, 1] and rows.is_chain
    assert len(rows) == 3 and ancestors(rows) is None


def test_soft_rows_have_no_tokens():
    rows = soft(torch.zeros(2, 8), 3)
    assert rows.tokens.tolist() == [-1, -1] and rows.pos.tolist() == [3, 4] and rows.is_chain


def test_a_tree_hangs_on_the_last_certain_token():
    rows = chain_then_tree([1, 2], BUSH, 4)
    assert rows.tokens.tolist() == [1, 2, 5, 6, 7, 8, 9]
    assert rows.parent.tolist() == [-1, 0, 1, 1, 3, 3, 4]
    assert rows.pos.tolist() == [4, 5, 6, 6, 7, 7, 8] and not rows.is_chain
    sees = ancestors(rows)
    assert [np.flatnonzero(r).tolist() for r in sees.numpy()] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 3],
        [0, 1, 3, 4],
        [0, 1, 3, 5],
        [0, 1, 3, 4, 6],
    ]


def test_a_tree_without_branches_is_a_chain():
    assert chain_then_tree([1], Tree(np.array([2, 3]), np.array([-1, 0])), 0).is_chain
    assert chain_then_tree([1], EMPTY_TREE, 0).is_chain


def test_depth_and_trimming():
    assert BUSH.depth().tolist() == [0, 0, 1, 1, 2]
    assert BUSH.trimmed(3) is BUSH
    two = Tree(BUSH.tokens, BUSH.parent, torch.arange(5.0)[:, None]).trimmed(2)
    assert two.tokens.tolist() == [5, 6, 7, 8] and two.parent.tolist() == [-1, -1, 1, 1]
    assert two.q.flatten().tolist() == [0, 1, 2, 3]
    assert len(BUSH.trimmed(0)) == 0


def test_a_part_of_a_tree_keeps_what_belongs_to_its_nodes():
    """Nodes 1, 3 and 4 are soft: their vectors, chances and places follow them."""
    bush = Tree(np.array([5, -1, 7, -1, -1]), BUSH.parent, None, np.arange(5.0), torch.tensor([[1.0], [3.0], [4.0]]))
    part = bush.only(np.array([1, 3]))
    assert part.tokens.tolist() == [-1, -1] and part.parent.tolist() == [-1, 0]
    assert part.chance.tolist() == [1, 3] and part.embeds.flatten().tolist() == [1, 3]
    rows = chain_then_tree([9], bush, 0)
    assert rows.tokens.tolist() == [9, 5, -1, 7, -1, -1] and rows.embeds is bush.embeds


def test_state_is_a_requests_own():
    class Counts:
        def start(self, told: Told) -> list[int]:
            return [told.prompt_len]

    method, a, b = Counts(), Told(3), Told(4)
    a.start(method)
    b.start(method)
    a.of(method).append(1)
    assert (a.of(method), b.of(method)) == ([3, 1], [4])


def test_draws_follow_their_weights_and_their_seed():
    p = np.array([0.0, 2.0, 0.0, 6.0, 0.0])
    a, b = ([Rng(seed).categorical(p) for _ in range(5)] for seed in (1, 1))
    assert a == b
    rng = Rng(0)
    draws = np.bincount([rng.categorical(p) for _ in range(4000)], minlength=5)
    assert draws[[0, 2, 4]].sum() == 0 and abs(draws[1] / 4000 - 0.25) < 0.03


def test_enumeration_is_exact():
    """Two coins, the second thrown only after heads, weights that do not sum to one."""

    def run(rng: Rng) -> str:
        return "HT"[rng.categorical(np.array([3.0, 1.0]))]

    def two(rng: Rng) -> str:
        first = run(rng)
        return first + run(rng) if first == "H" else first

    assert distribution(two) == pytest.approx({"HH": 9 / 16, "HT": 3 / 16, "T": 1 / 4})


def test_enumeration_skips_the_impossible_and_refuses_nonsense():
    assert distribution(lambda rng: rng.categorical(np.array([0.0, 1.0, 0.0]))) == {1: 1.0}
    for bad in ([0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="non-negative"):
            Scripted().categorical(np.array(bad))
    with pytest.raises(ValueError, match="branches"):
        distribution(lambda rng: tuple(rng.categorical(np.ones(2)) for _ in range(40)), limit=100)


def test_total_variation():
    assert total_variation({1: 0.5, 2: 0.5}, {2: 0.5, 3: 0.5}) == 0.5
    assert total_variation({1: 1.0}, {1: 1.0}) == 0
    assert total_variation({1: 1.0}, {2: 1.0}) == 1
