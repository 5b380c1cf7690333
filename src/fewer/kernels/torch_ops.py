"""The operations of ops.py as `torch.ops.fewer.*`, for torch.compile, export and profilers; importing registers them.

A packed matrix is passed as its arrays and numbers. The engine's own loop calls ops.py and block.py directly, which is
quicker. Not here: the fused layer operations, which need a handle.
"""

from __future__ import annotations

import torch

from fewer.kernels import ops
from fewer.kernels.pack import Packed

_W = "Tensor q, Tensor scale, Tensor? minimum, int bits, int group, int n, int k, int zero, int shift"
_library = torch.library.Library("fewer", "DEF")
_library.define(f"linear(Tensor x, {_W}, Tensor? bias=None) -> Tensor")
_library.define(f"embed(Tensor ids, {_W}) -> Tensor")
_library.define(f"logits(Tensor x, {_W}, Tensor norm, float eps) -> Tensor")
_library.define(f"best(Tensor x, {_W}, Tensor norm, float eps, int k_best) -> (Tensor, Tensor)")

Arrays = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int, int, int, int, int, int]


def arrays(w: Packed) -> Arrays:
    """The arguments that stand for w in every operation here."""
    return w.q, w.scale, w.minimum, w.bits, w.group, w.n, w.k, w.zero, w.shift


def _packed(q, scale, minimum, bits, group, n, k, zero, shift) -> Packed:
    return Packed(bits, group, n, k, q, scale, minimum, zero, shift)


@torch.library.impl(_library, "linear", "CPU")
def _linear(x, q, scale, minimum, bits, group, n, k, zero, shift, bias=None):
    return ops.linear(x, _packed(q, scale, minimum, bits, group, n, k, zero, shift), bias)


@torch.library.impl(_library, "embed", "CPU")
def _embed(ids, *w):
    return ops.embed(_packed(*w), ids)


@torch.library.impl(_library, "logits", "CPU")
def _logits(x, q, scale, minimum, bits, group, n, k, zero, shift, norm, eps):
    return ops.logits(x, _packed(q, scale, minimum, bits, group, n, k, zero, shift), norm, eps)


@torch.library.impl(_library, "best", "CPU")
def _best(x, q, scale, minimum, bits, group, n, k, zero, shift, norm, eps, k_best):
    return ops.best(x, _packed(q, scale, minimum, bits, group, n, k, zero, shift), norm, eps, k_best)


@torch.library.register_fake("fewer::linear", lib=_library)
def _linear_shape(x, q, scale, minimum, bits, group, n, k, zero, shift, bias=None):
    return x.new_empty(x.shape[0], n)


@torch.library.register_fake("fewer::embed", lib=_library)
def _embed_shape(ids, q, scale, minimum, bits, group, n, k, zero, shift):
    return q.new_empty(ids.shape[0], k, dtype=torch.float32)


@torch.library.register_fake("fewer::logits", lib=_library)
def _logits_shape(x, q, scale, minimum, bits, group, n, k, zero, shift, norm, eps):
    return x.new_empty(x.shape[0], n)


@torch.library.register_fake("fewer::best", lib=_library)
def _best_shape(x, q, scale, minimum, bits, group, n, k, zero, shift, norm, eps, k_best):
    shape = (x.shape[0], k_best)
    return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape, dtype=torch.float32)
