"""The native linear and block operations in plain torch: what each must equal, and the fallback without a compiler.

linear: activations are rounded to int8 in groups of 32 inputs, or 16 where rounding showed most (q, k, v, logits),
    s = amax / 127,  code = round_half_even(x * (127 / amax)),  y = (code * s) W^T;
groups with amax < 2^-100 are zero. With two planes what rounding left over is rounded once more, in groups of 32
everywhere, and added: about 15 bits. Sums run in float64 and are rounded once, so the native
result, which sums in float32 group by group, agrees to about 1e-6 of the sum of absolute terms.
Not here: the fixed order of float sums that makes native results independent of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import gelu, silu

from fewer.kernels.pack import Packed
from fewer.models.spec import Spec

TINY = 2.0**-100
Weights = Mapping[str, Packed]
Vectors = Mapping[str, torch.Tensor]


def quantise(x: torch.Tensor, group: int = 32, planes: int = 1) -> torch.Tensor:
    """x (T, k) float -> the same values as int8 groups represent them, float64."""
    if planes == 2:
        first = quantise(x)
        return first + quantise((x.double() - first).float())
    k = x.shape[1]
    blocks = torch.nn.functional.pad(x.float(), (0, -k % group)).unflatten(1, (-(-k // group), group))
    amax = blocks.abs().amax(-1, keepdim=True)
    zero = amax < TINY
    inverse = torch.where(zero, 0, torch.tensor(127.0) / amax).double()  # torch takes 127 / amax for 127 * (1 / amax)
    scale = torch.where(zero, 0, amax / 127).double()
    return ((blocks.double() * inverse).round() * scale).flatten(1)[:, :k]


def linear(
    x: torch.Tensor, w: Packed, bias: torch.Tensor | None = None, group: int = 32, planes: int = 1
) -> torch.Tensor:
    """x (T, k) -> x W^T + bias (T, n), in x's type."""
    y = quantise(x, group, planes) @ w.dequantize().double().T
    return (y if bias is None else y + bias.double()).to(x.dtype)


def rms_norm(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean x^2 + eps) * w over the last dimension."""
    wide = x.double()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * w.double()).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (T, H, d), cos and sin (T, d / 2): pairs (i, i + d/2) turned."""
    a, b = x.chunk(2, dim=-1)
    c, s = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1)


def gate(act: str, g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """act(g) * u, act "silu" or "gelu_tanh"."""
    return (silu(g) if act == "silu" else gelu(g, approximate="tanh")) * u


def embed(w: Packed, ids: torch.Tensor) -> torch.Tensor:
    """Rows `ids` (T,) of w -> (T, k) float32."""
    return w.dequantize()[ids]


def logits(x: torch.Tensor, w: Packed, norm: torch.Tensor, eps: float, planes: int = 1) -> torch.Tensor:
    """norm(x) W^T: (T, k) -> (T, n)."""
    return linear(rms_norm(x, norm, eps), w, group=16, planes=planes)


def best(
    x: torch.Tensor, w: Packed, norm: torch.Tensor, eps: float, k: int = 1, planes: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (T, k) int64 of the k largest logits of each row, the first of equal ones first, and those (T, k) float32."""
    values, ids = logits(x, w, norm, eps, planes).sort(dim=-1, descending=True, stable=True)
    return ids[:, :k].contiguous(), values[:, :k].float().contiguous()


def qkv(
    spec: Spec, w: Weights, v: Vectors, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, planes: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (T, D) -> q (T, Hq, d), k and v (T, Hkv, d); q and k normalised per head if the spec says so, and rotated."""
    n = rms_norm(x, v["attn_norm"], spec.norm_eps)
    heads = {i: linear(n, w[i], v.get(f"{i}_bias"), 16, planes).unflatten(1, (-1, spec.head_dim)) for i in "qkv"}
    if spec.qk_norm:
        heads |= {i: rms_norm(heads[i], v[f"{i}_norm"], spec.norm_eps) for i in "qk"}
    return rotate(heads["q"], cos, sin), rotate(heads["k"], cos, sin), heads["v"]


def out(spec: Spec, w: Weights, v: Vectors, o: torch.Tensor, planes: int = 1) -> torch.Tensor:
    """o (T, Hq d) -> what attention adds to x, (T, D)."""
    y = linear(o, w["o"], planes=planes)
    return rms_norm(y, v["post_attn_norm"], spec.norm_eps) if spec.post_norms else y


def mlp(spec: Spec, w: Weights, v: Vectors, x: torch.Tensor, planes: int = 1) -> torch.Tensor:
    """x (T, D) -> what the MLP adds to x, (T, D)."""
    n = rms_norm(x, v["mlp_norm"], spec.norm_eps)
    g, u = (linear(n, w[i], planes=planes) for i in ("gate", "up"))
    y = linear(gate(spec.act, g, u), w["down"], planes=planes)
    return rms_norm(y, v["post_mlp_norm"], spec.norm_eps) if spec.post_norms else y
