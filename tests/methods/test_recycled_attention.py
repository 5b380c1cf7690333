"""Recycled Attention: equality with a naive rewrite, reads as predicted."""

import pytest
import torch

from fewer.methods.select.recycled import Recycled
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.methods.selecting import Selecting, written

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]


@pytest.mark.parametrize("similar", [-1.0, 0.2])
def test_equals_a_naive_rewrite(similar):
    """Six entries: the tokens since the full step, and the best of that step."""
    model, last, stride, budget = tiny_model(layers=3), {}, 4, 6

    def choose(layer, pos, q, keys, attention):
        flat = q.flatten()
        if layer in last:
            before, full, ranked = last[layer]
            alike = similar == -1.0 or torch.cosine_similarity(flat, before, 0) >= similar
            if pos - full < stride and alike:
                new = list(range(full, pos))
                return [[*r[: budget - len(new)], *new] for r in ranked]
        # the row's own share makes the heads' sums differ in weight
        with_itself = []
        for h in range(4):
            z = torch.cat([keys[:, h // 2], own[layer][h // 2][None]]) @ q[h] * 8**-0.5
            with_itself.append(torch.softmax(z, 0)[:-1])
        mass = [(with_itself[2 * h] + with_itself[2 * h + 1]).tolist() for h in range(2)]
        last[layer] = flat, pos, [sorted(range(pos), key=lambda i, m=m: -m[i]) for m in mass]
        return None

    own = {}
    naive = Selecting(model, choose)
    for layer, block in enumerate(model.blocks):  # the row's own key is what the choice needs beside its arguments

        def qkv(x, cos, sin, layer=layer, ask=block.qkv):
            q, k, v = ask(x, cos, sin)
            own[layer] = k[0]
            return q, k, v

        block.qkv = qkv
    want = written(naive, PROMPT, 18)
    got, _ = generate(
        tiny_model(layers=3), PROMPT, use=[Recycled(budget=budget, stride=stride, similar=similar)], max_tokens=18
    )
    assert got != generate(tiny_model(layers=3), PROMPT, max_tokens=18)[0]
    assert got == want


def test_reads_as_predicted():
    """Of ten decoding rows the first, fifth and ninth read all, the others six entries and themselves."""
    model = tiny_model(layers=2)
    prompt = PROMPT * 2
    plain, sparse = (generate(model, prompt, use=use, max_tokens=11)[1] for use in ([], [Recycled(budget=6, stride=4)]))
    saved = sum(len(prompt) + step - 6 for step in range(10) if step % 4) * 2 * model.spec.n_kv_heads
    assert plain.kv_entries_read - sparse.kv_entries_read == saved
