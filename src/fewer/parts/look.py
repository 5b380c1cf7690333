"""What the last rows of a forward look at in one layer: the evidence of transforms that read a prompt to shorten it.

gems   s_j = sum over heads of log p_h(last row -> j)            = q.k summed over heads, up to a constant
mass   s_j = sum over heads and the last `rows` rows of p(row -> j)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.seams import Watcher
from fewer.types import Told


@dataclass
class Look(Watcher):
    """Watches one forward; scores (n,) float over the entries then held and the forward's own, in order."""

    layer: int
    rows: int = 1  # the last rows of the forward whose attention counts
    mass: bool = False  # probabilities are summed instead of their logarithms
    scores: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def probe(self, m: int, told: Told, state: Any) -> np.ndarray:
        return np.arange(max(0, m - self.rows), m)

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Any) -> None:
        if layer == self.layer:
            tiny = torch.finfo(probs[0].dtype).tiny
            of = [p if self.mass else p.clamp_min(tiny).log() for p in probs]
            self.scores = sum(p.sum((0, 1)) for p in of)  # type: ignore[assignment]


def depth_of(share: float, n_layers: int) -> int:
    """A share of the layers as a count that leaves at least one above it."""
    return max(1, min(n_layers - 1, round(share * n_layers)))


def best_places(ranked: torch.Tensor, stay: np.ndarray, budget: int) -> np.ndarray:
    """Ascending places: those that stay (n,) bool, then the highest of ranked (n,) up to `budget` in all."""
    ranked, must = ranked.clone(), torch.from_numpy(stay)
    ranked[must] = float("inf")
    return torch.topk(ranked, max(budget, int(must.sum()))).indices.sort().values.numpy()
