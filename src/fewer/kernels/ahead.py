"""What rows read in several layers, known before their queries: PackedStack runs those layers in one call.

Between two steps in which entries are only appended little of it changes: Foreseen.grow() brings it up to date.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fewer.kernels.ranking import HeadRow, Ranking, Read, heads_of, room

Q, END, HELD, HEAD, START = (HeadRow._fields.index(f) for f in ("q", "end", "held", "head", "start"))


class Foreseen:
    """What one row reads, layer by layer; every layer's places are written over the last layer's. Keeps it alive.

    reads: None = all. shape: heads and dimensions of the queries. spare: how many entries grow() may add."""

    def __init__(self, reads: Sequence[Read | None], shape: tuple[int, int], spare: int = 0) -> None:
        ranked = [r.picks for r in reads if r is not None and isinstance(r.picks, Ranking)]
        places = np.empty(max((room(p) + spare * len(p.cuts) for p in ranked), default=0), dtype=np.int64)
        self._alive: list[object] = [reads, places]
        self.picked = np.zeros(len(reads), dtype=np.int64)  # addresses, 0 = all
        rows, of_layer = list[HeadRow](), list[int]()
        for i, r in enumerate(reads):
            if r is None:
                continue
            if isinstance(r.picks, Ranking):
                rows += heads_of(r._replace(at=0), r.picks, places, shape)
                of_layer += [i] * len(r.picks.cuts)
                self.picked[i] = places.ctypes.data
            else:
                own = r.behind.packed(r.picks)
                self._alive.append(own)
                self.picked[i] = own.ctypes.data
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, len(HeadRow._fields))  # row number 0 of the call
        self.of_layer = np.array(of_layer, dtype=np.int64)

    def grow(self, by: np.ndarray) -> None:
        """by (layers,): entries appended since to each kv-head. They are read too, if the layer's row does not read all."""
        more = by[self.of_layer]
        self.rows[:, END] += more
        self.rows[:, HELD] += more
        self.rows[:, START] += self.rows[:, HEAD] * more


class Ahead:
    """What the sequences of a call read in several layers, for PackedStack. Keeps it alive.

    of: a sequence each; None = all that it holds. at: their row numbers."""

    def __init__(self, of: Sequence[Foreseen | None], at: Sequence[int], n_layers: int, shape: tuple[int, int]) -> None:
        """shape: heads and dimensions of the queries."""
        self._alive = of
        self.picked = np.zeros((n_layers, len(of)), dtype=np.int64)
        rows, of_layer = [np.zeros((0, len(HeadRow._fields)), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for i, f in enumerate(of):
            if f is not None:
                self.picked[:, i] = f.picked
                rows.append(f.rows.copy())
                rows[-1][:, Q] += at[i] * shape[0] * shape[1]
                of_layer.append(f.of_layer)
        layers = np.concatenate(of_layer)
        order = layers.argsort(kind="stable")
        self.heads = np.concatenate(rows)[order]
        self.rank_from = np.searchsorted(layers[order], np.arange(n_layers + 1))

    def addresses(self) -> tuple[int, int, int]:
        """Of picked, heads and rank_from."""
        return self.picked.ctypes.data, self.heads.ctypes.data, self.rank_from.ctypes.data
