"""Scorers: what the entries of a context are worth, by what the model does with them while or after it is read.

One object a request. The context is the first `context` tokens, nothing of it is evicted before it is complete, and
scores are asked for once, layer by layer, as (H, n). Query heads of one kv-head are averaged.

    window     s_j = sum over the newest `window` rows i of p_ij                     SnapKV, PyramidKV, Ada-KV
    expected   s_j = mean of softmax_j(k_j.m + k_j C k_j / 2) * |v_j|                Expected Attention
    keys       s_j = -cos(k_j, mean of k / |k|)                                      KeyDiff
    rebuild    s_j = max of p_ij over rows i that write the context again            KVzip: rebuilding.py

p: attention; m and C: mean and covariance of the queries, scaled and turned to the average of the next `AHEAD`
positions. The first `sinks` entries stay out of the statistics of `expected` and `rebuild`, whom they would drown.
Does not: pool, protect, or allocate (pooling.py, allocation.py).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import pad

from fewer.models.layers import rotate
from fewer.seams import Held, Work
from fewer.types import Told

AHEAD = 512


class Scorer:
    """Evidence in, scores out. `needs` says what the engine must hand out for the rows that `wants` names."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, context: int, window: int, sinks: int) -> None:
        self.context, self.window, self.sinks = context, window, sinks

    def wants(self, pos: np.ndarray) -> np.ndarray:
        """(m,) bool: whether the rows at these positions are evidence."""
        return np.zeros(len(pos), dtype=bool)

    def see(self, layer: int, probs: list[torch.Tensor]) -> None:
        """probs[h] (w, g, n), as in Watcher.watch."""

    def see_queries(self, layer: int, q: torch.Tensor) -> None:
        """q (w, Hq, d), as in Watcher.watch_queries."""

    def study(self, tokens: list[int], told: Told) -> Work:
        """Forwards of its own over the complete context, as in Retain.study."""
        return
        yield

    def score(self, layer: int, held: Held) -> torch.Tensor:
        """(H, n) for the entries of a layer, higher is worth more."""
        raise NotImplementedError


class WindowAttention(Scorer):
    """What the newest rows look at. If they are the question, the choice is aware of it."""

    needs = frozenset({"attention"})

    def __init__(self, context: int, window: int, sinks: int) -> None:
        super().__init__(context, window, sinks)
        self.mass: dict[int, torch.Tensor] = {}

    def wants(self, pos: np.ndarray) -> np.ndarray:
        return (pos >= self.context - self.window) & (pos < self.context)

    def see(self, layer: int, probs: list[torch.Tensor]) -> None:
        for row in torch.stack(probs).double().mean(2).unbind(1):  # one by one: chunks must not change the sum's order
            old = self.mass.get(layer)
            self.mass[layer] = row if old is None else row + grown(old, row.shape[1])

    def score(self, layer: int, held: Held) -> torch.Tensor:
        n = int(held.entries(layer).max())
        old = self.mass.pop(layer, None)
        return torch.zeros(held.n_heads, n, dtype=torch.float64) if old is None else grown(old, n)[:, :n]


class ExpectedAttention(Scorer):
    """What queries like those seen so far will look at, were they Gaussian and at positions still to come."""

    needs = frozenset({"queries"})

    def __init__(self, context: int, window: int, sinks: int) -> None:
        super().__init__(context, window, sinks)
        self.sums: dict[int, tuple[int, torch.Tensor, torch.Tensor]] = {}  # layer -> rows, sum q, sum q q^T

    def wants(self, pos: np.ndarray) -> np.ndarray:
        return (pos >= self.sinks) & (pos < self.context)

    def see_queries(self, layer: int, q: torch.Tensor) -> None:
        q = q.double()
        n, one, two = len(q), q.sum(0), torch.einsum("whi,whj->hij", q, q)
        if layer in self.sums:
            m, old, older = self.sums[layer]
            n, one, two = m + n, old + one, older + two
        self.sums[layer] = n, one, two

    def score(self, layer: int, held: Held) -> torch.Tensor:
        view, lens = held.view(layer), held.entries(layer)
        out = torch.zeros(held.n_heads, int(lens.max()), dtype=torch.float64)
        if layer not in self.sums:
            return out
        n, one, two = self.sums.pop(layer)
        mean = one / n
        spread = two / n - mean[:, :, None] * mean[:, None, :]
        ahead = np.arange(self.context, self.context + AHEAD)
        cos, sin = (t.double().mean(0, keepdim=True) for t in held.angles(layer, ahead))
        mean = rotate(mean[None], cos, sin)[0] * held.scale
        for _ in range(2):  # R C R^T
            spread = rotate(spread.flatten(0, 1)[None], cos, sin)[0].view_as(spread).transpose(1, 2)
        spread = spread * held.scale**2
        g = len(mean) // held.n_heads
        for h in range(held.n_heads):
            k, group = view.keys(h)[self.sinks :].double(), slice(h * g, (h + 1) * g)
            z = mean[group] @ k.T + torch.einsum("ni,gij,nj->gn", k, spread[group], k) / 2
            length = view.values(h)[self.sinks :].double().norm(dim=-1)
            out[h, self.sinks :] = torch.softmax(z, -1).mean(0) * length
        return out


class KeyDistance(Scorer):
    """How unlike the average key a key is."""

    def score(self, layer: int, held: Held) -> torch.Tensor:
        view = held.view(layer)
        return torch.stack([distinct(view.keys(h)) for h in range(held.n_heads)])


def distinct(keys: torch.Tensor) -> torch.Tensor:
    """keys (n, d) -> (n,): minus the cosine between each and the mean of all, every one made of length 1 before."""
    unit = torch.nn.functional.normalize(keys.double(), dim=-1)
    return -(unit @ torch.nn.functional.normalize(unit.mean(0), dim=0))


def grown(x: torch.Tensor, n: int) -> torch.Tensor:
    """x (..., m) with zeros behind it up to length n; as it is if it is longer."""
    return pad(x, (0, max(0, n - x.shape[-1])))
