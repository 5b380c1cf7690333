"""Pooling over places: neighbours of an important token are kept with it, so words are not cut apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import avg_pool1d, max_pool1d


def mean_over_neighbours(scores: torch.Tensor, width: int) -> torch.Tensor:
    """(..., n) -> (..., n): the mean over a centred window of `width` (odd) places; shorter at the ends."""
    if width <= 1 or not scores.numel():
        return scores
    flat = scores.reshape(1, -1, scores.shape[-1])
    return avg_pool1d(flat, width, 1, width // 2, count_include_pad=False).view(scores.shape)


def best_of_neighbours(scores: torch.Tensor, width: int) -> torch.Tensor:
    """(..., n) -> (..., n): the maximum over the same window."""
    if width <= 1 or not scores.numel():
        return scores
    return max_pool1d(scores.reshape(1, -1, scores.shape[-1]), width, 1, width // 2).view(scores.shape)


POOLS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "mean": mean_over_neighbours,
    "max": best_of_neighbours,
}
