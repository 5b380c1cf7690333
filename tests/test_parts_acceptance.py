"""Acceptance by ratio on tables: the law of the text is the target's to the last digit, and each slip is seen."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.parts.acceptance import KSequential, RecursiveRejection, coin, least_rho
from fewer.seams import Accept
from fewer.testing.enumerate import Scripted, distribution, total_variation
from fewer.types import Tree
from tests.broken_parts import Loose, Sloppy
from tests.two_tables import judged, lines, random_p, said_by, siblings

SEEDS = st.integers(0, 10_000)
EXACT = 1e-12


def tables(seed: int, sharp: float = 1.5):
    return partial(random_p, seed=seed, sharp=sharp), partial(random_p, seed=seed + 1, sharp=sharp)


@pytest.mark.parametrize("widths", [(1, 1), (2,), (3,), (2, 1), (1, 2)])
def test_recursive_rejection_says_what_the_target_says(widths):
    p, q = tables(sum(widths))
    got = judged(RecursiveRejection(), siblings(q, widths), p, 2)
    assert total_variation(got, said_by(p, 2)) < EXACT


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (3, 1)])
def test_k_sequential_says_what_the_target_says(shape):
    p, q = tables(sum(shape))
    assert total_variation(judged(KSequential(), lines(q, *shape), p, 2), said_by(p, 2)) < EXACT


@pytest.mark.parametrize(("accept", "draft"), [(RecursiveRejection(), siblings), (KSequential(), lines)])
def test_two_levels_of_two_drafts(accept, draft):
    p, q = (partial(random_p, seed=seed, vocab=2) for seed in (1, 2))
    shape = draft(q, (2, 2)) if draft is siblings else draft(q, 2, 2)
    assert total_variation(judged(accept, shape, p, 3), said_by(p, 3, vocab=2)) < EXACT


@pytest.mark.parametrize("accept", [RecursiveRejection(), KSequential()])
def test_p_and_q_may_share_little_or_nothing(accept):
    """Zeros of top-k in either, the same distribution, disjoint ones."""
    cases = [([0.0, 0.4, 0.6], [0.7, 0.3, 0.0]), ([0.2, 0.8, 0.0], [0.2, 0.8, 0.0]), ([0.0, 0.0, 1.0], [0.5, 0.5, 0.0])]
    for p, q in cases:
        law = lambda values, *path: torch.tensor(values, dtype=torch.float64)  # noqa: E731
        draft = lines(partial(law, q), 2, 1) if type(accept) is KSequential else siblings(partial(law, q), (2,))
        got = judged(accept, draft, partial(law, p), 2)
        assert total_variation(got, said_by(partial(law, p), 2)) < EXACT


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_one_draft_stands_as_often_as_the_two_overlap(seed):
    """Leviathan et al.: the chance of acceptance is sum min(p, q), for both rules."""
    p, q = random_p(seed=seed), random_p(seed=seed + 1)
    for accept in (RecursiveRejection(), KSequential()):
        assert stands(accept, lines(lambda *path: q, 1, 1), p) == pytest.approx(float(torch.minimum(p, q).sum()))


def stands(accept: Accept, draft, p: torch.Tensor) -> float:
    """The chance that one of the drafts for the next token stands."""

    def run(rng):
        tree = draft(rng)

        class One:
            probs = staticmethod(lambda node: p)

        token = accept.choose(-1, tree, One(), rng, None, None)  # type: ignore[arg-type]
        return token in tree.tokens

    return distribution(run)[True]


@given(SEEDS, st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_k_sequential_is_near_the_best_coupling(seed, count):
    """SpecTr, theorem 2: at least 1 - (1 - 1/k)^k of what any rule can reach; the bound here is sum min(p, 1 - (1 - q)^k),
    which no rule exceeds."""
    p, q = random_p(seed=seed, vocab=4), random_p(seed=seed + 1, vocab=4)
    rho, same = least_rho(p, q, count)
    reached = 1 - (1 - same) ** count
    best = float(torch.minimum(p, 1 - (1 - q) ** count).sum())
    assert (1 - (1 - 1 / count) ** count) * best - 1e-9 <= reached <= best + 1e-9
    assert 1 <= rho <= count and reached == pytest.approx(rho * same)
    assert reached >= 1 - (1 - least_rho(p, q, count - 1)[1]) ** (count - 1) - 1e-9


def test_different_siblings_stand_more_often_than_equal_ones():
    p, q = random_p(seed=3, sharp=0.3), random_p(seed=4, sharp=3.0)
    alone = stands(RecursiveRejection(), siblings(lambda *path: q, (1,)), p)
    distinct = stands(RecursiveRejection(), siblings(lambda *path: q, (2,)), p)
    alike = stands(KSequential(), lines(lambda *path: q, 2, 1), p)
    assert alone < alike < distinct


def test_certain_coins_are_not_thrown():
    rng = Scripted()
    assert coin(1.5, rng) and not coin(0.0, rng) and not rng.taken


@pytest.mark.parametrize("slip", ["the last sibling first", "the residual is forgotten", "the bonus is the draft's"])
def test_a_slip_changes_the_law(slip):
    p, q = tables(5)
    sound = judged(Sloppy(), siblings(q, (2,)), p, 2)
    assert total_variation(sound, said_by(p, 2)) < EXACT
    assert total_variation(judged(Sloppy(slip=slip), siblings(q, (2,)), p, 2), said_by(p, 2)) > 0.01


def test_drafts_at_the_full_ratio_change_the_law():
    p, q = tables(5)
    assert total_variation(judged(Loose(), lines(q, 2, 1), p, 2), said_by(p, 2)) > 0.01


def test_copies_are_counted_even_where_the_tree_is_cut():
    tree = Tree(np.array([1, 2, 1]), np.array([-1, -1, 0]), copies=np.array([2, 1, 2]))
    assert tree.trimmed(1).copies.tolist() == [2, 1]
