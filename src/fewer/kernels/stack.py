"""All layers of a packed model in one native call: what the decoder's plain loop does, without Python between layers.

It computes the same bits as the loop, from the same operations (block.py, attention.py). The decoder takes it for steps
in which every group reads the store as it lies and nobody routes rows or taps hidden states. Where rows pick what they
read, a `Walk` leaves attention to the caller and does what lies between two layers in one call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fewer.kernels.ahead import Ahead
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
        cos, sin = self._checked(x, turns, step, depth)
        data = (x.data_ptr(), cos.ctypes.data, sin.ctypes.data)
        native.stack_run(self._handle, 0, depth, *data, *step.addresses, 0, 0, 0, self.spec.head_dim)

    def walk(self, x: torch.Tensor, turns: Sequence[tuple[torch.Tensor, torch.Tensor]], step: Step, depth: int) -> Walk:
        """The same, layer by layer; arguments and errors as run()'s."""
        cos, sin = self._checked(x, turns, step, depth)
        return Walk(self.spec, self._handle, x, (cos, sin), turns, step)

    def _checked(
        self, x: torch.Tensor, turns: Sequence[tuple[torch.Tensor, torch.Tensor]], step: Step, depth: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Addresses of cos and sin, a layer."""
        half = (len(step.pos), self.spec.head_dim // 2)
        _need(x, (len(step.pos), self.spec.d_model))
        if depth > min(len(turns), len(step.tables)):
            raise ValueError(f"{depth} layers, but rotations for {len(turns)} and tables for {len(step.tables)}")
        for t in {id(t): t for turn in turns[:depth] for t in turn}.values():
            _need(t, half)
        cos, sin = (np.array([turn[i].data_ptr() for turn in turns[:depth]], dtype=np.int64) for i in (0, 1))
        return cos, sin


class Walk:
    """One step through the stack, its attention left to the caller: fill `o` from the queries that to() gives.

    o (T, Hq, d). After leave() x holds the hidden states behind the layer."""

    def __init__(
        self,
        spec: Spec,
        handle: object,
        x: torch.Tensor,
        at: tuple[np.ndarray, np.ndarray],
        turns: Sequence[tuple[torch.Tensor, torch.Tensor]],
        step: Step,
    ) -> None:
        """at: the addresses of `turns`."""
        self._alive = x, at, turns, step
        shape = (len(step.pos), spec.n_heads, spec.head_dim)
        self.q, self.o, self._at = torch.empty(shape), torch.empty(shape), -1
        turned = (at[0].ctypes.data, at[1].ctypes.data)
        self._handle, self._depth, self._head_dim = handle, len(at[0]), spec.head_dim
        self._through = (x.data_ptr(), *turned, *step.addresses)
        self._args = (x.data_ptr(), self.o.data_ptr(), self.q.data_ptr(), *turned, *step.addresses[:5], spec.head_dim)

    def to(self, layer: int) -> torch.Tensor:
        """Queries (T, Hq, d) of the next layer; its keys and values are appended."""
        self._between(layer)
        return self.q

    def through(self, first: int, reads: Ahead) -> None:
        """Run the layers from `first` on for which it is known what they read, attention and all.

        Raises IndexError for places that do not ascend or are not there."""
        assert native is not None
        last = first + len(reads.picked)
        if last > self._depth:
            raise ValueError(f"{last} layers of {self._depth}")
        self.leave()
        native.stack_run(self._handle, first, last, *self._through, *reads.addresses(), self._head_dim)

    def leave(self) -> None:
        """Finish the layer whose attention is in `o`; else to() does so on the way."""
        if self._at >= 0:
            self._between(-1)

    def _between(self, layer: int) -> None:
        assert native is not None
        native.stack_between(self._handle, self._at, layer, *self._args)
        self._at = layer


def _need(t: torch.Tensor, shape: tuple[int, int]) -> None:
    if t.dtype is not torch.float32 or not t.is_contiguous() or not t.is_cpu:
        raise TypeError(f"expected a contiguous float32 tensor on the CPU, not {t.dtype} on {t.device}")
    if t.shape != shape:
        raise ValueError(f"expected {shape}, not {tuple(t.shape)}")
