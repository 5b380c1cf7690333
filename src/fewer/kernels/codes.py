"""Entries stored as codes of a few bits: the descriptor by which attention reads them as they lie, and what it means.

    x = low + step * code      product and sum rounded to float32, then to float16 if the store keeps that: the numbers that
                               decoding first would give, so attention has the same bits

A descriptor is int64 [codes, low, step, bits, group, channel, round, runs_0..runs_H-1]: addresses of codes (E, d * bits / 8)
uint8, lowest bits first, and of low and step float16, one pair for
    channel 0    an entry and `group` columns, (E, ceil(d / group))
    channel 1    a column and `group` entries, (runs, d); runs of kv-head h begin at runs_h and count from its start
In a segment's row (attention.py) its address stands for that of k or v, with dtype CODES. What it points at must outlive it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

CODES = 2  # the dtype of a segment's row
LANES = 16  # columns the native op widens at once


def describe(
    codes: torch.Tensor,
    low: torch.Tensor,
    step: torch.Tensor,
    bits: int,
    group: int,
    dtype: torch.dtype,
    runs: Sequence[int] | None = None,
) -> np.ndarray | None:
    """The descriptor of codes (E, d * bits / 8); None where the native op cannot read them: d or a group within it is no
    multiple of 16, or entries are not wanted as float32 or float16 (`dtype`). runs: where each head's begin; None = pairs
    belong to entries. Raises ValueError for shapes that do not fit."""
    d = codes.shape[1] * 8 // bits
    if dtype not in (torch.float32, torch.float16) or bits not in (2, 4, 8) or not codes.is_cpu or d % LANES:
        return None
    if runs is None:
        if group < d and group % LANES:
            return None
        pairs = (len(codes), math.ceil(d / group))
    else:
        pairs = (len(low), d)
    if low.shape != pairs or step.shape != pairs or not all(t.is_contiguous() for t in (codes, low, step)):
        raise ValueError(f"low {tuple(low.shape)} and step {tuple(step.shape)} must be contiguous {pairs}")
    at = [codes.data_ptr(), low.data_ptr(), step.data_ptr(), bits, group, runs is not None, dtype == torch.float16]
    return np.array([*at, *(runs or [])], dtype=np.int64)


def unpack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Bytes (n, b) -> the codes in them, lowest bits first: (n, b * 8 / bits) uint8."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return ((codes[:, :, None] >> shifts) & (2**bits - 1)).flatten(1)


def widen(
    codes: torch.Tensor,
    low: torch.Tensor,
    step: torch.Tensor,
    bits: int,
    group: int,
    half: bool,
    first_run: int | None = None,
) -> torch.Tensor:
    """One head's entries (n, d) float32 of codes (n, d * bits / 8). low, step: those of the entries, or with first_run of
    all runs, of which the entries' own begin there."""
    x = unpack(codes, bits).float()
    if first_run is None:
        columns = torch.arange(x.shape[1]) // group
        low, step = low[:, columns], step[:, columns]
    else:
        rows = first_run + torch.arange(len(x)) // group
        low, step = low[rows], step[rows]
    x = low.float() + step.float() * x
    return x.half().float() if half else x
