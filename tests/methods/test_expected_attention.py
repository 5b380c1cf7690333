"""Expected Attention: equality with the formula written out in matrices, and the statistics it rests on."""

import math

import torch

from fewer.methods.retain.prompt_scores import PromptScores
from fewer.models.rope import inv_freq
from fewer.parts import scorers
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, highest, kept, matrices


def turn(rope, position):
    """The rotation matrix of a position."""
    half = [float(f) * position for f in inv_freq(rope)]
    d, out = 2 * len(half), torch.zeros(2 * len(half), 2 * len(half), dtype=torch.float64)
    for i, a in enumerate(half):
        j = i + d // 2
        out[i, i] = out[j, j] = math.cos(a)
        out[i, j], out[j, i] = -math.sin(a), math.sin(a)
    return out


def naive(model, budget, sinks, ahead):
    n, spec, out = len(PROMPT), model.spec, []
    for number, layer in enumerate(matrices(model, PROMPT)):
        mean_turn = sum(turn(spec.ropes[number], n + i) for i in range(ahead)) / ahead
        lanes = []
        for h in range(2):
            shares = []
            for j in (2 * h, 2 * h + 1):
                q = layer.q[sinks:, j]
                mean, centred = q.mean(0), q - q.mean(0)
                spread = mean_turn @ (centred.T @ centred / len(q)) @ mean_turn.T
                k = layer.k[sinks:, h]
                z = torch.stack(
                    [spec.scale * k_ @ mean_turn @ mean + spec.scale**2 * (k_ @ spread @ k_) / 2 for k_ in k]
                )
                shares.append(torch.softmax(z, 0))
            score = (shares[0] + shares[1]) / 2 * layer.v[sinks:, h].norm(dim=-1)
            lanes.append([*range(sinks), *(sinks + i for i in highest(score.tolist(), budget - sinks))])
        out.append(lanes)
    return out


def test_equals_a_naive_rewrite(monkeypatch):
    monkeypatch.setattr(scorers, "AHEAD", 6)
    for variant in ("llama", "qwen2"):
        model = tiny_model(variant)
        want = naive(model, 10, 2, 6)
        for chunk in (512, 7):
            assert kept(model, PROMPT, PromptScores(budget=10, scorer="expected", window=0, sinks=2), chunk) == want


def test_the_expectation_is_that_of_gaussian_queries():
    """Why the formula is what it is: E exp(q.k) = exp(m.k + k C k / 2), against the mean over many drawn queries."""
    g = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=g, dtype=torch.float64) / 3
    mean, k = torch.randn(4, generator=g, dtype=torch.float64), torch.randn(4, generator=g, dtype=torch.float64)
    drawn = mean + torch.randn(400_000, 4, generator=g, dtype=torch.float64) @ root.T
    drawn_mean = float((drawn @ k).exp().mean().log())
    assert abs(drawn_mean - float(mean @ k + k @ root @ root.T @ k / 2)) < 0.02
