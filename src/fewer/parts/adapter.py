"""One attention layer that turns early hidden states into late ones, as a block the decoder can run.

    y = x + attend(norm(x)) Wo ;  out = norm'(y)

Two norms and four matrices, no feed-forward: what follows is the frozen model's own final norm and head. Rotary positions,
heads and scale are the model's. Does not: normalise queries and keys, or have biases, even if the model does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import linear

from fewer.models.layers import rms_norm, rotate
from fewer.models.spec import Spec


class Adapter:
    """`Block` on the tensors that `shapes` names."""

    def __init__(self, spec: Spec, w: Mapping[str, torch.Tensor]) -> None:
        self.spec, self.w = spec, w

    def qkv(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `Block.qkv`."""
        n = rms_norm(x, self.w["norm"], self.spec.norm_eps)
        q, k, v = (linear(n, self.w[i]).view(len(x), -1, self.spec.head_dim) for i in "qkv")
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def out(self, o: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """As `Block.out`."""
        return x + linear(o.reshape(len(x), -1), self.w["o"])

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """The second norm stands in the feed-forward's place."""
        return rms_norm(x, self.w["out_norm"], self.spec.norm_eps)


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's tensors."""
    d, q, kv = spec.d_model, spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    return {"norm": (d,), "q": (q, d), "k": (kv, d), "v": (kv, d), "o": (d, q), "out_norm": (d,)}


def fresh(spec: Spec, seed: int = 0) -> dict[str, torch.Tensor]:
    """An adapter that does nothing yet (Wo = 0): the draft is then the early layers' own word."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.zeros(shape)
        if name == "o"
        else torch.randn(shape, generator=g) * shape[1] ** -0.5
        for name, shape in shapes(spec).items()
    }
