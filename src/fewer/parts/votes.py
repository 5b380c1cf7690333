"""Votes: which entries several query heads want most. Each head has one vote, spread by its attention (soft vote).

    mass_j = sum over heads of softmax_j(q_h . k_j),   the `limit` positions of highest mass win

Heads vote for their own kv-head, or all for one choice ("shared"). What is carried between layers or tokens are
positions, so it holds where heads and layers keep different entries. Does not: count what is read; the view does.
"""

from __future__ import annotations

import numpy as np
import torch

from fewer.kernels.dots import dots
from fewer.kv.view import View

Positions = list[torch.Tensor]  # per kv-head, ascending


def attention(q: torch.Tensor, view: View) -> list[torch.Tensor]:
    """q (Hq, d) rotated -> per kv-head the softmax (g, n) of its queries over the entries, read segment by segment."""
    groups = (q * q.shape[-1] ** -0.5).chunk(view.n_heads)
    keys = [view.key_parts(h) for h in range(view.n_heads)]
    parts = iter(dots([g for g, of in zip(groups, keys) for _ in of], [k for of in keys for k in of]))
    out = []
    for g, of in zip(groups, keys):
        mine = [next(parts) for _ in of]
        out.append(torch.softmax(torch.cat(mine, 1) if mine else g.new_zeros(len(g), 0), -1))
    return out


def favourites(
    held: list[torch.Tensor], probs: list[torch.Tensor], limit: int, shared: bool, allowed: torch.Tensor | None = None
) -> Positions:
    """held[h] (n_h,) positions, probs[h] (g, n_h) -> per kv-head the `limit` positions that get most, ascending.

    allowed: (positions,) bool, which may be chosen; None = all.
    """
    mass = [p.sum(0) for p in probs]
    if shared:
        total = mass[0].new_zeros(1 + max((int(p[-1]) for p in held if len(p)), default=-1))
        for p, m in zip(held, mass):
            total.index_add_(0, p, m)
        if allowed is not None:
            total = total.masked_fill(~allowed[: len(total)], -1.0)
            limit = min(limit, int(allowed[: len(total)].sum()))
        return [top(total, limit).to(torch.int32)] * len(held)
    return [p[top(m, limit)] for p, m in zip(held, mass)]


def top(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Ascending places of the k highest scores."""
    least = max(0, len(scores) - k)
    if scores.is_cpu and 0 < least < len(scores):  # several times as fast as topk where k is large
        return torch.from_numpy(np.sort(np.argpartition(scores.numpy(), least)[least:]))
    return scores.topk(len(scores) - least).indices.sort().values
