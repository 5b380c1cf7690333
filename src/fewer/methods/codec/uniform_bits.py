"""Every entry at the same few bits: plain int8 and int4 per token, and KIVI (Liu et al., 2024), who cuts keys by channel.

    x ~ low + step * code,  code in 0 .. 2^bits - 1, one (low, step) for
        token     `group` neighbouring channels of one token     values always; keys, plainly
        channel   `group` neighbouring tokens of one channel     keys, in KIVI: few channels are large, in all tokens

Pairs are float16, so a group of 32 costs one bit more a number. Packing happens when the prompt is complete and then every
`gap` tokens, so the newest tokens are read as they are, at most gap - 1. Each kv-head is packed by itself. Native attention
reads the codes as they lie where kernels/codes.py says so (groups of 16, 32, 64, .. channels); else a layer is decoded for
every read. Does not: choose which tokens deserve more bits (salient_bits.py does), pack while the prompt is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fewer.kernels.codes import describe
from fewer.kv.segment import Encoded
from fewer.kv.view import View
from fewer.parts.quant import Quantised, quantise
from fewer.seams import Codec, Held, knob
from fewer.types import Told


@dataclass(frozen=True)
class UniformBits(Codec):
    """Store keys and values at `bits`; 16 leaves them as they are."""

    per_head: ClassVar[bool] = True

    bits: int = knob(8, "bits a number; 16 packs nothing", choices=(2, 4, 8, 16))
    keys: str = knob("token", "what a group of keys has in common", choices=("token", "channel"))
    group: int = knob(64, "numbers that share a scale", low=2)
    gap: int = knob(64, "generated tokens between packings", low=1)

    def due(self, held: Held, told: Told, state: None) -> bool:
        if self.bits == 16 or not told.decoding:
            return False
        return told.seen == told.prompt_len or held.raw_entries(0) >= self.gap

    def horizon(self, held: Held, told: Told, state: None) -> int | None:
        return None if self.bits == 16 else max(1, self.gap - held.raw_entries(0))

    def encode(self, layer: int, view: View, told: Told, state: None) -> tuple[Encoded, torch.Tensor, np.ndarray]:
        heads = range(view.n_heads)
        ks, vs = [view.keys(h) for h in heads], [view.values(h) for h in heads]
        dtype, wide = ks[0].dtype, ks[0].dtype if ks[0].dtype == torch.float64 else torch.float32
        if self.keys == "channel":
            packed_keys: Packed = ByChannel([k.to(wide) for k in ks], self.bits, self.group)
        else:
            packed_keys = ByToken(torch.cat(ks).to(wide), self.bits, self.group)
        packed_values = ByToken(torch.cat(vs).to(wide), self.bits, self.group)

        def decode() -> tuple[torch.Tensor, torch.Tensor]:
            return packed_keys.dense(wide).to(dtype), packed_values.dense(wide).to(dtype)

        positions = torch.cat([view.positions(h) for h in heads])
        nbytes = packed_keys.nbytes + packed_values.nbytes
        encoded = Encoded(decode, nbytes, packed_keys.described(dtype), packed_values.described(dtype))
        return encoded, positions, view.lens()


class ByToken:
    """x (n, d): each token's channels in groups; a last, narrower group takes what is left."""

    def __init__(self, x: torch.Tensor, bits: int, group: int) -> None:
        parts = [quantise(part, bits, 1) for part in x.split(group, 1)]
        self.bits, self.group = bits, group
        self.channels, self.bytes = [p.channels for p in parts], [p.codes.shape[1] for p in parts]
        self.codes, self.low, self.step = (
            torch.cat([getattr(p, of) for p in parts], 1) for of in ("codes", "low", "step")
        )

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.low.nbytes + self.step.nbytes

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """(n, d)"""
        parts = zip(self.codes.split(self.bytes, 1), self.low.split(1, 1), self.step.split(1, 1), self.channels)
        return torch.cat([Quantised(c, low, step, self.bits, n).dense(dtype) for c, low, step, n in parts], 1)

    def described(self, dtype: torch.dtype) -> np.ndarray | None:
        """For native attention, if it can read these."""
        return describe(self.codes, self.low, self.step, self.bits, self.group, dtype)


class ByChannel:
    """Heads' keys (n_h, d): each channel's tokens in groups, a head's last one shorter. All are stored one after another."""

    def __init__(self, heads: list[torch.Tensor], bits: int, group: int) -> None:
        parts = [quantise(part, bits, 0) for k in heads for part in k.split(group) if len(part)]
        self.sizes, self.group = np.array([len(p.codes) for p in parts], dtype=np.int32), group
        self.runs = np.cumsum([0, *(math.ceil(len(k) / group) for k in heads[:-1])]).tolist()
        low, step = torch.cat([p.low for p in parts]), torch.cat([p.step for p in parts])
        self.whole = Quantised(torch.cat([p.codes for p in parts]), low, step, bits, heads[0].shape[1])

    @property
    def nbytes(self) -> int:
        return self.whole.nbytes + self.sizes.nbytes

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """(n, d), head after head."""
        return self.whole.dense(dtype, torch.from_numpy(self.sizes))

    def described(self, dtype: torch.dtype) -> np.ndarray | None:
        """For native attention, if it can read these."""
        x = self.whole
        return describe(x.codes, x.low, x.step, x.bits, self.group, dtype, self.runs)


Packed = ByToken | ByChannel
