"""TidalDecode: equality with a naive rewrite, reads as predicted, and positions that survive unequal layers."""

import pytest
import torch

from fewer.methods.select.persistent import Persistent
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.testing.harness import Naive, generate
from fewer.testing.tiny import tiny_model, tiny_spec
from fewer.types import Told


class Tidal(Naive):
    """One token at a time: layer 1 and layer 3 choose among the earlier tokens, layers 2, 4 and 5 read the choice."""

    def __init__(self, model, budget, heads):
        super().__init__(model)
        self.budget, self.heads = budget, heads

    def feed_sparse(self, token, pos):
        spec, x, chosen = self.spec, self.model.head.embed(torch.tensor([token])), None
        for layer, block in enumerate(self.model.blocks):
            cos, sin = cos_sin(spec.ropes[layer], torch.tensor([pos]), x.dtype)
            q, k, v = block.qkv(x, cos, sin)
            old = self.cache[layer]
            turned = cos_sin(spec.ropes[layer], torch.arange(pos), x.dtype)
            keys = rotate(torch.stack([e[0] for e in old]), *turned)
            if layer in (1, 3):
                p = [torch.softmax(keys[:, h // 2] @ q[0, h] / 8**0.5, 0) for h in range(4)]
                chosen = []
                for h in range(2):
                    mass = (sum(p) if self.heads == "shared" else p[2 * h] + p[2 * h + 1]).tolist()
                    chosen.append(sorted(range(pos), key=lambda i, mass=mass: -mass[i])[: self.budget])
            out = []
            for h in range(4):
                at = list(range(len(old))) if layer in (0, 1, 3) else sorted(chosen[h // 2])
                ks = torch.cat([keys[at, h // 2], k[:, h // 2]])
                vs = torch.stack([old[i][1][h // 2] for i in at] + [v[0, h // 2]])
                out.append(torch.softmax(ks @ q[0, h] / 8**0.5, 0) @ vs)
            plain = block.qkv(x, torch.ones_like(cos), torch.zeros_like(sin))[1]
            old.append((plain[0], v[0], pos))
            x = block.mlp(block.out(torch.stack(out)[None], x))
        return self.model.head.logits(x)[0]


@pytest.mark.parametrize("heads", ["own", "shared"])
def test_equals_a_naive_rewrite(heads):
    model, prompt, budget = tiny_model(layers=6), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], 3
    method = Persistent(budget=budget, full_layers=1, reselect_layer=3, heads=heads)
    got, _ = generate(model, prompt, use=[method], max_tokens=20)
    assert got != generate(model, prompt, max_tokens=20)[0]

    naive, tokens = Tidal(model, budget, heads), list(prompt)
    for t in prompt:
        logits = naive.feed(t)
    for pos in range(len(prompt), len(prompt) + 20):
        tokens.append(int(logits.argmax()))
        logits = naive.feed_sparse(tokens[-1], pos)
    assert got == tokens[len(prompt) :]


def test_reads_as_predicted():
    """Decoding rows read `budget` entries and themselves in 4 of 8 layers, all in the others; nothing is freed."""
    model, n, new, budget = tiny_model(layers=8), 40, 10, 5
    method = Persistent(budget=budget, full_layers=2, reselect_layer=0.5)
    plain, sparse = (generate(model, list(range(1, 21)) * 2, use=use, max_tokens=new)[1] for use in ([], [method]))
    heads = model.spec.n_kv_heads
    saved = sum(n + step - budget for step in range(new - 1)) * 4 * heads
    assert plain.kv_entries_read - sparse.kv_entries_read == saved
    assert plain.kv_bytes_end == sparse.kv_bytes_end


def test_depth_and_windows():
    """Shares of the depth are the paper's layers in 32; layers with a window neither choose nor are cut."""
    paper = Persistent().start(Told(100, n_layers=32, windows=(None,) * 32))
    assert paper.choosing == {2, 13}
    gemma = tiny_spec("gemma3", layers=6)
    mixed = Persistent(full_layers=0, reselect_layer=3).start(Told(100, n_layers=6, windows=gemma.windows))
    assert mixed.choosing == mixed.taking_part == {2, 5}
