"""A naive decoder for selections: Python lists, one token at a time, and a function that says what a row reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.testing.harness import Naive

# (layer, position, queries (Hq, d), keys (n, H, d), attention (Hq, n)) -> per kv-head the places read; None = all
Choose = Callable[[int, int, torch.Tensor, torch.Tensor, torch.Tensor], "list[list[int]] | None"]


class Selecting(Naive):
    """Rows fed by `feed_sparse` read what `choose` says; queries and rotated keys of all rows are written down."""

    def __init__(self, model, choose: Choose):
        super().__init__(model)
        self.choose, self.queries = choose, {}

    def note(self, token: int, pos: int) -> torch.Tensor:
        """Feed a row that reads everything, its rotated queries kept (layer, position)."""
        return self.feed_sparse(token, pos, everything=True)

    def feed_sparse(self, token: int, pos: int, everything: bool = False) -> torch.Tensor:
        spec, x = self.spec, self.model.head.embed(torch.tensor([token]))
        g = spec.n_heads // spec.n_kv_heads
        for layer, block in enumerate(self.model.blocks):
            cos, sin = cos_sin(spec.ropes[layer], torch.tensor([pos]), x.dtype)
            q, k, v = block.qkv(x, cos, sin)
            self.queries[layer, pos] = q[0]
            old = self.cache[layer]
            turned = cos_sin(spec.ropes[layer], torch.arange(pos), x.dtype)
            keys = rotate(torch.stack([e[0] for e in old]), *turned) if old else q.new_zeros(0, spec.n_kv_heads, 8)
            scores = torch.stack([keys[:, h // g] @ q[0, h] for h in range(spec.n_heads)]) * spec.scale
            read = None if everything or not old else self.choose(layer, pos, q[0], keys, torch.softmax(scores, 1))
            out = []
            for h in range(spec.n_heads):
                at = list(range(len(old))) if read is None else sorted(read[h // g])
                ks = torch.cat([keys[at, h // g], k[:, h // g]])
                vs = torch.stack([old[i][1][h // g] for i in at] + [v[0, h // g]])
                out.append(torch.softmax(ks @ q[0, h] * spec.scale, 0) @ vs)
            plain = block.qkv(x, torch.ones_like(cos), torch.zeros_like(sin))[1]
            old.append((plain[0], v[0], pos))
            x = block.mlp(block.out(torch.stack(out)[None], x))
        return self.model.head.logits(x)[0]


def written(naive: Selecting, prompt: Sequence[int], n: int) -> list[int]:
    """n greedy tokens behind a prompt that is read in full."""
    tokens = list(prompt)
    for pos, t in enumerate(prompt):
        logits = naive.note(t, pos)
    for pos in range(len(prompt), len(prompt) + n):
        tokens.append(int(logits.argmax()))
        logits = naive.feed_sparse(tokens[-1], pos)
    return tokens[len(prompt) :]
