"""The segment tables of a sequence: addresses that the native kernels read, made when segments change."""

from __future__ import annotations

import numpy as np

from fewer.kv.store import Sequence, Store


def sequence_table(store: Store, s: Sequence, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Segment descriptors (L, S, 4 + 2H) and segments a layer (L,), the growing tail last with its committed length."""
    heads, n_layers = store.spec.n_kv_heads, store.spec.n_layers
    if s.table is None or s.table_depth < depth:
        s.table_depth, s.step = depth, None
        s.table_segments = np.array([len(layer) + 1 for layer in s.segments])
        s.table = np.zeros((n_layers, int(s.table_segments.max()), 4 + 2 * heads), dtype=np.int64)
        for layer, segments in enumerate(s.segments[:depth]):
            rows = [seg.table_row() for seg in (*segments, store.tail_segment(s, layer, 0))]
            s.table[layer, : len(rows)] = rows
        s.held = np.array([sum(int(g.len.sum()) for g in layer) for layer in s.segments])
    s.table[np.arange(n_layers), s.table_segments - 1, 4 + heads :] = s.n[:, None]
    return s.table, s.table_segments
