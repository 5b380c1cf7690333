"""Allocation: who may keep how many entries, and which, once every entry has a score.

All take scores[layer] (H, n_layer), where what must stay scores infinity, and return ascending places [layer][kv-head].
Together they never keep more than budget x layers x heads:

    even      every head of every layer keeps its `budget` best
    pyramid   the same within a layer, but layers shrink from the first to the last in equal steps (PyramidKV)
    heads     a layer's heads share budget x H: each keeps its own `floor` best, the rest goes to the best anywhere (Ada-KV)
    model     the same over all layers and heads at once (KVzip)

Among equal scores the earlier entry stays, so nothing depends on how a sort was made.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

Scores = list[torch.Tensor]
Places = list[list[torch.Tensor]]

SHARES = ("even", "pyramid", "heads", "model")


@dataclass(frozen=True)
class Allocation:
    """budget: entries a head, on average. fixed: how many of them are certain (sinks, window). floor: what a head keeps of
    the remaining budget whatever the others score, a share. taper: an average layer's rest over the last layer's."""

    shares: str
    budget: int
    fixed: int
    floor: float
    taper: float

    def places(self, scores: Scores) -> Places:
        """What stays."""
        if self.shares in ("even", "pyramid"):
            n = max((s.shape[1] for s in scores), default=0)
            sizes = [self.budget] * len(scores) if self.shares == "even" else self.pyramid(len(scores), n)
            return [[best(lane, size) for lane in s] for s, size in zip(scores, sizes)]
        certain = self.fixed + int(self.floor * (self.budget - self.fixed))
        if self.shares == "heads":
            return [shared(list(s), self.budget * len(s), certain) for s in scores]
        lanes = [lane for s in scores for lane in s]
        kept = iter(shared(lanes, self.budget * len(lanes), certain))
        return [[next(kept) for _ in s] for s in scores]

    def pyramid(self, n_layers: int, n: int) -> list[int]:
        """Budget of each layer for n entries: fixed + an arithmetic series whose mean is the rest of the budget."""
        if n_layers == 1:
            return [self.budget]
        rest, free = self.budget - self.fixed, max(0, n - self.fixed)
        low = rest / self.taper
        high = 2 * rest - low
        if high > free:  # the first layer holds no more than this: the last one gets what is left over
            high, low = free, 2 * rest - free
        step = (high - low) / (n_layers - 1)
        ends = [round(sum(high - step * i for i in range(layer))) for layer in range(n_layers + 1)]
        return [self.fixed + b - a for a, b in itertools.pairwise(ends)]


def best(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Ascending places of the k highest of scores (n,)."""
    return scores.sort(descending=True, stable=True).indices[:k].sort().values


def shared(lanes: list[torch.Tensor], total: int, certain: int) -> list[torch.Tensor]:
    """Each lane keeps its `certain` best entries; what is left of `total` goes to the highest scores of all lanes."""
    raised = []
    for lane in lanes:
        lane = lane.clone()
        lane[best(lane, certain)] = float("inf")
        raised.append(lane)
    stays = torch.zeros(sum(map(len, lanes)), dtype=torch.bool)
    stays[best(torch.cat(raised), total)] = True
    return [part.nonzero().flatten() for part in stays.split([len(lane) for lane in lanes])]
