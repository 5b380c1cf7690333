"""H2O: equality with a naive rewrite on Python lists, token by token; the sum is over all rows since an entry came."""

import pytest

from fewer.errors import BadKnob
from fewer.methods.retain.running_scores import RunningScores
from fewer.plan import make
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, Lanes, highest, kept


def heavy_and_recent(budget, recent):
    """Of each head: the newest, and of the others those that were given most."""

    def cut(layer):
        out = []
        for lane in layer:
            given = [sum(e.given) for e in lane]
            newest = list(range(max(0, len(lane) - recent), len(lane)))
            heavy = highest(given[: len(lane) - recent], budget - recent)
            out.append(lane if len(lane) <= budget else [lane[i] for i in (*heavy, *newest)])
        return out

    return cut


def test_equals_a_naive_rewrite():
    model, lanes = tiny_model(), None
    for budget, recent in ((10, 5), (7, 2)):
        lanes = Lanes(model)
        want = lanes.generate(PROMPT, 16, heavy_and_recent(budget, recent))
        method = RunningScores(budget=budget, recent=recent / budget)
        assert generate(model, PROMPT, use=[method], max_tokens=16, chunk=1)[0] == want
        assert kept(model, PROMPT, method, chunk=1, max_tokens=16) == lanes.positions()


def test_heads_keep_their_own():
    got = kept(tiny_model(), PROMPT, RunningScores(budget=10, recent=0.5), chunk=8)
    assert any(a != b for a, b in got) and all(len(lane) == 10 for layer in got for lane in layer)


def test_the_least_budget():
    with pytest.raises(BadKnob, match=r"minimum is 5 \(sinks \+ 1\)"):
        make("h2o", {"budget": "0", "sinks": "4"})
