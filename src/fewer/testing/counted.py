"""A second opinion on the ledger: rows counted where they pass through the weights, not where they are reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fewer.kv.store import Store
from fewer.models.decoder import Decoder
from fewer.models.layers import Block
from fewer.types import Step


@dataclass
class Work:
    """Rows counted where they pass: embedded, through a layer's attention, through a layer's FFN. reads: see `Watched`.

    own: the model's own forward is under way; a method's model that shares its layers is not counted."""

    embedded: int = 0
    attention: int = 0
    ffn: int = 0
    forwards: int = 0
    reads: int = 0
    own: bool = False


class CountedBlock:
    """`Block` that counts the rows it is given."""

    def __init__(self, block: Block, work: Work) -> None:
        self.block, self.work = block, work

    def qkv(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.work.attention += len(x) * self.work.own
        return self.block.qkv(x, cos, sin)

    def out(self, o: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.block.out(o, x)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        self.work.ffn += len(x) * self.work.own
        return self.block.mlp(x)


class Watched(Decoder):
    """A decoder whose steps are counted from outside. reads = what chains that read everything should have read."""

    def __init__(self, inner: Decoder) -> None:
        self.work = Work()
        blocks: list[Block] = [CountedBlock(b, self.work) for b in inner.blocks]
        super().__init__(inner.spec, blocks, inner.head, inner.dtype, inner.device)
        inner.blocks, self._inner = blocks, inner

    def new_store(self) -> Store:
        return self._inner.new_store()

    def forward(self, step: Step, store: Store) -> Any:
        self.work.forwards += 1
        for g in step.groups:
            m, heads = len(g.rows), self.spec.n_kv_heads
            self.work.embedded += m
            for layer in range(step.start, self.spec.n_layers if step.stop is None else step.stop):
                self.work.reads += m * int(store.entries(g.seq, layer).sum()) + heads * m * (m + 1) // 2
        self.work.own = True
        try:
            return self._inner.forward(step, store)
        finally:
            self.work.own = False
