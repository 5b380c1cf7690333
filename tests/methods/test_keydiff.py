"""KeyDiff: equality with a naive rewrite, token by token, and what "distinct" means."""

import pytest
import torch

from fewer.errors import BadKnob
from fewer.parts.scorers import distinct
from fewer.plan import make
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, Lanes, highest, kept


def test_the_odd_one_out():
    """Lengths do not count, directions do."""
    keys = torch.tensor([[1.0, 0], [5, 0.5], [0.1, -0.01], [0, 1]])
    assert distinct(keys).argmax() == 3 and distinct(keys).argmin() == 1


def odd_keys(budget):
    """Of each head: the keys whose cosine with the mean of all keys of length 1 is smallest."""

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    def cut(layer):
        out = []
        for lane in layer:
            mean = sum(e.k / e.k.norm() for e in lane) / len(lane)
            best = highest([-cosine(e.k, mean) for e in lane], budget)
            out.append(lane if len(lane) <= budget else [lane[i] for i in best])
        return out

    return cut


def test_equals_a_naive_rewrite():
    model = tiny_model()
    for budget in (5, 12):
        lanes = Lanes(model)
        want = lanes.generate(PROMPT, 16, odd_keys(budget))
        method = make("keydiff", {"budget": budget})
        assert generate(model, PROMPT, use=[method], max_tokens=16, chunk=1)[0] == want
        assert kept(model, PROMPT, method, chunk=1, max_tokens=16) == lanes.positions()


def test_the_least_budget():
    with pytest.raises(BadKnob, match=r"minimum is 2 \(sinks \+ 2\)"):
        make("keydiff", {"budget": "1"})
