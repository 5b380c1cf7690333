"""A small network that foretells, from the hidden states behind layer 0, what every head of every later layer attends to.

    a = x / rms(x) In                                 D -> NARROW
    y = x / rms(x) + mlp(norm(attention(a)))          a causal attention of its own, NARROW wide
    ask = rotate(y A1 silu A2)   key = rotate(y K1 silu K2)          SMALL wide, a query head / a kv-head of each later layer
    z = ask . key / sqrt(SMALL)                       stands for that head's q . k * scale, before the softmax

Rows see what was seen before them; the caller keeps that and says which. Works in any dtype, with gradients.
Does not: foretell layer 0 (it has been read by then), or know how a layer's own rotary positions are stretched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn.functional import gelu, linear, silu

from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.models.spec import Rope

NARROW, NARROW_HEADS = 64, 4
MIDDLE = 128
SMALL = 16
EPS = 1e-6
Weights = Mapping[str, torch.Tensor]


def shapes(width: int, n_layers: int, n_heads: int, n_kv_heads: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights for a model of `n_layers` layers."""
    later = (n_layers - 1) * SMALL
    return {
        "in": (NARROW, width),
        **dict.fromkeys(("q", "k", "v"), (NARROW, NARROW)),
        "norm": (NARROW,),
        "up": (2 * NARROW, NARROW),
        "down": (width, 2 * NARROW),
        "ask1": (MIDDLE, width),
        "ask2": (later * n_heads, MIDDLE),
        "key1": (MIDDLE, width),
        "key2": (later * n_kv_heads, MIDDLE),
    }


def fresh(sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights before training: random, norms one, float32."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, size in sizes.items():
        if len(size) == 1:
            out[name] = torch.ones(size)
        else:
            out[name] = torch.randn(size, generator=g) * math.sqrt(2 / sum(size))
    return out


def look(
    w: Weights, x: torch.Tensor, pos: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states x (m, D) at positions pos (m,) -> x / rms(x), and q, k, v (m, NARROW_HEADS, n) of the narrow attention."""
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    a = linear(y, w["in"])
    q, k, v = (linear(a, w[name]).view(len(x), NARROW_HEADS, -1) for name in "qkv")
    turn = _turn(q.shape[-1], pos, x.dtype)
    return y, rotate(q, *turn), rotate(k, *turn), v


def foretell(
    w: Weights,
    y: torch.Tensor,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    pos: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y (m, D) and q of look(), keys, values (n, NARROW_HEADS, .) of all that may be seen, seen (m, n) bool -> ask
    (m, later layers * Hq, SMALL), key (m, later layers * H, SMALL), layer by layer."""
    m = len(y)
    z = torch.einsum("mhd,nhd->hmn", q, keys) * q.shape[-1] ** -0.5
    o = torch.einsum("hmn,nhd->mhd", torch.softmax(z.masked_fill(~seen, float("-inf")), -1), values).reshape(m, -1)
    o = o * torch.rsqrt(o.pow(2).mean(-1, keepdim=True) + EPS) * w["norm"]
    y = y + linear(gelu(linear(o, w["up"])), w["down"])
    turn = _turn(SMALL, pos, y.dtype)
    ask, key = (linear(silu(linear(y, w[f"{name}1"])), w[f"{name}2"]).view(m, -1, SMALL) for name in ("ask", "key"))
    return rotate(ask, *turn), rotate(key, *turn)


def _turn(dim: int, pos: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return cos_sin(Rope(dim=dim), pos, dtype)
