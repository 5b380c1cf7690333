"""Small gates before every layer that say of each token, kv-head by kv-head, whether its entry is worth keeping.

    a = x / rms(x) In                                   D -> NARROW, what enters the layer
    c = softmax(a Q (a K)^T / sqrt(d)) a V              an attention of the gate's own, over the whole prompt, both ways
    z = read [a, c] + place [log(1 + t), log(n - t)] + bias         one number a kv-head, for token t of n
    p = sigmoid(z)                                      kept where p >= threshold

Works in any dtype, with gradients. A gate's first line needs its own token alone, so a prompt may come in pieces.
Does not: read keys, values or attention of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn.functional import linear

NARROW, HEADS = 32, 2
ROWS = 512  # of the gate's attention at once
BEGIN = 2.0  # bias before training: everything is kept
EPS = 1e-6
Weights = Mapping[str, torch.Tensor]


def shapes(width: int, n_layers: int, n_kv_heads: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights: a gate a layer."""
    return {
        "in": (n_layers, NARROW, width),
        **dict.fromkeys(("q", "k", "v"), (n_layers, NARROW, NARROW)),
        "read": (n_layers, n_kv_heads, 2 * NARROW),
        "place": (n_layers, n_kv_heads, 2),
        "bias": (n_layers, n_kv_heads),
    }


def fresh(sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights before training, float32: random, places weigh nothing, every token is somewhat likelier kept than not."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, size in sizes.items():
        if name in ("place", "bias"):
            out[name] = torch.full(size, BEGIN if name == "bias" else 0.0)
        else:
            gain = 0.5 if name == "read" else 1.0
            out[name] = torch.randn(size, generator=g) * gain * math.sqrt(2 / sum(size[1:]))
    return out


def narrow(w: Weights, layer: int, x: torch.Tensor) -> torch.Tensor:
    """What enters a layer, x (m, D) -> what its gate keeps in mind of it (m, NARROW)."""
    return linear(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS), w["in"][layer])


def gate(w: Weights, layer: int, a: torch.Tensor) -> torch.Tensor:
    """a (n, NARROW) of a whole prompt -> z (H, n) before the sigmoid."""
    n = len(a)
    q, k, v = (linear(a, w[name][layer]).view(n, HEADS, -1).transpose(0, 1) for name in "qkv")
    parts = [torch.softmax(r @ k.transpose(1, 2) * r.shape[-1] ** -0.5, -1) @ v for r in q.split(ROWS, 1)]
    c = torch.cat(parts, 1).transpose(0, 1).reshape(n, -1)
    t = torch.arange(n, dtype=a.dtype)
    place = torch.stack([torch.log(1 + t), torch.log(n - t)], 1)
    z = linear(torch.cat([a, c], 1), w["read"][layer], w["bias"][layer]) + linear(place, w["place"][layer])
    return z.T
