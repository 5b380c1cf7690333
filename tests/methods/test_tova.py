"""TOVA: equality with a naive rewrite, token by token: drop what the last token looks at least, alike in all heads."""

from fewer.methods.retain.running_scores import RunningScores
from fewer.plan import make
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, Lanes, highest, kept


def least_wanted(budget):
    """Of a layer: the entries that the last token gave most, averaged over all its heads."""

    def cut(layer):
        if len(layer[0]) <= budget:
            return layer
        mean = [sum(lane[i].given[-1] for lane in layer) for i in range(len(layer[0]))]
        return [[lane[i] for i in highest(mean, budget)] for lane in layer]

    return cut


def test_equals_a_naive_rewrite():
    model = tiny_model()
    for budget in (6, 15):
        lanes = Lanes(model)
        want = lanes.generate(PROMPT, 16, least_wanted(budget))
        method = make("tova", {"budget": budget})
        assert generate(model, PROMPT, use=[method], max_tokens=16, chunk=1)[0] == want
        assert kept(model, PROMPT, method, chunk=1, max_tokens=16) == lanes.positions()


def test_layers_differ_heads_do_not():
    got = kept(tiny_model(), PROMPT, RunningScores(budget=10, scorer="last", heads="shared"), chunk=8)
    assert all(a == b for a, b in got) and got[0] != got[1]
