"""What tests of scorers are written with: whole attention matrices, a decoder that evicts from Python lists, what was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from fewer.models.decoder import Decoder
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.runner import Runner
from fewer.seams import Method
from fewer.testing.harness import request

PROMPT = [(7 * i * i + 3 * i + i // 5) % 31 for i in range(40)]


@dataclass
class Layer:
    """q (n, Hq, d) before rotation, k rotated and v (n, H, d), z: masked logits and p: their softmax (Hq, n, n)."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor
    p: torch.Tensor


def matrices(model: Decoder, tokens: Sequence[int]) -> list[Layer]:
    """Every layer's attention over a whole text, as the textbook has it (no windows, no soft caps)."""
    spec, n = model.spec, len(tokens)
    x, out = model.head.embed(torch.tensor(tokens)), []
    one, zero = (torch.full((n, spec.head_dim // 2), c, dtype=x.dtype) for c in (1.0, 0.0))
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    for layer, block in enumerate(model.blocks):
        q, k, v = block.qkv(x, one, zero)
        cos, sin = cos_sin(spec.ropes[layer], torch.arange(n), x.dtype)
        turned, k = rotate(q, cos, sin), rotate(k, cos, sin)
        g = spec.n_heads // spec.n_kv_heads
        z = torch.stack([turned[:, h] @ k[:, h // g].T * spec.scale for h in range(spec.n_heads)])
        z = z.masked_fill(hidden, float("-inf"))
        p = torch.softmax(z, -1)
        o = torch.stack([p[h] @ v[:, h // g] for h in range(spec.n_heads)], 1)
        x = block.mlp(block.out(o, x))
        out.append(Layer(q, k, v, z, p))
    return out


def kept(
    model: Decoder, prompt: Sequence[int], method: Method, chunk: int = 512, max_tokens: int = 1
) -> list[list[list[int]]]:
    """Positions held at the end, [layer][kv-head]; with one new token these are of the prompt alone."""
    runner, found = Runner({"main": model}), []
    req = request(prompt, [method], max_tokens=max_tokens, chunk=chunk)

    def look(r) -> None:
        for layer in range(model.spec.n_layers):
            view = runner.stores["main"].view(r.seqs["main"], layer)
            found.append([view.positions(h).tolist() for h in range(view.n_heads)])

    req.on_end = look
    runner.add(req)
    runner.run()
    if req.error is not None:
        raise req.error
    return found


@dataclass
class Entry:
    """One kv-head's slot: its key (rotated), value, position; given: attention of each row so far, summed over its queries."""

    k: torch.Tensor
    v: torch.Tensor
    pos: int
    given: list[float] = field(default_factory=list)


Lane = list[Entry]


class Lanes:
    """Token by token; lanes[layer][kv-head] is a list of entries that a rule cuts after every token."""

    def __init__(self, model: Decoder) -> None:
        self.model, self.spec, self.next = model, model.spec, 0
        self.lanes: list[list[Lane]] = [[[] for _ in range(model.spec.n_kv_heads)] for _ in range(model.spec.n_layers)]

    def feed(self, token: int) -> torch.Tensor:
        """Logits (V,) after one more token."""
        spec, at = self.spec, torch.tensor([self.next])
        x, g = self.model.head.embed(torch.tensor([token])), spec.n_heads // spec.n_kv_heads
        for layer, block in enumerate(self.model.blocks):
            q, k, v = block.qkv(x, *cos_sin(spec.ropes[layer], at, x.dtype))
            heads = []
            for h, lane in enumerate(self.lanes[layer]):
                lane.append(Entry(k[0, h], v[0, h], self.next))
                mass = [0.0] * len(lane)
                for j in range(h * g, (h + 1) * g):
                    p = torch.softmax(torch.stack([e.k for e in lane]) @ q[0, j] * spec.scale, 0)
                    heads.append(p @ torch.stack([e.v for e in lane]))
                    mass = [a + float(b) for a, b in zip(mass, p)]
                for e, m in zip(lane, mass):
                    e.given.append(m)
            x = block.mlp(block.out(torch.stack(heads)[None], x))
        self.next += 1
        return self.model.head.logits(x)[0]

    def generate(self, prompt: Sequence[int], n: int, cut: Callable[[list[Lane]], list[Lane]]) -> list[int]:
        """n greedy tokens; cut(the lanes of a layer) says what is left of them after every token that was read."""
        tokens = list(prompt)
        for i in range(len(prompt) + n - 1):
            logits = self.feed(tokens[i])
            if i >= len(prompt) - 1:
                tokens.append(int(logits.argmax()))
            self.lanes = [cut(layer) for layer in self.lanes]
        return tokens[len(prompt) :]

    def positions(self) -> list[list[list[int]]]:
        return [[[e.pos for e in lane] for lane in layer] for layer in self.lanes]


def highest(scores: Sequence[float], n: int) -> list[int]:
    """Ascending places of the n highest; the earlier of two equals."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:n])
