"""Picked entries of several segments copied side by side by the native gather, without putting the segments together."""

from __future__ import annotations

import numpy as np
import torch

from fewer.kernels.native import native
from fewer.kv.segment import Buffer, Meter, Segment


def gather(segments: list[Segment], table: np.ndarray, idx: list[torch.Tensor], meter: Meter) -> Segment | None:
    """Entries idx[h] (ascending places) of each kv-head as one fresh segment; None where the native gather cannot serve.

    table: the segments' native descriptors (S, 4 + 2H). Raises IndexError for places that are not there.
    """
    raw = [s for s in segments if s.k is not None]
    copy = getattr(native, "gather", None)
    if copy is None or not raw or len(raw) < len(segments) or len({s.k.dtype for s in raw if s.k is not None}) > 1:
        return None
    model = raw[0].k
    assert model is not None
    lens = np.array([len(i) for i in idx], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(lens)])
    places = torch.cat(list(idx)).to(torch.int64)
    k, v = (torch.empty(int(first[-1]), model.shape[1], dtype=model.dtype) for _ in range(2))
    pos = torch.empty(len(k), dtype=torch.int32)
    row = model.shape[1] * model.dtype.itemsize
    copy(
        table.ctypes.data, len(table), len(idx), row, places.data_ptr(), first.ctypes.data,
        k.data_ptr(), v.data_ptr(), pos.data_ptr(),
    )  # fmt: skip
    return Segment(Buffer(meter, k.nbytes + v.nbytes + pos.nbytes), k, v, pos, first[:-1], lens)
