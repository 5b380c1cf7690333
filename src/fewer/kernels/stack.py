"""All layers of a packed model in one native call: what the decoder's plain loop does, without Python between layers.

It computes the same bits as the loop, from the same operations (block.py, attention.py). The decoder takes it for steps
in which every group reads the store as it lies and nobody routes rows or taps hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fewer.kernels.attention import Step
from fewer.kernels.block import PackedBlock
from fewer.kernels.native import native
from fewer.models.spec import Spec


class PackedStack:
    """The layers of one model, lowest first. Needs the native extension."""

    def __init__(self, spec: Spec, blocks: Sequence[PackedBlock]) -> None:
        assert native is not None
        self.spec, self.blocks = spec, list(blocks)
        windows = np.array([w or 0 for w in spec.windows], dtype=np.int64)
        handles = tuple(b.handle for b in blocks)
        heads = (spec.n_heads, spec.n_kv_heads)
        self._handle = native.stack_new(handles, windows.ctypes.data, *heads, spec.scale, spec.attn_softcap or 0.0)

    def run(self, x: torch.Tensor, turns: Sequence[tuple[torch.Tensor, torch.Tensor]], step: Step, depth: int) -> None:
        """x (T, D) float32 through the first `depth` layers, in place; keys and values go behind the tails of `step`.

        turns: cos, sin (T, d/2) float32, a pair a layer. Raises ValueError or TypeError for anything else.
        """
        assert native is not None
        half = (len(step.pos), self.spec.head_dim // 2)
        _need(x, (len(step.pos), self.spec.d_model))
        if depth > min(len(turns), len(step.tables)):
            raise ValueError(f"{depth} layers, but rotations for {len(turns)} and tables for {len(step.tables)}")
        for t in {id(t): t for turn in turns[:depth] for t in turn}.values():
            _need(t, half)
        cos = np.array([c.data_ptr() for c, _ in turns[:depth]], dtype=np.int64)
        sin = np.array([s.data_ptr() for _, s in turns[:depth]], dtype=np.int64)
        native.stack_run(
            self._handle, depth, x.data_ptr(), cos.ctypes.data, sin.ctypes.data, *step.addresses, self.spec.head_dim
        )


def _need(t: torch.Tensor, shape: tuple[int, int]) -> None:
    if t.dtype is not torch.float32 or not t.is_contiguous() or not t.is_cpu:
        raise TypeError(f"expected a contiguous float32 tensor on the CPU, not {t.dtype} on {t.device}")
    if t.shape != shape:
        raise ValueError(f"expected {shape}, not {tuple(t.shape)}")
