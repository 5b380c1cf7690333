"""BiLD: the small model stops where it is unsure, the large one takes back what it finds unlikely; looser means fewer calls."""

import math

import numpy as np
import pytest
import torch

from fewer.methods.propose.confident import Confident, Rollback
from fewer.testing.harness import Naive, generate
from fewer.testing.rig import Rig
from fewer.types import Rng, Told, Tree
from tests.methods.test_spectr import WORDS, grown
from tests.two_tables import Table, random_p


def test_it_writes_while_it_is_sure():
    """Every drafted token had at least `fallback`; the one that was not drafted had less."""
    lengths = set()
    for fallback in (0.05, 0.15, 0.2, 0.3, 1.0):
        tree, played = grown(Confident(fallback=fallback, length=6), 0)
        chance = [] if tree.chance is None else tree.chance.tolist()
        assert all(b >= fallback * a for a, b in zip([1.0, *chance], chance))
        assert len(played.fed) == len(tree) + (len(tree) < 6)  # it looked once more and stopped, or was full
        lengths.add(len(tree))
    assert len(lengths) > 2 and 0 in lengths


def naively(models, prompt, count, fallback, rollback, length):
    """The paper's two policies token by token, both models read anew each time: (text, calls of the large model)."""

    def logp(model, text):
        naive = Naive(models[model])
        for token in text:
            out = naive.feed(token)
        return out.log_softmax(-1)

    text, calls = [*prompt, int(logp("main", prompt).argmax())], 1
    while len(text) < len(prompt) + count:
        small = list[int]()
        while len(small) < min(length, len(prompt) + count - len(text) - 1):
            lp = logp("draft", text + small)
            if float(lp.max().exp()) < fallback:
                break
            small.append(int(lp.argmax()))
        calls += 1
        for token in [*small, None]:
            lp = logp("main", text)
            if token is None or -float(lp[token]) > rollback:
                text.append(int(lp.argmax()))
                if token != text[-1]:
                    break
            else:
                text.append(token)
    return text[len(prompt) :], calls


@pytest.mark.parametrize(("fallback", "rollback"), [(0.1, 2.0), (0.2, 3.0), (0.0, 1.5)])
def test_it_is_the_papers_loop(fallback, rollback):
    models = Rig().models()
    use = [f"bild:fallback={fallback},rollback={rollback},length=4"]
    got, ledger = generate(models, WORDS, use=use, max_tokens=16)
    assert (got, ledger.models["main"].forwards) == naively(models, WORDS, 16, fallback, rollback, 4)


def test_looser_thresholds_mean_fewer_calls_of_the_large_model():
    models = Rig().models()
    plain, cost = generate(models, WORDS, max_tokens=24)
    calls = []
    for rollback in (0.0, 1.0, 2.0, 4.0, 8.0):
        got, ledger = generate(models, WORDS, use=[f"bild:fallback=0.0,rollback={rollback},length=4"], max_tokens=24)
        calls.append(ledger.models["main"].forwards)
        assert rollback or got == plain
    assert calls == sorted(calls, reverse=True) and calls[-1] < calls[0] <= cost.forwards
    got, ledger = generate(models, WORDS, use=["bild:fallback=1.0"], max_tokens=24)
    assert got == plain and ledger.drafted_tokens == 0


def test_the_distance_is_minus_log_p():
    """A draft stands up to the distance and not beyond; then the large model's own token comes."""
    p = random_p(vocab=4)
    best = int(p.argmax())
    sure = torch.zeros(4, dtype=torch.float64)
    sure[best] = 1.0
    for token in range(4):
        tree = Tree(np.array([token]), np.array([-1]))

        class Greedy(Table):
            def probs(self, node, soft=False):
                return p if soft else sure

        for slack, want in ((1e-9, token), (-1e-9, best)):
            rule = Rollback(max(0.0, -math.log(float(p[token])) + slack))
            assert rule.choose(-1, tree, Greedy(tree, random_p), Rng(0), Told(1), None) == want
