"""Votes: which entries several query heads want most. Each head has one vote, spread by its attention (soft vote).

    mass_j = sum over heads of softmax_j(q_h . k_j),   the `limit` positions of highest mass win

Heads vote for their own kv-head, or all for one choice ("shared"). What is carried between layers or tokens are
positions, so it holds where heads and layers keep different entries. Does not: count what is read; the view does.
"""

from __future__ import annotations

import torch

from fewer.kv.view import View

Positions = list[torch.Tensor]  # per kv-head, ascending


def attention(q: torch.Tensor, view: View) -> list[torch.Tensor]:
    """q (Hq, d) rotated -> per kv-head the softmax (g, n) of its queries over the entries, read segment by segment."""
    out = []
    for h, group in enumerate(q.chunk(view.n_heads)):
        parts = [group @ keys.to(q.dtype).T for keys in view.key_parts(h)]
        z = torch.cat(parts, 1) if parts else q.new_zeros(len(group), 0)
        out.append(torch.softmax(z * q.shape[-1] ** -0.5, -1))
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
    return scores.topk(min(k, len(scores))).indices.sort().values


def places(held: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Where the positions `wanted` stand among those held (both ascending); those not held are left out."""
    if not len(held):
        return torch.zeros(0, dtype=torch.int64)
    at = torch.searchsorted(held, wanted).clamp(max=len(held) - 1)
    return at[held[at] == wanted]
