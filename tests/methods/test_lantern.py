"""LANTERN: never further from the target than delta, whatever is drafted; more stands the larger it is; zero is lossless."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.methods.accept.neighbourhood import Neighbourhood
from fewer.models.neighbours import Neighbours
from fewer.parts.acceptance import RecursiveRejection
from fewer.testing.enumerate import distribution, total_variation
from fewer.testing.harness import generate
from fewer.testing.rig import Rig
from fewer.testing.tiny import tiny_model
from fewer.types import Told, Tree
from tests.methods.test_spectr import WORDS
from tests.two_tables import Table, lines, random_p

RING = {t: torch.tensor([(t + 1) % 4, (t + 3) % 4, (t + 2) % 4]) for t in range(4)}  # who is near whom


def ring(**knobs) -> Told:
    t = Told(1, **knobs)
    t.near = lambda token, count: RING[token][:count]
    return t


def law(accept, p, q) -> tuple[dict, float]:
    """The law of one token, and how often the draft stands."""

    def run(rng):
        tree = lines(lambda *path: q, 1, 1)(rng)
        token = accept.choose(-1, tree, Table(tree, lambda *path: p), rng, ring(), None)
        return token, token == tree.tokens[0]

    both = distribution(run)
    token = {t: sum(c for (u, _), c in both.items() if u == t) for t in range(4)}
    return token, sum(c for (_, stood), c in both.items() if stood)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]), st.integers(0, 3))
def test_the_law_of_a_token_is_within_delta(seed, delta, near):
    p, q = random_p(vocab=4, seed=seed, sharp=2.0), random_p(vocab=4, seed=seed + 1, sharp=2.0)
    got, _ = law(Neighbourhood(delta=delta, near=near), p, q)
    want = dict(enumerate(p.tolist()))
    assert total_variation(got, want) <= (delta if near else 0.0) + 1e-12


def test_many_tokens_favoured_alike_do_not_add_up():
    """The case against bounding each token alone: q on half of a flat p, each drafted token with a neighbour of its own."""
    p, q = torch.full((4,), 0.25).double(), torch.tensor([0.5, 0.0, 0.5, 0.0]).double()
    got, stands = law(Neighbourhood(delta=0.25, near=1), p, q)
    assert total_variation(got, dict(enumerate(p.tolist()))) == pytest.approx(0.25)
    assert stands == pytest.approx(0.75)  # as the paper has it, all would stand, and the text would be the draft's


def test_more_stands_the_larger_delta_is():
    total = []
    for delta in (0.0, 0.1, 0.2, 0.4, 0.8):
        accept = Neighbourhood(delta=delta, near=3)
        total.append(
            sum(law(accept, random_p(vocab=4, seed=s, sharp=2.0), random_p(vocab=4, seed=s + 1))[1] for s in range(10))
        )
    assert total == sorted(total) and total[-1] > total[0] + 0.5
    exact = [
        law(RecursiveRejection(), random_p(vocab=4, seed=s, sharp=2.0), random_p(vocab=4, seed=s + 1))[1]
        for s in range(10)
    ]
    assert total[0] == pytest.approx(sum(exact))


def test_a_neighbourhood_lends_while_it_is_within_delta():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    lent = lambda delta, near=3: Neighbourhood(delta=delta, near=near).lent(0, p, ring())  # noqa: E731  (near 0: 1, 3, 2)
    assert [lent(0.1), lent(0.2), lent(0.59), lent(0.61), lent(0.91)] == pytest.approx([0, 0.2, 0.2, 0.6, 0.9])
    assert lent(0.9, 1) == pytest.approx(0.2) and lent(0.9, 0) == 0


def test_greedy_a_draft_stands_if_its_neighbourhood_outweighs_the_best():
    p = torch.tensor([0.3, 0.2, 0.05, 0.45], dtype=torch.float64)
    sure = torch.tensor([0.0, 0.0, 0.0, 1.0]).double()
    tree = Tree(np.array([0]), np.array([-1]))

    class Greedy(Table):
        def probs(self, node, soft=False):
            return p if soft else sure

    def said(delta):
        told = ring(greedy=True)
        return Neighbourhood(delta=delta, near=1).choose(-1, tree, Greedy(tree, random_p), None, told, None)

    assert said(0.1) == 3 and said(0.2) == 0


def test_alone_it_brings_its_drafter_and_saves_forwards():
    models = Rig().models()
    options = {"max_tokens": 60, "temperature": 1.0, "seed": 2}
    forwards = []
    for delta in (0.0, 0.5):
        _, ledger = generate(models, WORDS, use=[f"lantern:delta={delta}"], **options)
        assert ledger.models["draft"].forwards
        forwards.append(ledger.models["main"].forwards)
    assert forwards[1] < forwards[0]


def test_neighbours_are_the_nearest_by_cosine():
    model = tiny_model(vocab=400)
    near = Neighbours(model.head, 400)
    rows = torch.nn.functional.normalize(model.head.embed(torch.arange(400)).float(), dim=1)
    right = 0
    for token in range(0, 400, 40):
        alike = rows @ rows[token]
        alike[token] = -1
        right += len(set(near(token, 10).tolist()) & set(alike.topk(10).indices.tolist()))
        assert token not in near(token, 399) and len(near(token, 1000)) == 399
    assert right >= 95  # of 100: projections may miss one
    assert near(3, 5) is near(3, 5)
