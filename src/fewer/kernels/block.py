"""One layer, and the two ends of a model, on packed matrices: the packed twins of models/layers.py.

Handles are made once; a call passes addresses. Inputs are float32, contiguous, on the CPU, one row a token; everything
else raises TypeError or ValueError. Without the native extension the reference computes the same, slowly.
Not here: attention and the KV cache (kernels/attention.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fewer.errors import CorruptFile
from fewer.kernels import ops, reference
from fewer.kernels.native import native
from fewer.kernels.pack import Packed
from fewer.models.spec import Spec

ACTS = {"silu": 0, "gelu_tanh": 1}
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
BIASES = ("q_bias", "k_bias", "v_bias")
NORMS = ("attn_norm", "mlp_norm", "q_norm", "k_norm", "post_attn_norm", "post_mlp_norm")


class PackedBlock:
    """`Block` on packed matrices.

    planes: 1 = activations in 8 bits, 2 = in about 15, at the price of a second row.
    w: MATRICES -> Packed. v: those of BIASES and NORMS that the spec asks for -> tensors (size,), kept in float32.
    Raises CorruptFile if a matrix or vector is missing or does not have the size the spec gives it.
    """

    def __init__(self, spec: Spec, w: Mapping[str, Packed], v: Mapping[str, torch.Tensor], planes: int = 1) -> None:
        self.spec, self.w, self.planes = spec, dict(w), planes
        self._q_shape, self._k_shape = (-1, spec.n_heads, spec.head_dim), (-1, spec.n_kv_heads, spec.head_dim)
        self._o_width = spec.n_heads * spec.head_dim
        offset = dict.fromkeys(NORMS, spec.norm_offset)
        self.v = {name: (t.float() + offset.get(name, 0.0)).contiguous() for name, t in v.items()}
        _check_sizes(spec, self.w, self.v)
        self.handle = self._new_handle()

    def _new_handle(self) -> Any:
        if native is None:
            return None
        at = [self.v[name].data_ptr() if name in self.v else 0 for name in BIASES + NORMS]
        matrices = [self.w[name].handle for name in MATRICES]
        return native.block_new(
            *matrices, *at, self.spec.norm_eps, self.spec.head_dim, ACTS[self.spec.act], self.planes
        )

    @property
    def nbytes(self) -> int:
        """Bytes one pass over the layer's matrices reads."""
        return sum(w.nbytes for w in self.w.values())

    def qkv(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (T, D), cos and sin (T, d/2) -> q (T, Hq, d), k and v (T, Hkv, d); q and k rotated."""
        rows = x.shape[0]
        _need("x", x, rows, self.spec.d_model)
        _need("cos", cos, rows, self.spec.head_dim // 2)
        _need("sin", sin, rows, self.spec.head_dim // 2)
        if native is None:
            return reference.qkv(self.spec, self.w, self.v, x, cos, sin, self.planes)
        q = torch.empty((rows, *self._q_shape[1:]))
        k, v = torch.empty((rows, *self._k_shape[1:])), torch.empty((rows, *self._k_shape[1:]))
        at = (cos.data_ptr(), sin.data_ptr(), q.data_ptr(), k.data_ptr(), v.data_ptr())
        native.block_qkv(self.handle, x.data_ptr(), rows, *at)
        return q, k, v

    def out(self, o: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """o (T, Hq, d) or (T, Hq d), x (T, D): x += post(o Wo), in place; returns x."""
        rows = x.shape[0]
        o = o.view(rows, self._o_width) if o.dim() == 3 and o.is_contiguous() else o
        _need("o", o, rows, self._o_width)
        _need("x", x, rows, self.spec.d_model)
        if native is None:
            return x.add_(reference.out(self.spec, self.w, self.v, o, self.planes))
        native.block_out(self.handle, o.data_ptr(), x.data_ptr(), rows)
        return x

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, D): x += post(mlp(norm(x))), in place; returns x."""
        rows = x.shape[0]
        _need("x", x, rows, self.spec.d_model)
        if native is None:
            return x.add_(reference.mlp(self.spec, self.w, self.v, x, self.planes))
        native.block_mlp(self.handle, x.data_ptr(), rows)
        return x


class PackedHead:
    """`Head` on packed matrices: embed (V, D), norm (D,), head (V, D) or None when tied (then one copy serves both)."""

    def __init__(self, spec: Spec, embed: Packed, norm: torch.Tensor, head: Packed | None, planes: int = 1) -> None:
        self.spec, self.planes, self.table, self.proj = spec, planes, embed, embed if head is None else head
        self.norm = (norm.float() + spec.norm_offset).contiguous()
        for name, w in (("embed", self.table), ("head", self.proj)):
            if w.k != spec.d_model or self.norm.shape != (w.k,):
                found = f"{name} is ({w.n}, {w.k}) and norm {tuple(norm.shape)}"
                raise CorruptFile(f"{found}; the model's width is {spec.d_model}.")

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T,) int64 -> (T, D) float32, scaled."""
        x = ops.embed(self.table, tokens)
        return x if self.spec.embed_scale == 1.0 else x.mul_(self.spec.embed_scale)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, D) before the final norm -> (T, V)."""
        z = ops.logits(x, self.proj, self.norm, self.spec.norm_eps, self.planes)
        cap = self.spec.final_softcap
        return z if cap is None else z.div_(cap).tanh_().mul_(cap)

    def best(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """Ids (T, k) of the k largest alone, largest first; ties go to the lowest id."""
        return ops.best(x, self.proj, self.norm, self.spec.norm_eps, k, self.planes)[0]


def _need(name: str, t: torch.Tensor, rows: int, width: int) -> None:
    """A quick test of what `ops.check` checks; that raises with the reason."""
    if t.dtype is torch.float32 and t.shape == (rows, width) and t.is_contiguous() and t.is_cpu:
        return
    ops.check(name, t, (rows, width))


def _check_sizes(spec: Spec, w: Mapping[str, Packed], v: Mapping[str, torch.Tensor]) -> None:
    width, d, ff = spec.d_model, spec.head_dim, spec.d_ff
    q, kv = spec.n_heads * d, spec.n_kv_heads * d
    wanted = {"q": (q, width), "k": (kv, width), "v": (kv, width), "o": (width, q)}
    wanted |= {"gate": (ff, width), "up": (ff, width), "down": (width, ff)}
    for name, (n, k) in wanted.items():
        if name not in w or (w[name].n, w[name].k) != (n, k):
            found = f"({w[name].n}, {w[name].k})" if name in w else "nothing"
            raise CorruptFile(f"layer matrix {name} must be ({n}, {k}), found {found}.")
    sizes = {"attn_norm": width, "mlp_norm": width}
    sizes |= {"q_bias": q, "k_bias": kv, "v_bias": kv} if spec.qkv_bias else {}
    sizes |= {"q_norm": d, "k_norm": d} if spec.qk_norm else {}
    sizes |= {"post_attn_norm": width, "post_mlp_norm": width} if spec.post_norms else {}
    for name, size in sizes.items():
        if name not in v or v[name].shape != (size,):
            found = f"shape {tuple(v[name].shape)}" if name in v else "nothing"
            raise CorruptFile(f"layer vector {name} must have {size} values, found {found}.")
    if set(v) - set(sizes):
        raise CorruptFile(f"the structure has no place for {', '.join(sorted(set(v) - set(sizes)))}.")
