"""Uniform quantisation with packed codes: x ~ low + step * code, code in 0 .. 2^bits - 1, low and step per slice.

`dim` is the dimension that shares one (low, step): 0 = one pair a channel over all tokens, 1 = one pair a token over all
channels. Pairs are stored as float16. A packed byte holds 8 / bits neighbouring channels of one token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewer.kernels.codes import unpack


@dataclass(frozen=True)
class Quantised:
    """A packed (n, c) matrix: codes uint8 (n, ceil(c * bits / 8)), low and step float16."""

    codes: torch.Tensor
    low: torch.Tensor
    step: torch.Tensor
    bits: int
    channels: int

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.low.nbytes + self.step.nbytes

    def dense(self, dtype: torch.dtype, repeats: torch.Tensor | None = None) -> torch.Tensor:
        """(n, c) in `dtype`. repeats: how many rows in turn share each row of low and step, if they are grouped by rows."""
        codes = unpack(self.codes, self.bits)[:, : self.channels].to(dtype)
        low, step = (
            (self.low, self.step)
            if repeats is None
            else (t.repeat_interleave(repeats, 0) for t in (self.low, self.step))
        )
        return low.to(dtype) + step.to(dtype) * codes


def quantise(x: torch.Tensor, bits: int, dim: int) -> Quantised:
    """x (n, c) -> codes with one (low, step) per slice along `dim` (0: per channel, 1: per token)."""
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    low16 = low.to(torch.float16)
    step16 = ((high - low16.to(x.dtype)) / (2**bits - 1)).to(torch.float16)
    step = step16.to(x.dtype)
    codes = torch.where(step > 0, (x - low16.to(x.dtype)) / step, torch.zeros_like(x))
    codes = codes.round().clamp(0, 2**bits - 1).to(torch.uint8)
    return Quantised(pack(codes, bits), low16, step16, bits, x.shape[1])


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 codes (n, c) below 2^bits -> bytes (n, ceil(c * bits / 8)), lowest bits first."""
    per = 8 // bits
    n, c = codes.shape
    if c % per:
        codes = torch.nn.functional.pad(codes, (0, per - c % per))
    shifts = torch.arange(per, dtype=torch.uint8) * bits
    return (codes.view(n, -1, per) << shifts).sum(-1).to(torch.uint8)
