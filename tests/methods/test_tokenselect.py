"""TokenSelect: equality with a naive rewrite, choices used again, and drafts that leave no choice behind."""

import numpy as np
import pytest
import torch

from fewer.methods.select.soft_vote import SoftVote
from fewer.parts.trail import Trail
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.types import Rows, Told
from tests.methods.selecting import Selecting, written

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]


@pytest.mark.parametrize("similar", [0.8, 2.0])
def test_equals_a_naive_rewrite(similar):
    """1 sink, the 2 newest and 3 by vote; the last choice stays while queries are alike."""
    model, last, again = tiny_model(layers=3), {}, []

    def choose(layer, pos, q, keys, attention):
        flat = q.flatten()
        if layer not in last or torch.cosine_similarity(flat, last[layer][0], 0) < similar:
            mass = attention.sum(0).tolist()
            last[layer] = flat, sorted(range(1, pos - 2), key=lambda i: -mass[i])[:3]
        else:
            again.append(layer)
        return [[0, *(i for i in last[layer][1] if i < pos - 2), pos - 2, pos - 1]] * 2

    got, _ = generate(model, PROMPT, use=[SoftVote(budget=6, sinks=1, recent=2, similar=similar)], max_tokens=20)
    assert got != generate(model, PROMPT, max_tokens=20)[0]
    assert got == written(Selecting(model, choose), PROMPT, 20)
    assert bool(again) == (similar < 1)


def rows(pos, parent, tokens):
    return Rows(np.array(pos), np.array(parent), np.array(tokens))


def test_a_trail_follows_the_text():
    """A tree hangs on the certain token: the branch that became text counts, its sibling and what is deeper do not."""
    trail, told = Trail(), Told(prompt_len=4, seen=4, generated=[7])
    trail.begin(rows([4, 5, 5, 6], [-1, 0, 0, 2], [7, 8, 9, 1]), told)
    assert trail.before(0, 0) is None
    for row, note in enumerate("abcd"):
        trail.leave(row, 0, note)
    assert trail.before(2, 0) == "a" and trail.before(3, 0) == "c"
    told.generated, told.seen = [7, 9, 2], 6
    trail.begin(rows([6], [-1], [2]), told)
    assert trail.before(0, 0) == "c"
