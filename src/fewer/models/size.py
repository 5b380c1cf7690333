"""How large a model is: bytes of weights a forward reads, multiply-adds a row needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.models.spec import Spec

if TYPE_CHECKING:
    from fewer.models.decoder import Decoder


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of the matrices that every forward reads: all layers and the output head."""
    layers = sum(w.nbytes for block in decoder.blocks for w in block.w.values())  # type: ignore[attr-defined]
    return layers + decoder.head.proj.nbytes  # type: ignore[attr-defined]


def row_macs(spec: Spec, head: bool = True) -> int:
    """Multiply-adds a row: the weights of the matrices it passes; head=False for prompt rows whose logits nobody needs."""
    return spec.row_weights - (0 if head else spec.vocab * spec.d_model)
