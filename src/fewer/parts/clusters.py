"""Clusters of keys, and a tree of two levels over them: which entries a query may want is told by comparing few centroids.

k-means on keys of length 1 (cosine), seeded and deterministic; a cluster's centroid is the mean of its keys as they are. The
centroids are clustered again the same way, so that a lookup compares the coarse ones, and then only the fine ones below the
coarse that win. What a centroid says about its N keys is an estimate of their share of the attention:

    s_i = exp(q . c_i) / sum_j N_j exp(q . c_j)             mean over the queries of the kv-head

Does not: update itself when keys are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize


def k_means(x: torch.Tensor, k: int, rounds: int = 8, seed: int = 0) -> torch.Tensor:
    """x (n, d) -> (n,) cluster numbers in 0..k-1, by cosine; some may be empty."""
    unit = normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
    start = torch.randperm(len(unit), generator=torch.Generator().manual_seed(seed))[:k]
    centres = unit[start]
    mine = torch.zeros(len(unit), dtype=torch.int64)
    for _ in range(rounds):
        mine = (unit @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, mine, unit)
        filled = torch.bincount(mine, minlength=k) > 0
        centres = torch.where(filled[:, None], normalize(sums, dim=-1), centres)
    return mine


@dataclass(frozen=True)
class Level:
    """centroids (k, d), sizes (k,), and the members of cluster i: members[first[i] : first[i + 1]] (ascending)."""

    centroids: torch.Tensor
    sizes: torch.Tensor
    members: torch.Tensor
    first: torch.Tensor

    def below(self, chosen: torch.Tensor) -> torch.Tensor:
        """Ascending members of the chosen clusters."""
        parts = [self.members[int(self.first[i]) : int(self.first[i + 1])] for i in chosen.tolist()]
        return torch.cat(parts).sort().values if parts else self.members[:0]

    def share(self, q: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        """q (g, d) scaled -> (k,) estimated attention of one key of each cluster, among those `at` (None = all)."""
        c, n = (self.centroids, self.sizes) if at is None else (self.centroids[at], self.sizes[at])
        z = q.to(c.dtype) @ c.T
        return torch.exp(z - torch.logsumexp(z + n.log(), 1, keepdim=True)).mean(0)


def level(x: torch.Tensor, k: int, weights: torch.Tensor | None = None) -> Level:
    """k clusters of x (n, d), empty ones left out. weights (n,): keys that each x stands for."""
    mine = torch.unique(k_means(x, max(1, min(k, len(x)))), return_inverse=True)[1]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    weights = torch.ones(len(x), dtype=wide.dtype) if weights is None else weights
    count = torch.bincount(mine)
    sizes = torch.zeros(len(count), dtype=wide.dtype).index_add_(0, mine, weights)
    sums = torch.zeros(len(count), wide.shape[1], dtype=wide.dtype).index_add_(0, mine, wide * weights[:, None])
    first = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return Level(sums / sizes[:, None], sizes, mine.sort(stable=True).indices, first)


@dataclass(frozen=True)
class ClusterTree:
    """Two levels: `fine` over the keys, `coarse` over the fine centroids."""

    fine: Level
    coarse: Level

    @classmethod
    def over(cls, keys: torch.Tensor, share: float, ratio: int) -> ClusterTree:
        """keys (n, d) -> a cluster for 1 / share of them, and one above for `ratio` of those."""
        fine = level(keys, max(1, round(share * len(keys))))
        return cls(fine, level(fine.centroids, max(1, len(fine.sizes) // ratio), fine.sizes))

    def find(self, q: torch.Tensor, room: int, reach: float) -> tuple[torch.Tensor, int]:
        """q (g, d) scaled -> ascending entries of the fine clusters that rank highest, at most `room`, and centroids
        compared. Only coarse clusters that hold the best `reach` x room entries are looked into."""
        worth = self.coarse.share(q)
        order = worth.argsort(descending=True, stable=True)
        enough = int((self.coarse.sizes[order].cumsum(0) < reach * room).sum()) + 1
        at = self.coarse.below(order[:enough])
        ranked = at[self.fine.share(q, at).argsort(descending=True, stable=True)]
        fits = int((self.fine.sizes[ranked].cumsum(0) <= room).sum())
        return self.fine.below(ranked[:fits]), len(worth) + len(at)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for part in (self.fine, self.coarse) for t in (part.centroids, part.members, part.first))
