"""A whole text through a dense decoder with gradients: what training needs and the engine's own forward does not give.

    run(dense, x) -> states before the last norm, every row seeing itself and those before it (within its layer's window)

Weights are constants; gradients reach x. No cache, no seams: one text at a time.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from fewer.models.decoder import Decoder
from fewer.models.layers import rms_norm
from fewer.models.rope import cos_sin


def run(dense: Decoder, x: torch.Tensor) -> torch.Tensor:
    """x (T, D) -> (T, D)."""
    spec, t = dense.spec, len(x)
    at = torch.arange(t)
    apart = at[:, None] - at
    group = spec.n_heads // spec.n_kv_heads
    for layer, block in enumerate(dense.blocks):
        q, k, v = block.qkv(x, *cos_sin(spec.ropes[layer], at, x.dtype))
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        seen = (apart >= 0) & (apart < (spec.windows[layer] or t))
        if spec.attn_softcap is None:
            o = scaled_dot_product_attention(q, k, v, seen, scale=spec.scale)
        else:
            z = spec.attn_softcap * torch.tanh(q @ k.transpose(1, 2) * spec.scale / spec.attn_softcap)
            o = torch.softmax(z.masked_fill(~seen, float("-inf")), -1) @ v
        x = block.mlp(block.out(o.transpose(0, 1), x))
    return x


def scores(dense: Decoder, x: torch.Tensor, norm: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """States (T, D) -> logits (T, V) under `head` (V, D)."""
    spec = dense.spec
    z = rms_norm(x, norm + spec.norm_offset, spec.norm_eps) @ head.T
    return z if spec.final_softcap is None else spec.final_softcap * torch.tanh(z / spec.final_softcap)
