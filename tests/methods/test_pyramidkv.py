"""PyramidKV: layer budgets of the paper's formula, and that SnapKV's choice is made with them."""

import pytest
import torch

from fewer.methods.retain.prompt_scores import PromptScores
from fewer.parts.allocation import Allocation
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, kept
from tests.methods.test_snapkv import naive


def test_the_papers_series():
    """k_last = k_total / (beta * m), k_first = 2 k_total / m - k_last, equal steps between; alpha is the window."""
    got = Allocation("pyramid", budget=8 + 120, fixed=8, floor=0, taper=20).pyramid(32, 4096)
    last, first = 120 / 20, 240 - 120 / 20
    want = [8 + first - (first - last) * layer / 31 for layer in range(32)]
    assert max(abs(a - b) for a, b in zip(got, want)) <= 1 and got == sorted(got, reverse=True)
    assert sum(got) == 32 * 128


def test_a_first_layer_cannot_keep_more_than_there_is():
    """The authors' code: the first layer keeps the prompt, the last gets what is left over."""
    got = Allocation("pyramid", budget=40, fixed=8, floor=0, taper=20).pyramid(4, 56)
    assert got[0] == pytest.approx(8 + 48, abs=4) and got[-1] == pytest.approx(8 + 16, abs=4) and sum(got) == 4 * 40
    assert Allocation("pyramid", budget=40, fixed=8, floor=0, taper=20).pyramid(1, 56) == [40]


def test_keeps_what_snapkv_would_at_each_layers_budget():
    model, budget = tiny_model(), 14
    got = kept(model, PROMPT, PromptScores(budget=budget, shares="pyramid", window=4, taper=5))
    sizes = Allocation("pyramid", budget, 4, 0, 5).pyramid(3, len(PROMPT))
    assert sizes[0] > sizes[1] > sizes[2] and sum(sizes) == 3 * budget
    for layer, size in enumerate(sizes):
        assert got[layer] == naive(model, PROMPT, size, 4, 1, sum)[layer]


def test_bytes_are_those_of_an_even_share():
    model = tiny_model()
    even, pyramid = (
        generate(model, PROMPT * 4, use=[PromptScores(budget=20, shares=s, window=4)], max_tokens=1)[1].kv_bytes_end
        for s in ("even", "pyramid")
    )
    assert even == pyramid == 20 * 3 * 2 * (2 * 8 * torch.float64.itemsize + 4)
