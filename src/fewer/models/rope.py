"""Rotary position embedding: frequencies and angles of one layer.

    f_i = base^(-2i/dim),  i = 0 .. dim/2 - 1   (RoFormer, Su et al. 2021),  angle(p, i) = p * f_i

and the published ways to stretch it:
    linear  f_i / factor                                          (Chen et al. 2023, position interpolation)
    llama3  long wavelengths divided, short ones kept, a linear blend of the two in between    (Llama 3.1)
    yarn    the same idea with the blend linear in i; cos and sin also grow by `attention_factor`  (Peng et al. 2023)
    ntk     the base grows to base * factor^(dim/(dim-2)): f_0 stays, the last f is divided by factor   (bloc97, 2023)
    power   f_i * (1 - 2i/dim)^power: the faster a pair turns, the less it changes        (Giraffe, Pal et al. 2023)
    truncated  f_i where it makes at least `keep` turns over the original context, `middle` turns where at least `drop`,
               0 below                                                                                      (Giraffe)
    random  steps between positions are drawn from [0.1, 1.9] / factor instead of being 1 each              (Giraffe)

Angles are float64 whatever the model computes in: near position 100k float32 angles are off by up to 0.01.
Not here: turning queries and keys (layers.py), frequencies that change with the length (dynamic NTK, LongRoPE).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from fewer.models.spec import Rope


@lru_cache(maxsize=64)
def inv_freq(rope: Rope) -> torch.Tensor:
    """Frequencies (dim/2,) in float64, scaling included. The result is shared between calls: do not write to it."""
    exponent = torch.arange(0, rope.dim, 2, dtype=torch.float64) / rope.dim
    freq = rope.base**-exponent
    if rope.freq_factors is not None:
        freq = freq / torch.tensor(rope.freq_factors, dtype=torch.float64)
    return SCALINGS[rope.kind](rope, freq)


def cos_sin(rope: Rope, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, each (T, dim/2) in `dtype`, of integer `positions` (T,), times the attention factor."""
    if rope.kind == "random":
        positions = _random_places(rope.factor, 1 << int(positions.max()).bit_length())[positions]
    angles = positions.to(torch.float64)[:, None] * inv_freq(rope).to(positions.device)
    return (angles.cos() * rope.attention_factor).to(dtype), (angles.sin() * rope.attention_factor).to(dtype)


def _default(rope: Rope, freq: torch.Tensor) -> torch.Tensor:
    return freq


def _linear(rope: Rope, freq: torch.Tensor) -> torch.Tensor:
    return freq / rope.factor


def _llama3(rope: Rope, freq: torch.Tensor) -> torch.Tensor:
    turns = rope.original_context * freq / (2 * math.pi)
    kept = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return freq * (kept + (1 - kept) / rope.factor)


def _yarn(rope: Rope, freq: torch.Tensor) -> torch.Tensor:
    def index_of(turns: float) -> float:
        """The (fractional) i whose angle makes `turns` turns over the original context."""
        return rope.dim * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.base))

    low = max(math.floor(index_of(rope.beta_fast)), 0)
    high = min(math.ceil(index_of(rope.beta_slow)), rope.dim - 1)
    width = high - low or 1
    kept = 1 - ((torch.arange(rope.dim // 2, dtype=torch.float64) - low) / width).clamp(0, 1)
    return freq * (kept + (1 - kept) / rope.factor)


def _ntk(rope: Rope, freq: torch.Tensor) -> torch.Tensor:
    return freq * rope.factor ** (-torch.arange(0, rope.dim, 2, dtype=torch.float64) / (rope.dim - 2))


def _power(rope: Rope, freq: torch.Tensor) -> torch.Tensor:
    return freq * (1 - torch.arange(0, rope.dim, 2, dtype=torch.float64) / rope.dim) ** rope.power


def _truncated(rope: Rope, freq: torch.Tensor) -> torch.Tensor:
    one = 2 * math.pi / rope.original_context
    low = torch.where(freq >= rope.drop * one, rope.middle * one, 0.0)
    return torch.where(freq >= rope.keep * one, freq, low)


@lru_cache(maxsize=4)
def _random_places(factor: float, n: int) -> torch.Tensor:
    """Where positions 0 .. n stand: sums of steps drawn from one seed, so a longer table begins with the shorter one."""
    steps = np.random.Generator(np.random.PCG64(0)).uniform(0.1 / factor, 1.9 / factor, n)
    return torch.from_numpy(np.concatenate([[0.0], np.cumsum(steps)]))


SCALINGS: dict[str, Callable[[Rope, torch.Tensor], torch.Tensor]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "ntk": _ntk,
    "power": _power,
    "truncated": _truncated,
    "random": _default,
}
