"""The dense block: one transformer layer in plain torch, in any dtype, on any device. The exact path and the reference.

    qkv   n = rms(x) ; q, k, v = n Wq, n Wk, n Wv (+ bias) ; q, k = rms_head(q), rms_head(k) if the spec says so
    out   x + post(o Wo)
    mlp   x + post((act(n Wg) * n Wu) Wd),  n = rms(x)

Rotation is the decoder's business, so that keys can be kept unrotated. kernels/block.py has the packed twin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn.functional import gelu, linear, silu

from fewer.kernels.topk import likeliest
from fewer.models.spec import Spec


class Block(Protocol):
    """One layer's weights and their three uses. x (T, D)."""

    def qkv(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> q (T, Hq, d), k (T, Hkv, d), v (T, Hkv, d), q and k rotated by cos, sin (T, d/2)."""

    def out(self, o: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """o (T, Hq, d), x (T, D) -> x + post(o Wo). May reuse x's memory."""

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """-> x + post(mlp(norm(x))). May reuse x's memory."""


class Walk(Protocol):
    """Layer by layer: to(layer) -> queries (T, Hq, d), keys and values appended; the caller puts their attention into o;
    leave() finishes the layer, as the next to() does otherwise. through() runs layers whose reads are known, as attention
    names them."""

    o: torch.Tensor

    def to(self, layer: int) -> torch.Tensor: ...

    def through(self, first: int, reads: Any) -> None: ...

    def leave(self) -> None: ...


class Stack(Protocol):
    """All layers at once, where nothing comes between them. step: the store's tables as attention made them."""

    def run(self, x: torch.Tensor, turns: Any, step: Any, depth: int) -> None:
        """x (T, D) through the first `depth` layers, in place. turns: cos, sin a layer."""

    def walk(self, x: torch.Tensor, turns: Any, step: Any, depth: int) -> Walk:
        """The same where somebody else attends."""


class Head(Protocol):
    """Embedding and output projection (one matrix when tied)."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T,) int64 -> (T, D), scaled."""

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, D) before the final norm -> (T, V)."""

    def best(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """Ids (T, k) of the k largest alone, largest first; of equal largest ones the lowest id comes first."""


def rms_norm(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean x^2 + eps) * w over the last dimension; half types are normalised in float32."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    y = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (y * w.to(y.dtype)).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (T, H, d) with cos, sin (T, d/2): pairs are (i, i + d/2)."""
    a, b = x.chunk(2, dim=-1)
    c, s = cos.to(x.dtype)[:, None], sin.to(x.dtype)[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1)


ACTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": silu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
}


class DenseBlock:
    """`Block` on dense weights. `w` maps canonical names without the layer prefix to tensors."""

    def __init__(self, spec: Spec, w: dict[str, torch.Tensor]) -> None:
        self.spec, self.w = spec, w

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        w = self.w[name]
        return rms_norm(x, w + self.spec.norm_offset if self.spec.norm_offset else w, self.spec.norm_eps)

    def qkv(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        w, d = self.w, self.spec.head_dim
        n = self._norm(x, "attn_norm")
        q, k, v = (linear(n, w[i], w.get(f"{i}_bias")).view(len(x), -1, d) for i in "qkv")
        if self.spec.qk_norm:
            q, k = self._norm(q, "q_norm"), self._norm(k, "k_norm")
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def out(self, o: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = linear(o.reshape(len(x), -1), self.w["o"])
        return x + (self._norm(y, "post_attn_norm") if self.spec.post_norms else y)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        n = self._norm(x, "mlp_norm")
        y = linear(ACTS[self.spec.act](linear(n, self.w["gate"])) * linear(n, self.w["up"]), self.w["down"])
        return x + (self._norm(y, "post_mlp_norm") if self.spec.post_norms else y)


class DenseHead:
    """`Head` on dense weights: embed (V, D), norm (D,), head (V, D) or None when tied."""

    def __init__(self, spec: Spec, embed: torch.Tensor, norm: torch.Tensor, head: torch.Tensor | None) -> None:
        self.spec, self.weight, self.norm, self.proj = spec, embed, norm, embed if head is None else head

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.weight[tokens]
        return x if self.spec.embed_scale == 1.0 else x * torch.tensor(self.spec.embed_scale, dtype=x.dtype)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        z = linear(rms_norm(x, self.norm + self.spec.norm_offset, self.spec.norm_eps), self.proj)
        cap = self.spec.final_softcap
        return z if cap is None else cap * torch.tanh(z / cap)

    def best(self, x: torch.Tensor, k: int) -> torch.Tensor:
        return likeliest(self.logits(x), k)
