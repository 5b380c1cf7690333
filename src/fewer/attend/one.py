"""Attention of one sequence's rows over a list of segments: the native kernel where it serves, plain torch elsewhere.

Both give the same meaning (reference.py); the native one reads float32, float16 and most packed entries in place and, for rows that
evidence was asked for, writes their probabilities in the same pass.
"""

from __future__ import annotations

import numpy as np
import torch

from fewer.attend import reference
from fewer.kernels import attention as kernel
from fewer.kernels.native import native
from fewer.kv.segment import DTYPE_CODE, Segment
from fewer.models.spec import Spec


def serves(spec: Spec, dtype: torch.dtype, kv_dtype: torch.dtype, device: str) -> bool:
    """Can the native kernel compute this model's attention?"""
    fits = spec.head_dim % 8 == 0 and spec.head_dim <= 256
    return native is not None and device == "cpu" and dtype == torch.float32 and kv_dtype in DTYPE_CODE and fits


def attend(
    q: torch.Tensor,
    committed: list[Segment],
    staged: Segment,
    visible: torch.Tensor | None,
    pos: torch.Tensor,
    layer: int,
    spec: Spec,
    in_place: bool,
    probes: np.ndarray | None = None,
    summed: bool = False,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """q (m, Hq, d), pos (m,) int32 -> o (m, Hq, d); for `probes` (w,) rows also, a kv-head, probabilities (w, g, n_h),
    summed: (w, 1, n_h)."""
    window, cap = spec.windows[layer], spec.attn_softcap
    if not in_place:
        o, probs = reference.attend(q, committed, staged, visible, pos, window, spec.scale, cap)
        wanted = [] if probes is None else [p[torch.from_numpy(probes)] for p in probs]
        return o, [p.sum(1, keepdim=True) for p in wanted] if summed else wanted
    committed = [_readable(s) for s in committed]
    lens = sum((s.len for s in committed), staged.len.copy())
    tail = Segment(staged.buffer, staged.k, staged.v, staged.pos, staged.start, np.zeros_like(staged.len))
    table = np.array([s.table_row() for s in (*committed, tail)], dtype=np.int64)
    step = kernel.Step(
        np.array([0, len(q)]),
        pos.numpy(),
        np.array([[table.ctypes.data]]),
        np.array([[len(table)]]),
        [visible if visible is None else visible.contiguous()],
        np.array([int(staged.len[0])]),
    )
    o, g = torch.empty_like(q), 1 if summed else spec.n_heads // spec.n_kv_heads
    mass = slots = None
    if probes is not None:
        mass = torch.empty(len(probes), g * spec.n_kv_heads, int(lens.max()))
        slots = torch.full((len(q),), -1)
        slots[torch.from_numpy(probes)] = torch.arange(len(probes))
    kernel.attend(q, o, step, 0, spec.n_kv_heads, spec.scale, window or 0, cap or 0.0, mass=mass, mass_slot=slots)
    if mass is None:
        return o, []
    return o, [mass[:, h * g : (h + 1) * g, : int(lens[h])] for h in range(spec.n_kv_heads)]


def _readable(s: Segment) -> Segment:
    """The segment, or what it decodes to where its packed form cannot be read as it lies."""
    if s.in_place:
        return s
    k, v = s.raw()
    return Segment(s.buffer, k.contiguous(), v.contiguous(), s.pos, s.start, s.len)
